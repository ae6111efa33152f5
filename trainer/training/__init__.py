"""Decoded images and a recipe in, the best weights out."""
