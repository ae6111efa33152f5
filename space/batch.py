"""Many files at once: from uploads and ZIP archives to a table and a CSV file.

Archives are read in memory, never unpacked.
"""

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from answer import printable
from worker import Served

MOST_FILES = 500
MOST_BYTES = 64 * 2**20  # of one image
MAX_EXPANSION_RATIO = 200  # how many times larger than in its archive a file may be: an ordinary film does not pass 20
MAX_READERS = 8  # images read at the same time, so that they share forward passes
# What zipfile and its decompressors raise on a damaged, encrypted or exotic archive.
DAMAGED = (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
LITTER = {"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini"}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet would run


@dataclass
class Entry:
    """A file to classify: an upload at `path`, or a `member` of the archive there; with `error`, why it is not read."""

    name: str
    path: str
    member: zipfile.ZipInfo | None = None
    error: str = ""


def predict_files(
    predictor: Served, paths: list[str], progress: Callable[[tuple[int, int]], Any] = lambda done: None
) -> list[dict[str, Any]]:
    """A prediction for each file, in their order; one that cannot be read says so and stops none of the others.

    Args:
        predictor: the model.
        paths: uploads; the images of a ZIP archive take its place, named by their path within it. Of two or more
            archives that path begins with the archive's name; what still has the name of another is numbered.
        progress: called with (done, all) after each.
    """
    entries = list(islice(_entries(paths), MOST_FILES + 1))
    if len(entries) > MOST_FILES:
        entries[-1] = Entry(
            "…", "", error=f"no more than {MOST_FILES} files are read at once: send the rest separately"
        )
    predictions: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max_workers=MAX_READERS) as workers:  # no more than these are in memory
        for prediction in workers.map(lambda entry: _predict(predictor, entry), entries):
            predictions.append(prediction)
            progress((len(predictions), len(entries)))
    return predictions


def to_table(predictions: list[dict[str, Any]], labels: list[str]) -> pd.DataFrame:
    """Columns file, label, p:<label> for each label, decision, familiarity, warnings, error; empty where unknown."""
    rows = [
        {
            **row,
            **{f"p:{label}": score for label, score in row.get("scores", {}).items()},
            "decision": (row.get("decision") or {}).get("name"),
            "warnings": " ".join(row.get("warnings", [])),
        }
        for row in predictions
    ]
    scores = [f"p:{label}" for label in labels]
    return pd.DataFrame(rows, columns=["file", "label", *scores, "decision", "familiarity", "warnings", "error"])


def to_csv(predictions: list[dict[str, Any]], labels: list[str]) -> str:
    """`to_table` as comma-separated values, without a cell that a spreadsheet takes for a formula."""
    table: pd.DataFrame = to_table(predictions, labels).map(_escape_formula)
    return table.to_csv(index=False, lineterminator="\r\n")


def _escape_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _predict(predictor: Served, entry: Entry) -> dict[str, Any]:
    try:
        if entry.error:
            raise ValueError(entry.error)
        source = _read_member(entry.path, entry.member) if entry.member else entry.path
    except ValueError as error:
        return {"file": entry.name, "error": str(error)}
    except DAMAGED:
        return {"file": entry.name, "error": "this file cannot be taken out of its archive"}
    except MemoryError:
        return {"file": entry.name, "error": "this file needs more memory than there is"}
    return predictor(source, entry.name).prediction


def _entries(paths: list[str]) -> Iterator[Entry]:
    """All images, each with a name of its own."""
    archives = [path for path in paths if _is_archive(path)]
    names: set[str] = set()
    for path in paths:
        prefix = f"{Path(path).name}/" if len(archives) > 1 else ""
        for entry in _members(path, prefix) if path in archives else [Entry(Path(path).name, path)]:
            entry.name = printable(entry.name)
            number, name = 1, entry.name
            while entry.name in names:
                number += 1
                entry.name = f"{name} ({number})"
            names.add(entry.name)
            yield entry


def _members(path: str, prefix: str) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (*DAMAGED, ValueError):
        yield Entry(Path(path).name, path, error="this archive is damaged or incomplete: send it again")
        return
    films = {info: _parts(info) for info in members if not _is_litter(info)}
    for info, parts in films.items():
        yield Entry(prefix + "/".join(parts), path, info)
    if not films:
        yield Entry(Path(path).name, path, error="this archive holds no file")


def _is_archive(path: str) -> bool:
    """Whether a file ends as a ZIP archive does, with the list of its members, or begins so and was cut off."""
    with suppress(OSError), open(path, "rb") as stream:
        return stream.read(4) == b"PK\x03\x04" or zipfile.is_zipfile(stream)
    return False


def count_litter(paths: list[str]) -> int:
    """How many files of archives are no one's films: hidden, or left by macOS or Windows."""
    count = 0
    for path in filter(zipfile.is_zipfile, paths):
        with suppress(*DAMAGED, ValueError), zipfile.ZipFile(path) as archive:
            count += sum(_is_litter(info) for info in archive.infolist() if not info.is_dir())
    return count


def _parts(info: zipfile.ZipInfo) -> list[str]:
    """The path of a member, without what leads out of the archive."""
    return [part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _is_litter(info: zipfile.ZipInfo) -> bool:
    parts = _parts(info)
    return not parts or parts[-1].startswith(".") or not LITTER.isdisjoint(part.lower() for part in parts)


def _read_member(path: str, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1:
        raise ValueError("this file is encrypted")
    if info.file_size > MOST_BYTES or info.file_size > MAX_EXPANSION_RATIO * max(info.compress_size, 1024):
        raise ValueError(f"this file is too large when unpacked ({info.file_size / 2**20:.0f} MB)")
    with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError("this file is larger than its archive says")
    if content[:4] == b"PK\x03\x04":
        raise ValueError("an archive within an archive is not read")
    return content
