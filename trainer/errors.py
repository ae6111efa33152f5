"""The two ways a command can fail, and what goes wrong with the Hub in one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

LOG_IN = "log in (hf auth login, or HF_TOKEN)"


class UsageError(Exception):
    """Wrong use: a flag, a path or a field that cannot be right. Exit code 2."""


class WorkError(Exception):
    """Work that failed half-way: what was done is on disk. Exit code 1."""


@contextmanager
def hub_errors(subject: str, unreadable: type[Exception] = WorkError) -> Iterator[None]:
    """Turns a refusal of the Hub, or a connection that breaks, into one sentence about `subject` with the cure.

    Raises:
        UsageError: a name that no repository can have, or another ValueError.
        unreadable: no such repository or revision, or one that this account may not read.
        WorkError: all else.
    """
    from huggingface_hub import errors as hub

    transport = hub.HfHubHTTPError.__mro__[1]  # HTTPError of the library that this version of the client speaks through
    assert issubclass(transport, Exception)
    try:
        yield
    except UnicodeEncodeError as error:  # in a header
        raise UsageError(f"{subject}: the token holds characters that no token has: {LOG_IN}") from error
    except ValueError as error:
        expected = "expected ORG/NAME: " if isinstance(error, hub.HFValidationError) else ""
        raise UsageError(f"{subject}: {expected}{reason_of(error)}") from error
    except hub.LocalEntryNotFoundError as error:  # nothing in the cache either
        offline = isinstance(error.__cause__, hub.OfflineModeIsEnabled)
        raise (unreadable if offline else WorkError)(f"{subject}: {_explain(error.__cause__ or error)}") from error
    except (transport, RuntimeError, ConnectionError, TimeoutError, hub.LocalTokenNotFoundError) as error:
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
        known = isinstance(cause, hub.RepositoryNotFoundError | hub.RevisionNotFoundError)
        raise (unreadable if known else WorkError)(f"{subject}: {_explain(cause)}") from error
    except OSError as error:  # of the cache or the file of the token
        cure = "set HF_HOME to a folder of your own that can be written"
        raise WorkError(f"{subject}: {error.filename} cannot be used ({error.strerror}): {cure}") from error


def _explain(error: BaseException) -> str:
    from huggingface_hub import errors as hub
    from huggingface_hub import get_token

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub.GatedRepoError):
        return f"gated ({status}): ask for access on the repository's page, then {LOG_IN} as who asked"
    if isinstance(error, hub.RepositoryNotFoundError):
        private = "private and not for the account of your token" if get_token() else "private"
        return f"no such repository, or it is {private} ({status}): check the name, or {LOG_IN} as who may read it"
    if isinstance(error, hub.RevisionNotFoundError):
        return "the repository has no such branch, tag or commit"
    if isinstance(error, hub.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and the cache does not hold it: unset that to ask the Hub"
    refused = status in (401, 403) or isinstance(error, hub.LocalTokenNotFoundError)
    final = status in range(400, 500) and status not in (408, 409, 412, 429)  # it would be refused again
    again = "mend that, then run the command again" if final else "run the command again, it goes on"
    cure = f"{LOG_IN} with a token that may do this" if refused else again
    message = getattr(error, "server_message", None) or reason_of(error)
    return f"failed ({type(error).__name__}{f' {status}' if status else ''}: {message}): {cure}"


def hub_refusal(error: BaseException | None) -> str:
    """Why the Hub refused what a library tried that wraps its errors, with the cure; empty where it did not."""
    from huggingface_hub import errors as hub

    while error and not isinstance(error, hub.RepositoryNotFoundError | hub.RevisionNotFoundError):
        error = error.__cause__ or error.__context__
    return _explain(error) if error else ""


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, without tokens, or its kind where it says nothing."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"(Bearer |hf_)[^\s'\"]+", r"\1…", line.strip())
