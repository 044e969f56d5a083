"""What pages are made of; a package, so that only what fills templates depends on them."""
