"""A folder of class folders as manifest rows: every file below it is an image, a table, or counted as not used."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

from trainer.cxr_model.dicom_cxr import is_dicom
from trainer.cxr_model.reader_cxr import FORMATS
from trainer.data.metadata import TABLES, add_metadata, is_person
from trainer.data.schema import COLUMNS, SUFFIXES, Manifest, split_name

LITTER = {"__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
LITTER |= {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "thumbs", "thumbnails", "lost+found"}
SHEETS = {".xlsx", ".xls", ".ods"}
SHEET_NAMES = ("metadata", "manifest", "labels", "patients")  # with these names also .json, .txt and .xml
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".jls", ".jph", ".nii", ".mha", ".mhd", ".nrrd", ".npy", ".npz", ".h5"}
UNREAD |= {".tga", ".psd", ".dng", ".svg", ".pdf", ".raw", ".gz", ".bz2", ".xz", ".zip", ".7z", ".rar", ".tar"}
MASKS = re.compile(r"masks?([\W_]|$)|^(segmentation|annotation|overlay|heatmap)s?$")
ANNOTATIONS = {"source.json", "lung_masks.csv", "lesion_boxes.csv"}  # read elsewhere


def read_folder(root: Path) -> Manifest:
    """List ROOT/<class>/… or ROOT/<split>/<class>/…, links followed, with what tables beside the images say of them.

    Folders are splits where one of them is `train`, or where there is nothing else and each holds folders.
    """
    manifest = Manifest(pd.DataFrame())
    folders, files = _children(root, manifest)
    sides = {folder: split_name(folder.name) for folder in folders}
    nothing_else = all(side and _children(folder, Manifest(pd.DataFrame()))[0] for folder, side in sides.items())
    if not nothing_else and "train" not in sides.values():
        sides = {root: ""}
    listed: list[Path] = []
    records: list[tuple[str, ...]] = []
    inside: dict[str, set[str]] = {}
    for parent, side in sides.items():
        if parent != root and not side:
            manifest.leave_out("in folders that are no split", _all_below(parent))
            continue
        classes, loose = (folders, []) if parent == root else _children(parent, manifest)
        files += loose
        for folder in classes:
            below = list(_files_below(folder, manifest, {root.resolve(), parent.resolve()}))
            images = [file for file in below if _is_image(file)]
            listed += sorted(set(below) - set(images))
            if not images:
                manifest.notes.append(f"{folder} holds no image that is read: it is no class")
            parts = [image.relative_to(folder).parts for image in images]
            inside.setdefault(folder.name, set()).update(part[0] for part in parts if len(part) > 1)
            records += [(str(image.absolute()), folder.name, side, "", "", "") for image in images]
    manifest.leave_out("images beside the class folders", [file for file in files if _is_image(file)])
    listed += [file for file in files if not _is_image(file) and file.name.lower() not in ANNOTATIONS]
    sheets = [file for file in listed if _is_sheet(file)]
    manifest.leave_out("tables that are not read: save them as CSV", sheets)
    tables = [file for file in listed if file.suffix.lower() in TABLES]
    unread = [file for file in listed if file.suffix.lower() in UNREAD]
    manifest.leave_out("of kinds that are not read: unpack them, or save them as PNG", unread)
    manifest.leave_out("no images", sorted(set(listed) - {*sheets, *tables, *unread}))
    manifest.rows = pd.DataFrame(records, columns=list(COLUMNS))
    manifest.notes += _like_splits(inside)
    add_metadata(tables, manifest)
    others = [folder for names in inside.values() if len(names) > 1 for folder in names if not is_person(folder)]
    if len(inside) > 1 and others and not manifest.notes and not manifest.rows["group"].any():
        said = f"{len(others)} folders within classes (first: {min(others)}) are not taken for patients"
        manifest.notes.append(f"{said}: if they are, name patients in a metadata.csv with file_name,patient_id")
    return manifest


def list_images(root: Path) -> tuple[list[str], list[str]]:
    """All images below a folder, whatever its folders mean, and a note of what was left out."""
    manifest = Manifest(pd.DataFrame())
    images = sorted(str(file) for file in _files_below(root, manifest, set()) if _is_image(file))
    return images, manifest.left_out_note


def _is_sheet(file: Path) -> bool:
    """Whether a file is a table of a kind that is not read."""
    suffix = file.suffix.lower()
    return suffix in SHEETS or (suffix in (".json", ".txt", ".xml") and file.stem.lower() in SHEET_NAMES)


def _like_splits(folders: dict[str, set[str]]) -> list[str]:
    """A note where all classes hold the same folders, as splits of other names do.

    Args:
        folders: by class, the names of the folders directly in it that hold images.
    """
    first = next(iter(folders.values()), set())
    if len(folders) < 2 or len(first) < 2 or any(names != first for names in folders.values()):
        return []
    inside = f"{', '.join(sorted(folders)[:3])} hold the same folders ({', '.join(sorted(first)[:3])})"
    return [f"{inside} and are taken for classes: if they are splits, call them train, validation and test"]


def _children(folder: Path, manifest: Manifest) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder that are worth a look; counts the others."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        children = sorted(folder.iterdir())
    except OSError:
        manifest.leave_out("folders that cannot be opened", [folder])
        return folders, files
    for child in children:
        if reason := _why_not(child):
            manifest.leave_out(reason, _all_below(child) if os.path.isdir(child) else [child])
        else:
            (folders if os.path.isdir(child) else files).append(child)
    return folders, files


def _why_not(child: Path) -> str:
    """Why a file or folder is not looked into, by its name or kind; empty where it is."""
    name = child.name.lower()
    if name.startswith(".") or name in LITTER:
        return "hidden, or left by macOS, Windows or a file server"
    if os.fsencode(child.name).decode("utf-8", "replace") != child.name:
        return "with names that are not UTF-8: rename them"
    if os.path.isdir(child):
        return "masks" if MASKS.search(name) else ""
    if re.search(r"[\W_]mask$", child.stem.lower()):
        return "masks"
    if not os.path.exists(child):
        return "links that lead nowhere"
    return "" if os.path.isfile(child) else "no images"


def _files_below(folder: Path, manifest: Manifest, known: set[Path]) -> Iterator[Path]:
    """The files below a folder; a folder that links lead to twice is listed once."""
    if folder.resolve() in known:
        manifest.leave_out("links to a folder that is listed already", [folder])
        return
    known.add(folder.resolve())
    folders, files = _children(folder, manifest)
    yield from files
    for child in folders:
        yield from _files_below(child, manifest, known)


def _all_below(folder: Path) -> list[str]:
    return [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in sorted(names)]


def _is_image(file: Path) -> bool:
    """By its suffix; one without (or of digits, as UIDs end) by its content; whatever begins as DICOM does."""
    suffix = file.suffix.lower()
    if suffix in SUFFIXES:
        return True
    try:
        with file.open("rb") as stream:
            if is_dicom(stream):
                return True
            if not suffix or suffix[1:].isdigit():
                Image.open(stream, formats=FORMATS)
                return True
    except UnidentifiedImageError:
        return False
    except (OSError, ValueError, Image.DecompressionBombError):
        return True  # to be named where it is read
    return False
