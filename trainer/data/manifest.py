"""The manifest: one row an image, with its label, split, group, collection and sha256."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from trainer.files import write_table

SPLITS = ("train", "validation", "test", "external")
SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "testing": "test",
}  # as folders and columns say it
SPLIT_NAMES |= dict.fromkeys(("val", "valid", "dev"), "validation")
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".dcm", ".dicom"}
COLUMNS = ("file", "label", "split", "group", "collection", "sha256")


@dataclass
class Manifest:
    """Rows with COLUMNS (`file` absolute; `split`, `group`, `collection` may be empty), what a user should be told, and
    the files in the class folders that are no images."""

    rows: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def write_manifest(rows: pd.DataFrame, target: Path) -> None:
    """Write rows as a manifest CSV, their paths relative to it where they lie below its folder."""
    root = target.absolute().parent
    files = [os.path.relpath(file, root) if Path(file).is_relative_to(root) else file for file in rows["file"]]
    write_table(target, rows[list(COLUMNS)].assign(file=files))


def available_cores() -> int:
    """How many processor cores this process may use: containers and batch systems often grant fewer than the machine
    has.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
