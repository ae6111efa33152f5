"""Scores and labels in, figures with intervals out."""
