"""Many files at once: from uploads and ZIP archives to a table and a CSV file.

Archives are read in memory, never unpacked.
"""

import csv
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from worker import Served

MOST_FILES = 500
MOST_BYTES = 64 * 2**20  # of one image
MAX_EXPANSION_RATIO = 200  # how many times larger than in its archive a file may be: an ordinary film does not pass 20
Picture = tuple[str, Callable[[], str | bytes]]  # its name, and what gives its path or its bytes
MAX_READERS = 8  # images read at the same time, so that they share forward passes
# What zipfile and its decompressors raise on a damaged, encrypted or exotic archive.
DAMAGED = (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet would run


def predict_files(
    predictor: Served, paths: list[str], progress: Callable[[tuple[int, int]], Any] = lambda done: None
) -> list[dict[str, Any]]:
    """A prediction for each file, in their order; one that cannot be read says so and stops none of the others.

    Args:
        paths: uploads; the images of a ZIP archive take its place.
        progress: told (done, known) after each.
    """
    found: list[dict[str, Any]] = []
    pictures = list(islice(_pictures(paths), MOST_FILES + 1))
    if len(pictures) > MOST_FILES:
        pictures[-1] = (
            "…",
            partial(_refuse, f"no more than {MOST_FILES} files are read at once: send the rest separately"),
        )
    with ThreadPoolExecutor(max_workers=MAX_READERS) as workers:  # no more than these are in memory
        for prediction in workers.map(lambda picture: _predict(predictor, *picture), pictures):
            found.append(prediction)
            progress((len(found), len(pictures)))
    return found


def to_csv(predictions: list[dict[str, Any]], labels: list[str]) -> str:
    """Comma-separated values: file, label, a score for each label, decision, familiarity, warnings, error."""
    stream = io.StringIO()
    table = csv.writer(stream)
    table.writerow(
        ["file", "label", *(f"p:{label}" for label in labels), "decision", "familiarity", "warnings", "error"]
    )
    for row in predictions:
        scores = [row["scores"][label] for label in labels] if "scores" in row else [""] * len(labels)
        decision = (row.get("decision") or {}).get("name", "")
        told = [
            row["file"],
            row.get("label", ""),
            *scores,
            decision,
            row.get("familiarity"),
            " ".join(row.get("warnings", [])),
        ]
        table.writerow([_harmless(cell) for cell in (*told, row.get("error", ""))])
    return stream.getvalue()


def _harmless(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _predict(predictor: Served, name: str, read: Callable[[], str | bytes]) -> dict[str, Any]:
    try:
        source = read()
    except ValueError as error:
        return {"file": name, "error": str(error)}
    except DAMAGED:
        return {"file": name, "error": "this file cannot be taken out of its archive"}
    except MemoryError:
        return {"file": name, "error": "this file needs more memory than there is"}
    return predictor(source, name).prediction


def _pictures(paths: list[str]) -> Iterator[Picture]:
    """Each image's name, and what gives its path or its bytes."""
    for path in paths:
        if zipfile.is_zipfile(path):
            yield from _members(path)
        else:
            yield Path(path).name, partial(str, path)


def _members(path: str) -> Iterator[Picture]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                info
                for info in archive.infolist()
                if not info.is_dir()
                and "__MACOSX" not in (parts := PurePosixPath(info.filename).parts)
                and not parts[-1].startswith(".")
            ]
    except (*DAMAGED, ValueError):
        yield Path(path).name, partial(_refuse, "this archive is damaged")
        return
    if not members:
        yield Path(path).name, partial(_refuse, "this archive holds no file")
    for info in members:
        yield PurePosixPath(info.filename.replace("\\", "/")).name, partial(_take, path, info)


def _take(path: str, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1:
        _refuse("this file is encrypted")
    if info.file_size > MOST_BYTES or info.file_size > MAX_EXPANSION_RATIO * max(info.compress_size, 1024):
        _refuse(f"this file is too large when unpacked ({info.file_size / 2**20:.0f} MB)")
    with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        _refuse("this file is larger than its archive says")
    if content[:4] == b"PK\x03\x04":
        _refuse("an archive within an archive is not read")
    return content


def _refuse(reason: str) -> Any:
    raise ValueError(reason)
