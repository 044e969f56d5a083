"""The benchmark: the engine against the method written plainly, side by side in one run."""
