"""Files that are written whole or not at all: beside their place first, then moved there."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import WorkError, reason_of

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A path to write to; the file takes the place of `target` when the block ends; WorkError where it cannot be."""
    with writing_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        os.close(handle)
        try:
            yield Path(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def writing_errors(folder: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turns what a writer raises where the disk is full or closed to it into a WorkError that names the folder."""
    try:
        yield
    except errors as error:
        cure = "make room there, or name another (HF_HOME: the cache); what was finished is kept; --resume goes on"
        raise WorkError(f"{folder} cannot be written ({reason_of(error)}): {cure}") from error


def write_bytes(target: Path, content: bytes) -> None:
    """Write a binary file."""
    with atomic_write(target) as file:
        file.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    write_bytes(target, text.encode())


def write_json(target: Path, content: Any) -> None:
    """Write a JSON file; an undefined value is null, never NaN."""
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(target: Path, table: "pd.DataFrame") -> None:
    """Write a CSV."""
    with atomic_write(target) as file:
        table.to_csv(file, index=False)


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is none.
        WorkError: it is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, brackets without end
        raise WorkError(f"{file} is damaged ({error})") from error
