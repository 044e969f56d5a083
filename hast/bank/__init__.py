"""The bank of hard samples: its record and card, its files, and how it is checked and shared."""
