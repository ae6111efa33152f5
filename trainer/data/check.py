"""What is wrong with a set of radiographs: files, copies, labels, splits. Looks; changes nothing."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from trainer.cxr_model import CxrImageProcessor, RadiographError, thumbnail
from trainer.data.copies import SIDE, Copies, find_copies
from trainer.data.pixels import DECODE, add_comparison
from trainer.hardware import available_cores

SMALL = CxrImageProcessor(size={"height": SIDE, "width": SIDE})


@dataclass(frozen=True)
class FileInfo:
    """What one file is: its size, what the reader doubts, a thumbnail uint8 [96, 96]; or why it cannot be read."""

    width: int = 0
    height: int = 0
    warnings: str = ""
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.uint8))
    error: str = ""


def inspect_files(files: Iterable[str]) -> list[FileInfo]:
    """Read every file once, on all cores."""
    files = list(files)
    with ProcessPoolExecutor(available_cores()) as pool:
        infos = pool.map(_inspect, files, chunksize=32)
        return list(tqdm(infos, total=len(files), desc="reading radiographs", unit="file"))


def _inspect(file: str) -> FileInfo:
    try:
        radiograph = SMALL.read(file, DECODE)
    except (RadiographError, ImportError) as error:
        return FileInfo(error=str(error).removeprefix(f"{file}: "))
    height, width = radiograph.pixels.shape
    return FileInfo(width, height, ",".join(radiograph.warnings), SMALL.resize(radiograph.pixels))


def find_faults(rows: pd.DataFrame, infos: list[FileInfo], others: list[str]) -> dict[str, Any]:
    """Everything but the shortcuts, as JSON.

    Args:
        rows: the manifest, its `group` as given (empty where the data has none).
        infos: one a row.
        others: files beside the images that are not used.
    """
    readable = [number for number, info in enumerate(infos) if not info.error]
    search = find_copies(thumbnails(infos)) if readable else Copies([], True)
    near = [(readable[one], readable[two], score) for one, two, score in search.pairs]
    near = [(one, two, score) for one, two, score in near if rows["sha256"][one] != rows["sha256"][two]]
    exact = [list(part.index) for _, part in rows.groupby("sha256") if len(part) > 1]
    pairs = [pair for numbers in exact for pair in pairwise(numbers)] + [(one, two) for one, two, _ in near]
    names = rows["file"].tolist()
    placed = rows["split"] != ""  # `cxr data split` fills the others
    copies = _differing(rows, [(one, two) for one, two in pairs if placed[one] and placed[two]], "split")
    patients = [
        {"group": group, "splits": sorted(set(part["split"])), "files": part["file"].tolist()}
        for group, part in rows[placed & (rows["group"] != "")].groupby("group")
        if part["split"].nunique() > 1
    ]
    return {
        "images": len(rows),
        "splits": sorted(set(rows["split"]) - {""}),
        "unreadable": [
            {"file": file, "error": info.error} for file, info in zip(names, infos, strict=True) if info.error
        ],
        "not_images": others,
        "doubtful": [{"file": names[number], "warnings": codes} for number, codes in _doubts(infos, readable) if codes],
        "exact_copies": [[names[number] for number in numbers] for numbers in exact],
        "near_copies": [{"files": [names[one], names[two]], "similarity": round(score, 4)} for one, two, score in near],
        "copy_search_complete": search.complete,
        "label_conflicts": _differing(rows, pairs, "label"),
        "copies_across_splits": copies,
        "patients_across_splits": patients,
        "leaks": len(copies) + len(patients),
        "classes": [_describe_class(label, part, infos) for label, part in rows.groupby("label")],
        "collections": {
            name: part["label"].value_counts().sort_index().to_dict() for name, part in rows.groupby("collection")
        },
    }


def _doubts(infos: list[FileInfo], readable: list[int]) -> Iterable[tuple[int, str]]:
    """Row numbers and what makes each image seem to be no sound radiograph."""
    if not readable:
        return []
    outlines = np.stack([thumbnail(infos[number].thumbnail).reshape(-1) for number in readable])
    warnings = [infos[number].warnings for number in readable]
    return zip(readable, add_comparison(warnings, outlines), strict=True)


def thumbnails(infos: list[FileInfo]) -> np.ndarray:
    """uint8 [N, 96, 96] of the files that can be read, at least one."""
    return np.stack([info.thumbnail for info in infos if not info.error])


def border_pixels(pictures: np.ndarray) -> np.ndarray:
    """The rim of uint8 [N, 96, 96] thumbnails, 8 pixels wide, 4 x 4 pixels averaged: [N, 176] in 0..1."""
    cells = pictures.reshape(len(pictures), 24, 4, 24, 4).mean((2, 4)) / 255
    inside = np.zeros((24, 24), bool)
    inside[2:-2, 2:-2] = True
    return cells[:, ~inside]


def global_statistics(pictures: np.ndarray) -> np.ndarray:
    """Mean, deviation, percentiles 5, 50 and 95, mean gradient of uint8 [N, 96, 96] thumbnails: [N, 6] in 0..1."""
    return np.concatenate([_statistics(pictures[start : start + 256]) for start in range(0, len(pictures), 256)])


def _statistics(pictures: np.ndarray) -> np.ndarray:
    flat = pictures.reshape(len(pictures), -1) / 255
    gradient = sum(np.abs(np.diff(pictures.astype(np.int16), axis=axis)).mean((1, 2)) for axis in (1, 2)) / 510
    return np.column_stack([flat.mean(1), flat.std(1), *np.percentile(flat, (5, 50, 95), axis=1), gradient])


def _differing(rows: pd.DataFrame, pairs: list[tuple[int, int]], column: str) -> list[dict[str, Any]]:
    """Pairs of row numbers that differ in a column."""
    files, values = rows["file"], rows[column]
    return [
        {"files": [files[one], files[two]], f"{column}s": [values[one], values[two]]}
        for one, two in pairs
        if values[one] != values[two]
    ]


def _describe_class(label: Any, part: pd.DataFrame, infos: list[FileInfo]) -> dict[str, Any]:
    readable = [infos[number] for number in part.index if not infos[number].error]
    sizes = pd.Series([f"{info.width}x{info.height}" for info in readable]).value_counts()
    return {
        "label": label,
        "images": len(part),
        "splits": part["split"].value_counts().to_dict(),
        "commonest_sizes": sizes.head(3).to_dict(),
        "different_sizes": len(sizes),
    }
