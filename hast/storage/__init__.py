"""Files: datasets, checkpoints, the bank, and tables. Only stages open this room."""
