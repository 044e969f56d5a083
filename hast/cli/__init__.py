"""The command line, `hast ...`: a module for each group of commands."""
