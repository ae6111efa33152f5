"""A folder, a table or a Hub dataset becomes a manifest."""

import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import pandas as pd
from tqdm.auto import tqdm

from trainer.cxr_model.dicom_cxr import is_dicom
from trainer.data.folder import list_images, read_folder
from trainer.data.metadata import TABLES, clean_patients, locate, patients_of_folders, read_table, unused_columns
from trainer.data.schema import COLUMNS, Manifest
from trainer.errors import UsageError
from trainer.files import write_table
from trainer.hardware import available_cores

MPEG = "1.2.840.10008.1.2.4.10"  # begins the transfer syntaxes of videos, .100 to .108
MOST_VALUES = 20  # of a column that parts images
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def read_manifest(data: str | Path) -> Manifest:
    """List the images of a folder of class folders (or of split folders of such), of a CSV or of a Hub dataset.

    Rows come in one canonical order, by sha256 and then by path: the order in which the data lists them changes nothing
    of what is made of it (a split, decoded pixels, a training).

    Raises:
        UsageError: no such data, no images, a column or a file that is missing, a file listed twice, or changed.
    """
    path = Path(data).expanduser()
    if str(data).encode("utf-8", "replace").decode() != str(data):
        raise UsageError(f"{os.fsencode(data)!r}: the name is not UTF-8; rename it")
    if path.is_dir():
        manifest = read_folder(path)
    elif _is_table(path):
        manifest = _read_table(path)
    elif not path.exists() and HUB_ID.fullmatch(str(data)):
        from trainer.data.hub_reading import read_hub_dataset  # heavy: folders and CSVs need none of it

        manifest = Manifest(read_hub_dataset(str(data)).reindex(columns=list(COLUMNS), fill_value=""))
    else:
        missing = "" if path.exists() else " (not found), or a Hub dataset org/name[@revision]"
        kinds = ", ".join(sorted(TABLES))
        raise UsageError(f"{data}: expected a folder of class folders or a manifest ({kinds}){missing}")
    _examine_files(manifest)
    if manifest.rows.empty:
        notes = "".join(f"; {note}" for note in manifest.notes)
        raise UsageError(f"{data}: no images found; expected DIR/<class>/*.png (or .jpg, .tif, .dcm …){notes}")
    manifest.rows["group"] = clean_patients(manifest.rows["group"])
    manifest.notes += patients_of_folders(manifest.rows)
    manifest.rows = manifest.rows.sort_values(["sha256", *COLUMNS[:-1]], ignore_index=True)
    return manifest


def write_manifest(rows: pd.DataFrame, target: Path, data: str) -> None:
    """Write rows of some data as a manifest CSV, with the other columns that a table has (sex, age, mask …); paths are
    relative to it where they lie below its folder.
    """
    root, path = target.absolute().parent, Path(data).expanduser()

    def relative(file: str) -> str:
        return os.path.relpath(file, root) if Path(file).is_relative_to(root) else file

    manifest = rows[list(COLUMNS)].reset_index(drop=True)
    if _is_table(path):
        table, names = read_table(path)
        table.index = pd.Index([locate(path.parent, file) for file in table["file"]])
        known = {*COLUMNS, *(taken[0] for taken in names.values())}
        others = table.loc[rows["file"].tolist(), [column for column in table if column not in known]]
        manifest = manifest.join(others.reset_index(drop=True))
    if "mask" in manifest:
        masks = [[relative(locate(path.parent, part)) for part in cell.split(";") if part] for cell in manifest["mask"]]
        manifest["mask"] = [";".join(parts) for parts in masks]
    write_table(target, manifest.assign(file=[relative(file) for file in manifest["file"]]))


def list_unlabelled(data: str) -> list[str]:
    """The images of a folder, whatever its folders mean, or of the column `file` of a CSV.

    Raises:
        UsageError: there is no such folder or CSV, or no image in it.
    """
    path = Path(data).expanduser()
    files: list[str] = []
    if path.is_dir():
        files, _ = list_images(path)
    elif _is_table(path):
        table, names = read_table(path)
        files = [locate(path.parent, file) for file in table["file"]] if "file" in names else []
    if not files:
        raise UsageError(f"{data}: no images; expected a folder of them, or a CSV with a column file")
    return files


