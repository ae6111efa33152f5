"""Files in, pixels and splits out."""
