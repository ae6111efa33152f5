"""A folder, a CSV or a Hub dataset becomes a manifest."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from trainer.data.folder import read_folder
from trainer.data.manifest import COLUMNS, SPLIT_NAMES, SPLITS, Manifest, available_cores
from trainer.errors import UsageError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
HASHED_AT_ONCE = 2**24  # bytes: a file below this is hashed in one piece, which is faster


def read_manifest(data: str | Path) -> Manifest:
    """List the images of a folder of class folders, of a folder with split folders inside, of a CSV or a Hub dataset.

    Split folders are taken for such where one of them is `train`, or where there is nothing else and each holds
    folders.

    Rows come in one canonical order, by sha256 and then by path: the order in which the data lists them changes nothing
    of what is made of it (a split, decoded pixels, a training).

    Raises:
        UsageError: no such data, no images, a column or a file that is missing, a file listed twice, or changed.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        manifest = read_folder(path)
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


def _read_csv(path: Path) -> Manifest:
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a CSV that can be read ({error})") from error
    missing = [column for column in ("file", "label") if column not in rows]
    if missing:
        raise UsageError(
            f"{path}: no column {', '.join(missing)}; "
            "a manifest has file,label and optionally split,group,collection,sha256"
        )
    for column in COLUMNS:
        rows[column] = rows[column].str.strip() if column in rows else ""
    _check_splits(path, rows)
    if (rows["label"] == "").any():
        raise UsageError(f"{path}: {int((rows['label'] == '').sum())} rows have no label")
    rows["file"] = [str((path.parent / file).absolute()) for file in rows["file"]]
    lost = [file for file in rows["file"] if not Path(file).is_file()]
    if lost:
        raise UsageError(
            f"{path}: {len(lost)} of {len(rows)} files are not there (first: {lost[0]}); paths are relative to the CSV"
        )
    twice = rows.loc[rows["file"].duplicated(), "file"]
    if len(twice):
        raise UsageError(f"{path}: {len(twice)} files are listed twice (first: {twice.iloc[0]})")
    return Manifest(rows[list(COLUMNS)].reset_index(drop=True))


def _check_splits(path: Path, rows: pd.DataFrame) -> None:
    rows["split"] = [SPLIT_NAMES.get(split.lower(), split) for split in rows["split"]]
    wrong = sorted(set(rows["split"]) - {*SPLITS, ""})
    if wrong:
        raise UsageError(f"{path}: unknown split {', '.join(wrong)}; expected {', '.join(SPLITS)}")


def _add_sha256(rows: pd.DataFrame) -> None:
    """Hash every file; a hash that the manifest gives must still be true."""
    files = rows["file"].tolist()
    parts = [
        files[start : start + 64] for start in range(0, len(files), 64)
    ]  # a task a file would cost more than its hash
    hashes: list[str] = []
    with (
        ThreadPoolExecutor(available_cores()) as pool,
        tqdm(total=len(files), desc="reading files", unit="file", leave=False) as bar,
    ):
        for found in pool.map(lambda part: [file_sha256(file) for file in part], parts):
            hashes += found
            bar.update(len(found))
    changed = [file for file, old, new in zip(rows["file"], rows["sha256"], hashes, strict=True) if old and old != new]
    if changed:
        raise UsageError(
            f"{len(changed)} files are not those of the manifest: their sha256 differs (first: {changed[0]})"
        )
    rows["sha256"] = hashes


def file_sha256(file: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with open(file, "rb", buffering=0) as stream:
        if os.fstat(stream.fileno()).st_size < HASHED_AT_ONCE:
            return hashlib.sha256(stream.read()).hexdigest()
        return hashlib.file_digest(stream, "sha256").hexdigest()
