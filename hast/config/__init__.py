"""Parameters: the sections of params.yaml, recipes and presets that write them, their reference."""
