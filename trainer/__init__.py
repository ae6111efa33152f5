"""Chest X-ray classifiers: image folder in, run out. Research demonstration, not a medical device."""

__version__ = "0.1.0"
