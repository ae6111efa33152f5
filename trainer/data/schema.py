"""What a manifest holds, one row an image: the names of its columns and splits, and what was left out of it."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

SPLITS = ("train", "validation", "test", "external")
SPLIT_NAMES = {**dict(zip(SPLITS, SPLITS, strict=True)), "training": "train", "testing": "test"}
SPLIT_NAMES |= dict.fromkeys(("val", "valid", "validating", "dev"), "validation")
COLUMNS = ("file", "label", "split", "group", "collection", "sha256")
SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif"}
SUFFIXES |= {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm"}
SUFFIXES |= {".dcm", ".dicom", ".dic", ".ima"}  # files named otherwise are images where they begin as DICOM does


@dataclass
class Manifest:
    """Rows with COLUMNS (`file` absolute; `split`, `group`, `collection` may be empty), what a user should know, and
    the files that were seen and are not used, by reason."""

    rows: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, files: Iterable[str | Path]) -> None:
        """Count files that are not used."""
        names = [os.fsencode(file).decode("utf-8", "backslashreplace") for file in files]
        if names:
            self.left_out.setdefault(reason, []).extend(names)

    @property
    def others(self) -> list[str]:
        """The files that are not used, whatever the reason."""
        return [file for files in self.left_out.values() for file in files]

    @property
    def left_out_note(self) -> list[str]:
        """One sentence that counts the files that are not used, by reason."""
        counts = [f"{len(files)} {reason} (first: {files[0]})" for reason, files in self.left_out.items()]
        return [f"{len(self.others)} files were seen and are not used: {'; '.join(counts)}"] if counts else []


def split_name(text: str) -> str:
    """The split that a folder or a cell names (`Train`, `val`, `test_set`, `1_train`, `test-2020`), or nothing."""
    name = re.fullmatch(r"[\d\W_]*([a-z]+?)[\W_]*(set|data|dataset|images|split|folder)?[\d\W_]*", text.lower())
    return SPLIT_NAMES.get(name[1], "") if name else ""
