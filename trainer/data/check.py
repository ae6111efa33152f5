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
class Look:
    """What one file is: its size, bits a sample, a thumbnail uint8 [96, 96]; or why it cannot be read."""

    width: int = 0
    height: int = 0
    bits: int = 0
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.uint8))
    error: str = ""


def look_at(files: Iterable[str]) -> list[Look]:
    """Read every file once, on all cores."""
    files = list(files)
    with ProcessPoolExecutor(available_cores()) as pool:
        return list(tqdm(pool.map(_look, files, chunksize=32), total=len(files), desc="reading radiographs", unit="file"))


def _look(file: str) -> Look:
    try:
        pixels = read_radiograph(file).pixels
    except (RadiographError, ImportError) as error:
        return Look(error=str(error).removeprefix(f"{file}: "))
    return Look(pixels.shape[1], pixels.shape[0], _bits(file), SMALL.resize(pixels))


def _bits(file: str) -> int:
    """Bits of a sample as stored."""
    try:
        with Image.open(file) as image:
            return {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 16, "F": 32}.get(image.mode, 8)
    except OSError:  # not a picture of Pillow's: DICOM
        import pydicom

        return int(pydicom.dcmread(file, stop_before_pixels=True, force=True).get("BitsStored") or 8)


def find_faults(rows: pd.DataFrame, looks: list[Look], others: list[str]) -> dict[str, Any]:
    """Everything but the shortcuts, as JSON.

    Args:
        rows: the manifest, its `group` as given (empty where the data has none).
        looks: one a row.
        others: files beside the pictures that are none.
    """
    readable = [place for place, look in enumerate(looks) if not look.error]
    copies_found = find_copies(thumbnails(looks, readable)) if readable else Copies([], True)
    near = [(readable[one], readable[two], score) for one, two, score in copies_found.pairs]
    near = [(one, two, score) for one, two, score in near if rows["sha256"][one] != rows["sha256"][two]]
    exact = [list(part.index) for _, part in rows.groupby("sha256") if len(part) > 1]
    same = [(one, two) for places in exact for one, two in pairwise(places)]
    copies = [*same, *((one, two) for one, two, _ in near)]
    names = rows["file"].tolist()
    return {
        "images": len(rows),
        "splits": sorted(set(rows["split"]) - {""}),
        "unreadable": [{"file": names[place], "error": look.error} for place, look in enumerate(looks) if look.error],
        "not_pictures": others,
        "absurd_sizes": [
            {"file": names[place], "width": looks[place].width, "height": looks[place].height}
            for place in readable
            if min(looks[place].width, looks[place].height) < SMALLEST
            or max(looks[place].width, looks[place].height) > NARROWEST * min(looks[place].width, looks[place].height)
        ],
        "exact_copies": [[names[place] for place in places] for places in exact],
        "near_copies": [{"files": [names[one], names[two]], "similarity": round(score, 4)} for one, two, score in near],
        "copy_search_complete": copies_found.complete,
        "label_conflicts": [_pair(rows, one, two, "label") for one, two in copies if rows["label"][one] != rows["label"][two]],
        "copies_across_splits": [_pair(rows, one, two, "split") for one, two in copies if rows["split"][one] != rows["split"][two]],
        "patients_across_splits": [
            {"group": group, "splits": sorted(set(part["split"])), "files": part["file"].tolist()}
            for group, part in rows[rows["group"] != ""].groupby("group")
            if part["split"].nunique() > 1
        ],
        "classes": [_describe_class(label, part, looks) for label, part in rows.groupby("label")],
        "collections": {
            collection: {label: int(count) for label, count in part["label"].value_counts().sort_index().items()}
            for collection, part in rows.groupby("collection")
        },
    }


def leaks(report: dict[str, Any]) -> int:
    """How many copies and patients stand on two sides of the split."""
    return len(report["copies_across_splits"]) + len(report["patients_across_splits"])


def thumbnails(looks: list[Look], places: list[int]) -> np.ndarray:
    """uint8 [N, 96, 96] of those that could be read."""
    return np.stack([looks[place].thumbnail for place in places])


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


def _pair(rows: pd.DataFrame, one: int, two: int, column: str) -> dict[str, Any]:
    return {"files": [rows["file"][one], rows["file"][two]], f"{column}s": [rows[column][one], rows[column][two]]}


def _describe_class(label: Any, part: pd.DataFrame, looks: list[Look]) -> dict[str, Any]:
    seen = [looks[place] for place in part.index if not looks[place].error]
    sizes = pd.Series([f"{look.width}x{look.height}" for look in seen]).value_counts()
    bits = pd.Series([look.bits for look in seen]).value_counts().sort_index()
    return {
        "label": label,
        "images": len(part),
        "splits": {split: int(count) for split, count in part["split"].value_counts().items()},
        "commonest_sizes": {size: int(count) for size, count in sizes.head(3).items()},
        "different_sizes": len(sizes),
        "bits": {str(depth): int(count) for depth, count in bits.items()},
        "black_border": round(float(np.mean([_black_border(look) for look in seen])), 4) if seen else None,
    }


def _black_border(look: Look) -> float:
    """Share of the picture that lies in black rows and columns at its edges."""
    filled = [np.flatnonzero(look.thumbnail.max(axis=axis) >= BLACK) for axis in (0, 1)]
    if not all(len(places) for places in filled):
        return 1.0
    width, height = (places[-1] - places[0] + 1 for places in filled)
    return 1 - width * height / SIDE**2
