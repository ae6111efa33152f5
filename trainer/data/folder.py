"""A folder of class folders as manifest rows."""

from pathlib import Path

import pandas as pd

from trainer.data.manifest import COLUMNS, SPLIT_NAMES, SUFFIXES, Manifest
from trainer.tasks import normalise_label

METADATA = {"group": ("group", "patient_id", "patient"), "collection": ("collection", "source")}  # of a metadata.csv


def read_folder(root: Path) -> Manifest:
    """List ROOT/<class>/… or ROOT/<split>/<class>/…, with patients and collections of a metadata.csv beside them."""
    manifest = Manifest(pd.DataFrame())
    folders = _folders(root)
    parts = [(SPLIT_NAMES[child.name.lower()], child) for child in folders if child.name.lower() in SPLIT_NAMES]
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
        other = (table["label"] != "") & (
            table["label"].map(normalise_label) != manifest.rows["label"].map(normalise_label)
        )
        if other.any():
            manifest.notes.append(
                f"{path}: {int(other.sum())} labels are not those of the folders "
                f"(first: {manifest.rows['file'][other].iloc[0]})"
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
            manifest.notes.append(
                f"{folder}: {len(others)} files that are no images are left out (first: {others[0].name})"
            )
    return records


def _images_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images and other files below a class folder; hidden files and folders named `masks` do not count."""
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
