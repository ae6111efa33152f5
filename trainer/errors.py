"""The two ways a command can fail."""


class UsageError(Exception):
    """Wrong use: a flag, a path or a field that cannot be right. Exit code 2."""


class WorkError(Exception):
    """Work that failed half-way: what was done is on disk. Exit code 1."""
