"""Where the lungs and the findings are, for data that says so: masks and boxes, drawn on the grid that a model sees."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from trainer.cxr_model import RadiographError, read_radiograph
from trainer.data.metadata import locate, read_table
from trainer.data.pixels import DECODE
from trainer.errors import UsageError

LUNGS, LESIONS = "lung_masks.csv", "lesion_boxes.csv"  # looked for beside the data and in the folder above
CORNERS = ("x0", "y0", "x1", "y1")
Masks = dict[int, np.ndarray]  # by the number of an image's row: bool [height, width]


def load_lung_masks(data: str, rows: pd.DataFrame, height: int, width: int) -> Masks:
    """The lung fields of images whose data has masks of them.

    They are named by the column `mask` of a manifest, as `cxr data get` writes it (`;` between the masks of one
    image), or by a lung_masks.csv with `file,mask`. Paths are relative to the table.

    Raises:
        UsageError: a mask that is named cannot be read.
    """
    root = Path(data).expanduser()
    manifest = root / "manifest.csv" if root.is_dir() else root
    masks: Masks = {}
    for table in (manifest, _beside(root, LUNGS)):
        if table is None or not table.is_file():
            continue
        listed = _read(table, rows, "file").reindex(columns=["mask"], fill_value="")
        for number, names in zip(listed.index, listed["mask"], strict=True):
            if names:
                parts = [_load(locate(table.parent, name), height, width) for name in names.split(";")]
                masks[number] = np.logical_or.reduce(parts)
    return masks


def load_lesion_masks(data: str, rows: pd.DataFrame, height: int, width: int) -> Masks:
    """The findings of images whose data has them: boxes of a lesion_boxes.csv, or the masks that phantoms have beside
    them.

    The table has `file,x0,y0,x1,y1`, a box a line, as fractions of the image. A phantom DIR/<Label>/X.png has its
    mask at DIR_masks/<Label>/X.png; where DIR came from `cxr data get`, DIR_masks holds lungs and is not taken.

    Raises:
        UsageError: the table lacks a column or holds something else than fractions, or a mask cannot be read.
    """
    root = Path(data).expanduser()
    table = _beside(root, LESIONS)
    if table is None:
        folder = root.with_name(f"{root.name}_masks")
        if not root.is_dir() or (root / "SOURCE.json").exists() or not folder.is_dir():
            return {}
        files = [folder / Path(file).relative_to(root.absolute()).with_suffix(".png") for file in rows["file"]]
        return {number: _load(str(file), height, width) for number, file in enumerate(files) if file.is_file()}
    listed = _read(table, rows, "file", *CORNERS)
    corners = listed[list(CORNERS)].apply(pd.to_numeric, errors="coerce").to_numpy()
    wrong = listed["file"][~((corners >= 0) & (corners <= 1)).all(axis=1)]
    if len(wrong):
        raise UsageError(
            f"{table}: {', '.join(CORNERS)} must be fractions of the image, 0 to 1 (first: {wrong.iloc[0]})"
        )
    boxes = corners * [width, height, width, height]
    masks: Masks = {}
    for number, (left, top, right, bottom) in zip(listed.index, boxes, strict=True):
        mask = masks.setdefault(number, np.zeros((height, width), bool))
        mask[round(top) : max(round(bottom), 1), round(left) : max(round(right), 1)] = True
    return masks


def _beside(root: Path, name: str) -> Path | None:
    folder = root.absolute().parent
    return next((near / name for near in (root, folder, folder.parent) if (near / name).is_file()), None)


def _read(table: Path, rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The lines of a table that name one of the images, by the number of its row."""
    listed, _ = read_table(table)
    if missing := [column for column in columns if column not in listed]:
        raise UsageError(f"{table}: no column {', '.join(missing)}")
    number_of = {os.path.normpath(file): number for number, file in enumerate(rows["file"])}
    files = [os.path.normpath(locate(table.parent, file)) for file in listed["file"]]
    listed.index = pd.Index([number_of.get(file, -1) for file in files])
    return listed[listed.index >= 0]


def _load(file: str, height: int, width: int) -> np.ndarray:
    try:
        mask = Image.fromarray(read_radiograph(file, DECODE).pixels)
    except RadiographError as error:
        raise UsageError(f"a mask that cannot be read: {error}") from error
    return np.asarray(mask.resize((width, height))) > 127
