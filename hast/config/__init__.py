"""Parameters: the sections of params.yaml, and the recipes and presets that write them."""
