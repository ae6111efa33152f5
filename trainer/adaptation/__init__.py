"""A run and a hospital's own films in, a run out: its threshold and its calibration, chosen by those films."""
