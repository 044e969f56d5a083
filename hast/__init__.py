"""HAST: make a trained vision network small without its data."""

__version__ = "0.1.0"
