"""Where the lungs and the findings are, for data that says so: masks and boxes, drawn on the grid that a model sees."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from trainer.errors import UsageError

LUNGS, LESIONS = "lung_masks.csv", "lesion_boxes.csv"  # looked for beside the data and in the folder above
CORNERS = ("x0", "y0", "x1", "y1")
Masks = dict[int, np.ndarray]  # by the place of an image's row: bool [height, width]


def load_lung_masks(data: str, rows: pd.DataFrame, height: int, width: int) -> Masks:
    """The lung fields of images whose data has masks of them.

    They are named by the column `mask` of a manifest, as `cxr data get` writes it (`;` between the masks of one
    image), or by a lung_masks.csv with `file,mask`. Paths are relative to the table.

    Raises:
        UsageError: a mask that is named cannot be read.
    """
    data = os.path.expanduser(data)
    masks: dict[str, str] = {}
    for table in (_manifest(data), _beside(data, LUNGS)):
        if table is None or "mask" not in (found := _read(table, "file")):
            continue
        for file, named in zip(found["file"], found["mask"], strict=True):
            if named:
                masks[_place(table, file)] = ";".join(_place(table, part) for part in named.split(";"))
    named = [(place, masks[file]) for place, file in enumerate(map(os.path.normpath, rows["file"])) if file in masks]
    return {
        place: np.logical_or.reduce([_load(part, height, width) for part in files.split(";")]) for place, files in named
    }


def load_lesion_masks(data: str, rows: pd.DataFrame, height: int, width: int) -> Masks:
    """The findings of images whose data has them: boxes of a lesion_boxes.csv, or the masks that phantoms have beside
    them.

    The table has `file,x0,y0,x1,y1`, a box a line, as fractions of the image. A phantom DIR/<Label>/X.png has its
    mask at DIR_masks/<Label>/X.png; where DIR came from `cxr data get`, DIR_masks holds lungs and is not taken.

    Raises:
        UsageError: the table lacks a column or holds something else than fractions, or a mask cannot be read.
    """
    data = os.path.expanduser(data)
    table = _beside(data, LESIONS)
    if table is None:
        root = Path(data)
        folder = root.with_name(f"{root.name}_masks")
        if not root.is_dir() or (root / "SOURCE.json").exists() or not folder.is_dir():
            return {}
        files = [folder / Path(file).relative_to(root.absolute()).with_suffix(".png") for file in rows["file"]]
        return {place: _load(str(file), height, width) for place, file in enumerate(files) if file.is_file()}
    found = _read(table, "file", *CORNERS)
    try:
        boxes = found[list(CORNERS)].astype(float).to_numpy()
    except ValueError as error:
        raise UsageError(f"{table}: {', '.join(CORNERS)} must be fractions of the image ({error})") from error
    places = {file: place for place, file in enumerate(map(os.path.normpath, rows["file"]))}
    marks: Masks = {}
    for file, (left, top, right, bottom) in zip(found["file"], boxes, strict=True):
        place = places.get(_place(table, file))
        if place is not None:
            mark = marks.setdefault(place, np.zeros((height, width), bool))
            mark[
                round(top * height) : max(round(bottom * height), 1), round(left * width) : max(round(right * width), 1)
            ] = True
    return marks


def _manifest(data: str) -> Path | None:
    path = Path(data) / "manifest.csv" if Path(data).is_dir() else Path(data)
    return path if path.is_file() else None


def _beside(data: str, name: str) -> Path | None:
    folder = Path(data).absolute().parent
    return next((place / name for place in (Path(data), folder, folder.parent) if (place / name).is_file()), None)


def _read(table: Path, *columns: str) -> pd.DataFrame:
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    missing = [column for column in columns if column not in rows]
    if missing:
        raise UsageError(f"{table}: no column {', '.join(missing)}")
    return rows


def _place(table: Path, file: str) -> str:
    return os.path.normpath(table.parent.absolute() / file)


def _load(file: str, height: int, width: int) -> np.ndarray:
    try:
        with Image.open(file) as mask:
            return np.asarray(mask.convert("L").resize((width, height))) > 127
    except OSError as error:
        raise UsageError(f"{file}: a mask that cannot be read ({error})") from error
