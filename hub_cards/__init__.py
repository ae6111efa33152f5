"""A run in, a Hub repository out. Reads a run's files and imports nothing of the trainer."""