def read_columns(data: str, files: pd.Series, names: Sequence[str]) -> pd.DataFrame:
    """Columns of a manifest CSV, text, for some of its images; `files` are theirs, as `read_manifest` gives them.

    Raises:
        UsageError: no CSV, no such column, or one of more values than can be told apart.
    """
    path = Path(data).expanduser()
    if not _is_table(path):
        raise UsageError(
            f"{data}: no table, so it has no column {', '.join(names)}; give one with file,label,{names[0]}"
        )
    table, _ = read_table(path)
    if missing := [name for name in names if name not in table]:
        raise UsageError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    table.index = pd.Index([locate(path.parent, file) for file in table["file"]])
    columns = table.loc[files.tolist(), list(names)].reset_index(drop=True)
    for name, count in columns.nunique().items():
        if count > MOST_VALUES:
            raise UsageError(f"{path}: column {name} has {count} values here, {MOST_VALUES} are the most: group them")
    return columns


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES and path.is_file()


def _read_table(path: Path) -> Manifest:
    table, names = read_table(path)
    if missing := [column for column in ("file", "label") if column not in names]:
        expected = "a manifest has file,label and optionally split,group (or patient_id),collection,sha256"
        look = "; films without labels: cxr adapt RUN --report-only" if missing == ["label"] else ""
        raise UsageError(f"{path}: no column {', '.join(missing)}; {expected}{look}")
    if table.empty:
        raise UsageError(f"{path}: has no rows")
    manifest = Manifest(table.reindex(columns=list(COLUMNS), fill_value=""))
    rows = manifest.rows
    if not rows["label"].all():
        raise UsageError(f"{path}: {int((rows['label'] == '').sum())} rows have no label")
    located = [locate(path.parent, file) for file in rows["file"]]
    lost = [cell for cell, file in zip(rows["file"], located, strict=True) if not Path(file).is_file()]
    if lost:
        count = f"{len(lost)} of {len(rows)} files are not there"
        raise UsageError(f"{path}: {count} (first: {lost[0]}); give paths relative to the folder of the CSV")
    rows["file"] = located
    twice = rows.loc[rows["file"].duplicated(), "file"]
    if len(twice):
        raise UsageError(f"{path}: {len(twice)} files are listed twice (first: {twice.iloc[0]})")
    taken, *unused = names.get("group", ["group"])
    if taken != "group" or unused:
        known = f"{rows['group'].replace('', None).nunique()} patients of {int((rows['group'] != '').sum())}"
        instead = f", not from {', '.join(unused)}" if unused else ""
        manifest.notes.append(f"{path}: {known} of {len(rows)} images are taken from column {taken}{instead}")
    if (split := names.get("split", ["split"])[0]).casefold() != "split":
        manifest.notes.append(f"{path}: splits are taken from column {split}")
    if columns := unused_columns(table, names):
        manifest.notes.append(f"{path}: {columns}")
    return manifest


def _examine_files(manifest: Manifest) -> None:
    """Read every file: its sha256 is put in (one that the manifest gives must still be true), and files that are no
    images are left out.
    """
    rows = manifest.rows
    with ThreadPoolExecutor(available_cores()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote header fields
        examined = pool.map(_examine, rows["file"])
        facts = list(tqdm(examined, desc="reading files", total=len(rows), unit="file", leave=False))
    reasons = pd.Series([reason for _, reason in facts], index=rows.index, dtype=object)
    for reason, part in rows.groupby(reasons):
        if reason:
            manifest.leave_out(str(reason), part["file"])
    known, rows["sha256"] = rows["sha256"], [sha256 for sha256, _ in facts]
    changed = rows["file"][(known != "") & (known != rows["sha256"]) & (reasons == "")]
    if len(changed):
        wrong = f"{len(changed)} files are not those of the manifest"
        raise UsageError(f"{wrong}: their sha256 differs (first: {changed.iloc[0]})")
    manifest.rows = rows[reasons == ""].reset_index(drop=True)
    manifest.notes += manifest.left_out_note


def _examine(file: str) -> tuple[str, str]:
    """A file's sha256, and why it is not used; empty where it is."""
    try:
        with open(file, "rb") as stream:
            reason = "DICOM files without an image" if _lacks_image(stream) else ""
            stream.seek(0)
            return hashlib.file_digest(stream, "sha256").hexdigest(), reason
    except OSError as error:
        return "", f"that cannot be opened ({error.strerror})"


def _lacks_image(stream: BinaryIO) -> bool:
    """Whether a file is DICOM without an image: a structured report, a presentation state, a DICOMDIR, a video."""
    if not is_dicom(stream) or not find_spec("pydicom"):
        return False
    import pydicom  # an extra

    if b"1.2.840.10008.1.2.1.99" in stream.read(2048):  # deflated: the reader refuses it by name
        return False
    stream.seek(0)
    try:
        syntax = pydicom.dcmread(stream, stop_before_pixels=True, force=True).file_meta.get("TransferSyntaxUID", "")
    except Exception:  # pydicom raises anything on a damaged file; the reader names it
        return False
    return not stream.read(1) or syntax.startswith(MPEG)
