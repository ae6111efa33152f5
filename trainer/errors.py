"""The two ways a command can fail."""


class UsageError(Exception):
    """Wrong use: a flag, a path or a field that cannot be right. Exit code 2."""


class WorkError(Exception):
    """Work that failed half-way: what was done is on disk. Exit code 1."""


def reason_of(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
