"""What is wrong with a set of radiographs: files, copies, labels, splits. Looks; changes nothing."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from trainer.cxr_model import CxrImageProcessor, RadiographError, read_radiograph
from trainer.data.copies import SIDE, Copies, find_copies
from trainer.data.manifest import available_cores

SMALLEST, NARROWEST = 64, 3.0  # a side below this many pixels or a longer side this many times the shorter is absurd
BLACK = 10  # grey values below this count as black border
SMALL = CxrImageProcessor(size={"height": SIDE, "width": SIDE})
STATISTICS = ("mean", "standard deviation", "5th percentile", "median", "95th percentile", "mean gradient")


@dataclass(frozen=True)
class FileInfo:
    """What one file is: its size, bits a sample, a thumbnail uint8 [96, 96]; or why it cannot be read."""

    width: int = 0
    height: int = 0
    bits: int = 0
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.uint8))
    error: str = ""


def inspect_files(files: Iterable[str]) -> list[FileInfo]:
    """Read every file once, on all cores."""
    files = list(files)
    with ProcessPoolExecutor(available_cores()) as pool:
        return list(
            tqdm(pool.map(_inspect, files, chunksize=32), total=len(files), desc="reading radiographs", unit="file")
        )


def _inspect(file: str) -> FileInfo:
    try:
        pixels = read_radiograph(file).pixels
    except (RadiographError, ImportError) as error:
        return FileInfo(error=str(error).removeprefix(f"{file}: "))
    return FileInfo(pixels.shape[1], pixels.shape[0], _bits(file), SMALL.resize(pixels))


def _bits(file: str) -> int:
    """Bits of a sample as stored."""
    try:
        with Image.open(file) as image:
            return {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 16, "F": 32}.get(image.mode, 8)
    except OSError:  # not an image of Pillow's: DICOM
        import pydicom

        return int(pydicom.dcmread(file, stop_before_pixels=True, force=True).get("BitsStored") or 8)


def find_faults(rows: pd.DataFrame, infos: list[FileInfo], others: list[str]) -> dict[str, Any]:
    """Everything but the shortcuts, as JSON.

    Args:
        rows: the manifest, its `group` as given (empty where the data has none).
        infos: one a row.
        others: files beside the images that are none.
    """
    readable = [number for number, info in enumerate(infos) if not info.error]
    search = find_copies(thumbnails(infos, readable)) if readable else Copies([], True)
    near = [(readable[one], readable[two], score) for one, two, score in search.pairs]
    near = [(one, two, score) for one, two, score in near if rows["sha256"][one] != rows["sha256"][two]]
    exact = [list(part.index) for _, part in rows.groupby("sha256") if len(part) > 1]
    pairs = [pair for numbers in exact for pair in pairwise(numbers)] + [(one, two) for one, two, _ in near]
    names = rows["file"].tolist()
    return {
        "images": len(rows),
        "splits": sorted(set(rows["split"]) - {""}),
        "unreadable": [
            {"file": file, "error": info.error} for file, info in zip(names, infos, strict=True) if info.error
        ],
        "not_images": others,
        "absurd_sizes": [
            {"file": names[number], "width": infos[number].width, "height": infos[number].height}
            for number in readable
            if _is_absurd(infos[number])
        ],
        "exact_copies": [[names[number] for number in numbers] for numbers in exact],
        "near_copies": [{"files": [names[one], names[two]], "similarity": round(score, 4)} for one, two, score in near],
        "copy_search_complete": search.complete,
        "label_conflicts": _differing(rows, pairs, "label"),
        "copies_across_splits": _differing(rows, pairs, "split"),
        "patients_across_splits": _patients_across_splits(rows),
        "classes": [_describe_class(label, part, infos) for label, part in rows.groupby("label")],
        "collections": {
            collection: {label: int(count) for label, count in part["label"].value_counts().sort_index().items()}
            for collection, part in rows.groupby("collection")
        },
    }


def _is_absurd(info: FileInfo) -> bool:
    short, long = sorted((info.width, info.height))
    return short < SMALLEST or long > NARROWEST * short


def _patients_across_splits(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {"group": group, "splits": sorted(set(part["split"])), "files": part["file"].tolist()}
        for group, part in rows[rows["group"] != ""].groupby("group")
        if part["split"].nunique() > 1
    ]


def leaks(report: dict[str, Any]) -> int:
    """How many copies and patients stand on two sides of the split."""
    return len(report["copies_across_splits"]) + len(report["patients_across_splits"])


def thumbnails(infos: list[FileInfo], places: list[int]) -> np.ndarray:
    """uint8 [N, 96, 96] of those that could be read."""
    return np.stack([infos[place].thumbnail for place in places])


def border_pixels(pictures: np.ndarray) -> np.ndarray:
    """The rim of uint8 [N, 96, 96] thumbnails, 8 pixels wide, 4 x 4 pixels averaged: [N, 176] in 0..1."""
    cells = pictures.reshape(len(pictures), 24, 4, 24, 4).mean((2, 4)) / 255
    inside = np.zeros((24, 24), bool)
    inside[2:-2, 2:-2] = True
    return cells[:, ~inside]


def global_statistics(pictures: np.ndarray) -> np.ndarray:
    """STATISTICS of uint8 [N, 96, 96] thumbnails, [N, 6] in 0..1."""
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
    seen = [infos[place] for place in part.index if not infos[place].error]
    sizes = pd.Series([f"{info.width}x{info.height}" for info in seen]).value_counts()
    bits = pd.Series([info.bits for info in seen]).value_counts().sort_index()
    return {
        "label": label,
        "images": len(part),
        "splits": {split: int(count) for split, count in part["split"].value_counts().items()},
        "commonest_sizes": {size: int(count) for size, count in sizes.head(3).items()},
        "different_sizes": len(sizes),
        "bits": {str(depth): int(count) for depth, count in bits.items()},
        "black_border": round(float(np.mean([_black_border(info) for info in seen])), 4) if seen else None,
    }


def _black_border(info: FileInfo) -> float:
    """Share of the image that lies in black rows and columns at its edges."""
    filled = [np.flatnonzero(info.thumbnail.max(axis=axis) >= BLACK) for axis in (0, 1)]
    if not all(len(places) for places in filled):
        return 1.0
    width, height = (places[-1] - places[0] + 1 for places in filled)
    return 1 - width * height / SIDE**2
