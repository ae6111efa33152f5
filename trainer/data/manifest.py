"""A folder or a CSV becomes a manifest: one row an image, with its label, split, group, collection and sha256."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from trainer.errors import UsageError
from trainer.tasks import plain

SPLITS = ("train", "validation", "test", "external")
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation"}
SPLIT_FOLDERS |= {"dev": "validation", "test": "test", "testing": "test", "external": "external"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".dcm", ".dicom"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
METADATA = {"group": ("group", "patient_id", "patient"), "collection": ("collection", "source")}  # columns of a metadata.csv
COLUMNS = ("file", "label", "split", "group", "collection", "sha256")


@dataclass
class Manifest:
    """Rows with COLUMNS (`file` absolute; `split`, `group`, `collection` may be empty), what a user should be told, and the
    files in the class folders that are no pictures."""

    rows: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def read_manifest(data: str | Path) -> Manifest:
    """List the images of a folder of class folders, of a folder with split folders inside, of a CSV or a Hub dataset.

    Split folders are taken for such where one of them is `train`, or where there is nothing else and each holds folders.

    Rows come in one canonical order, by sha256 and then by path: the order in which the data lists them changes nothing of
    what is made of it (a split, decoded pixels, a training).

    Raises:
        UsageError: no such data, no images, a column or a file that is missing, a file listed twice, or changed.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        manifest = _read_folder(path)
    elif path.is_file() and path.suffix.lower() == ".csv":
        manifest = _read_csv(path)
    elif not path.exists() and HUB_ID.fullmatch(str(data)):
        from trainer.data.hub_reading import read_hub_dataset  # heavy: folders and CSVs need none of it

        manifest = Manifest(read_hub_dataset(str(data)).reindex(columns=list(COLUMNS), fill_value=""))
    else:
        missing = "" if path.exists() else " (not found), or a Hub dataset org/name[@revision]"
        raise UsageError(f"{data}: expected a folder of class folders or a manifest .csv{missing}")
    if manifest.rows.empty:
        raise UsageError(f"{data}: no images found; expected DIR/<class>/*.png (or .jpg, .tif, .dcm …)")
    _add_sha256(manifest.rows)
    manifest.rows = manifest.rows.sort_values(["sha256", *COLUMNS[:-1]], ignore_index=True)
    return manifest


def _read_folder(root: Path) -> Manifest:
    manifest = Manifest(pd.DataFrame())
    folders = _folders(root)
    parts = [(SPLIT_FOLDERS[child.name.lower()], child) for child in folders if child.name.lower() in SPLIT_FOLDERS]
    nothing_else = len(parts) == len(folders) and all(_folders(child) for child in folders)
    if nothing_else or any(split == "train" for split, _ in parts):
        records = [row for split, folder in parts for row in _class_folders(folder, split, manifest)]
    else:
        records = _class_folders(root, "", manifest)
    manifest.rows = pd.DataFrame(records, columns=list(COLUMNS))
    if (root / "metadata.csv").is_file():
        _add_metadata(root / "metadata.csv", manifest)
    return manifest


def _add_metadata(path: Path, manifest: Manifest) -> None:
    """Take patients and collections from a metadata.csv beside class folders; labels stay those of the folders."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        manifest.notes.append(f"{path} cannot be read and is left out")
        return
    name = next((column for column in ("file_name", "file") if column in table), None)
    if name is None:
        manifest.notes.append(f"{path} has no column file_name and is left out")
        return
    table.index = pd.Index([str((path.parent / file).absolute()) for file in table[name]])
    table = table[~table.index.duplicated()].reindex(manifest.rows["file"]).fillna("").reset_index(drop=True)
    taken = []
    for column, names in METADATA.items():
        given = next((alias for alias in names if alias in table), None)
        if given:
            manifest.rows[column] = table[given].str.strip()
            taken.append(given)
    manifest.notes.append(f"{path}: {', '.join(taken) or 'nothing'} taken from it; labels come from the folders")
    if "label" in table:
        other = (table["label"] != "") & (table["label"].map(plain) != manifest.rows["label"].map(plain))
        if other.any():
            manifest.notes.append(
                f"{path}: {int(other.sum())} labels are not those of the folders (first: {manifest.rows['file'][other].iloc[0]})"
            )


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _class_folders(root: Path, split: str, manifest: Manifest) -> list[tuple[str, ...]]:
    records: list[tuple[str, ...]] = []
    for folder in _folders(root):
        images, others = _images_below(folder)
        records += [(str(image.absolute()), folder.name, split, "", "", "") for image in images]
        manifest.others += [str(other) for other in others]
        if others:
            manifest.notes.append(f"{folder}: {len(others)} files that are no pictures are left out (first: {others[0].name})")
    return records


def _images_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures and other files below a class folder; hidden files and folders named `masks` do not count."""
    images: list[Path] = []
    others: list[Path] = []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or not file.is_file():
            continue
        if any(part.lower() == "masks" for part in inside.parts[:-1]):
            continue
        (images if file.suffix.lower() in SUFFIXES or _is_bare_dicom(file) else others).append(file)
    return images, others


def _is_bare_dicom(file: Path) -> bool:
    """DICOM files often carry no suffix."""
    if file.suffix and not file.suffix[1:].isdigit():  # names that are UIDs end in .123
        return False
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _read_csv(path: Path) -> Manifest:
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a CSV that can be read ({error})") from error
    missing = [column for column in ("file", "label") if column not in rows]
    if missing:
        raise UsageError(f"{path}: no column {', '.join(missing)}; a manifest has file,label and optionally split,group,collection,sha256")
    for column in COLUMNS:
        rows[column] = rows[column].str.strip() if column in rows else ""
    _check_splits(path, rows)
    if (rows["label"] == "").any():
        raise UsageError(f"{path}: {int((rows['label'] == '').sum())} rows have no label")
    rows["file"] = [str((path.parent / file).absolute()) for file in rows["file"]]
    lost = [file for file in rows["file"] if not Path(file).is_file()]
    if lost:
        raise UsageError(f"{path}: {len(lost)} of {len(rows)} files are not there (first: {lost[0]}); paths are relative to the CSV")
    twice = rows.loc[rows["file"].duplicated(), "file"]
    if len(twice):
        raise UsageError(f"{path}: {len(twice)} files are listed twice (first: {twice.iloc[0]})")
    return Manifest(rows[list(COLUMNS)].reset_index(drop=True))


def _check_splits(path: Path, rows: pd.DataFrame) -> None:
    rows["split"] = [SPLIT_FOLDERS.get(split.lower(), split) for split in rows["split"]]
    wrong = sorted(set(rows["split"]) - {*SPLITS, ""})
    if wrong:
        raise UsageError(f"{path}: unknown split {', '.join(wrong)}; expected {', '.join(SPLITS)}")


def _add_sha256(rows: pd.DataFrame) -> None:
    """Hash every file; a hash that the manifest gives must still be true."""
    files = rows["file"].tolist()
    parts = [files[start : start + 64] for start in range(0, len(files), 64)]  # a task a file would cost more than its hash
    hashes: list[str] = []
    with ThreadPoolExecutor(available_cores()) as pool, tqdm(total=len(files), desc="reading files", unit="file", leave=False) as bar:
        for found in pool.map(lambda part: [file_sha256(file) for file in part], parts):
            hashes += found
            bar.update(len(found))
    changed = [file for file, old, new in zip(rows["file"], rows["sha256"], hashes, strict=True) if old and old != new]
    if changed:
        raise UsageError(f"{len(changed)} files are not those of the manifest: their sha256 differs (first: {changed[0]})")
    rows["sha256"] = hashes


def available_cores() -> int:
    """How many processor cores this process may use: containers and batch systems often grant fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_sha256(file: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with open(file, "rb", buffering=0) as stream:
        if os.fstat(stream.fileno()).st_size < 2**24:  # in one piece, which is faster
            return hashlib.sha256(stream.read()).hexdigest()
        return hashlib.file_digest(stream, "sha256").hexdigest()
