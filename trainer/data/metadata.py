"""Tables as people write them: columns by any of their usual names, files by any spelling of their path."""

import csv
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path, PurePosixPath

import pandas as pd

from trainer.data.schema import COLUMNS, SPLITS, SUFFIXES, Manifest, split_name
from trainer.errors import UsageError, reason_of
from trainer.tasks import normalise_label

TABLES = {".csv", ".tsv", ".jsonl", ".parquet"}
PERSONS = ("patient", "subject", "participant", "person", "case", "paciente")
PREFIXES = ("", "id", "anon", "anonymized", "anonymised", "deidentified", "hashed")
NUMBERS = ("id", "", "no", "nr", "num", "number", "identifier", "index", "key", "code", "hash", "uid", "name")
RECORDS = ("pid", "ptid", "patid", "mrn", "medicalrecordnumber")
IMAGES = ("name", "file", "path", "index", "id")
FILES = ("fname", "fullpath", "relativepath", "img", "imgname", "imgpath", "dicom", "dicomid", "dicompath", "dicomfile")
PERSON_FOLDER = re.compile(rf"({'|'.join(PERSONS)}|pat|sub)[\W_]*\d+|p\d{{4,}}", re.IGNORECASE)
ALIASES = {  # as `normalise_label` writes them; the first with any value is taken
    "file": ["file", "filename", "filepath", "path", "image", *(f"image{what}" for what in IMAGES), *FILES],
    "group": ["group", "groupid", *("".join(parts[::-1]) for parts in product(NUMBERS, PERSONS, PREFIXES)), *RECORDS],
    "collection": ["collection", "source"],
    "split": ["split", "set", "subset", "partition", "phase"],  # the others where they hold nothing but splits
}
UNKNOWN = {"na", "<na>", "n/a", "nan", "none", "null", "unknown", "anonymous", "anonymized", "anonymised", "?", "-"}


def read_table(path: Path) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """A CSV (of `,`, `;`, `|` or tabs), JSON Lines or Parquet file as text, its columns renamed to COLUMNS.

    Returns:
        The table; and, by column of COLUMNS, the names in the file that stand for it, the first being the one taken.

    Raises:
        UsageError: it cannot be read.
    """
    table = _read_cells(path)
    names: dict[str, list[str]] = {}
    for column in COLUMNS:
        present = column_names(table.columns, column)
        if column == "split":
            holds = {name: all(map(split_name, filter(None, table[name]))) for name in present}
            present = [name for name in present if holds[name] or normalise_label(name) == "split"]
        if present:
            names[column] = sorted(present, key=lambda name: not (table[name] != "").any())
    table = table.assign(**{column: table[present[0]] for column, present in names.items()})
    if "group" in names:
        table["group"] = clean_patients(table["group"])
    if "split" in names:
        table["split"] = [split_name(split) or split for split in table["split"]]
        if wrong := sorted(set(table["split"]) - {*SPLITS, ""}):
            raise UsageError(f"{path}: unknown split {', '.join(wrong)}; expected {', '.join(SPLITS)}")
    return table, names


def _read_cells(path: Path) -> pd.DataFrame:
    """A table as text without spaces around it and without empty rows."""
    extra = 0
    try:
        if path.suffix.lower() == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            table = pd.DataFrame([json.loads(line) for line in lines if line.strip()], dtype=object)
        elif path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
            table = table.reset_index() if table.index.name else table
        else:
            with path.open(encoding="utf-8-sig") as stream:
                first = stream.readline()
                named = int(first.startswith("sep="))  # Excel's own first line
                stream.seek(0)
                table = pd.read_csv(stream, sep=_separator(first), skiprows=named, dtype=str, keep_default_na=False)
            extra = 0 if isinstance(table.index, pd.RangeIndex) else table.index.nlevels  # lines longer than the head
    except UnicodeError as error:
        raise UsageError(f"{path}: not a CSV that can be read; save it in UTF-8") from error
    except (ValueError, OSError, csv.Error) as error:  # pandas' and JSON's errors are ValueErrors
        raise UsageError(f"{path}: not a CSV that can be read: {reason_of(error)}") from error
    table = table.astype(object).fillna("").astype(str).apply(lambda cells: cells.str.strip())
    if extra and not (table.iloc[:, -extra:] != "").any(axis=None):  # they end in separators; else they begin in names
        table = table.reset_index().iloc[:, :-extra].set_axis(table.columns, axis=1)
    return table[(table != "").any(axis=1)].reset_index(drop=True)


def locate(folder: Path, file: str) -> str:
    """The absolute path of a file that a table in a folder names; `\\` separates where no file has it in its name."""
    return str((folder / file if (folder / file).is_file() else folder / file.replace("\\", "/")).absolute())


def _separator(head: str) -> str:
    """What stands between the names of the columns: what makes the most of them known, else the most of them."""

    def count(separator: str) -> tuple[int, int]:
        names = next(csv.reader([head], delimiter=separator), [])
        return sum(bool(column_names(names, column)) for column in COLUMNS), len(names)

    return max(",;\t|", key=count)


def clean_patients(names: pd.Series) -> pd.Series:
    """Patients in one spelling each: `7`, `007` and `7.0` are one, as `P1` and `p1`; empty where none is known."""
    names = names.mask(names.str.casefold().isin(UNKNOWN), "").str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
    return names.groupby(names.str.casefold().str.replace(r"^0+(\d+)$", r"\1", regex=True)).transform("min")


def is_person(folder: str) -> bool:
    """Whether a folder's name says that it holds one person: `patient00001`, `sub-01`, `p10000032`."""
    return PERSON_FOLDER.fullmatch(folder) is not None


def patients_of_folders(rows: pd.DataFrame) -> list[str]:
    """Where no table names patients, take them from folders that say they are persons; a note on what was taken."""
    if rows["group"].any() or rows.empty:
        return []
    root = os.path.commonpath([os.path.dirname(file) for file in rows["file"]])
    folders = [os.path.relpath(file, root).split(os.sep)[-2::-1] for file in rows["file"]]
    names = [next(filter(is_person, parts), "") for parts in folders]
    patients = sorted({*names} - {""})
    if len(patients) < 2:
        return []
    rows["group"] = names
    count = f"{len(patients)} patients of {sum(map(bool, names))} of {len(rows)} images"
    return [f"no table names patients: {count} are taken from folders (first: {patients[0]})"]


def column_names(names: Iterable[str], column: str) -> list[str]:
    """Those of the names that stand for a column of COLUMNS, the likeliest first."""
    known = [(normalise_label(str(name)), name) for name in names]
    return [name for alias in ALIASES.get(column, (column,)) for key, name in known if key == alias]


def unused_columns(table: pd.DataFrame, names: dict[str, list[str]]) -> str:
    """Where no column names the patients, the columns that are not used, as the end of a note; else empty."""
    known = {*COLUMNS, *(name for several in names.values() for name in several)}
    others = [str(name) for name in table.columns if name not in known and not str(name).startswith("Unnamed: ")]
    if "group" in names or not others:
        return ""
    rest = f" and {len(others) - 6} more" if len(others) > 6 else ""
    return f"no column is known to name patients (not used: {', '.join(others[:6])}{rest}): call it patient_id"


def add_metadata(tables: list[Path], manifest: Manifest) -> None:
    """Take patients, collections and splits from tables beside the images; labels stay those of the folders.

    Tables that are not called metadata or manifest are taken where they name patients of these images.
    """
    rows = manifest.rows
    counts: Counter[str] = Counter()
    used: list[Path] = []
    unused = ""
    for path in tables:
        expected = path.stem.lower() in ("metadata", "manifest")
        try:
            table, names = read_table(path)
            fault = "" if "file" in names else "has no column file_name"
        except UsageError as error:
            table, names, fault = pd.DataFrame(), {}, str(error)
        cells = pd.DataFrame() if fault else _cells_of(rows["file"], table, path.parent)
        if not fault and not (cells["file"] != "").any():
            fault = f"none of its {len(table)} rows names an image here (or one alone)"
        if fault and (expected or "group" in names):
            manifest.notes.append(f"{path} is left out: {fault.removeprefix(f'{path}: ')}")
        if fault or not (expected or "group" in names):
            manifest.leave_out("no images", [path])
            continue
        used.append(path)
        unused = unused or unused_columns(table, names)
        _name_contradictions(path, rows, table, cells, manifest.notes)
        for column in [column for column in ("group", "collection", "split") if column in names]:
            counts[names[column][0]] += int(((rows[column] == "") & (cells[column] != "")).sum())
            rows[column] = rows[column].where(rows[column] != "", cells[column])
    if used:
        taken = ", ".join(f"{name} taken for {count}" for name, count in counts.items() if count) or "nothing taken"
        others = f" and {len(used) - 1} more" if len(used) > 1 else ""
        note = f"{used[0]}{others}: {taken} of {len(rows)} images; labels come from the folders"
        manifest.notes.append(note + (f"; {unused}" if unused and not rows["group"].any() else ""))


def _name_contradictions(
    path: Path, rows: pd.DataFrame, table: pd.DataFrame, cells: pd.DataFrame, notes: list[str]
) -> None:
    """Notes on labels that are not those of the folders, and on images to which two rows give different patients."""
    if "label" in cells:
        other = (cells["label"] != "") & (cells["label"].map(normalise_label) != rows["label"].map(normalise_label))
        if other.any():
            first = rows["file"][other].iloc[0]
            notes.append(f"{path}: {int(other.sum())} labels are not those of the folders (first: {first})")
    if "group" in cells:
        named = table[table["group"] != ""].groupby(table["file"].map(lambda file: _normalise(file, path.parent)))
        several = named["group"].nunique() > 1
        other = (rows["group"] != "") & (cells["group"] != "") & (cells["group"] != rows["group"])
        files = [*map(str, several.index[several]), *rows["file"][other]]
        if files:
            count = f"{len(files)} images stand in two rows with different patients (first: {files[0]})"
            notes.append(f"{path}: {count}; the first is taken")


def _cells_of(files: pd.Series, table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """For each image its row of the table, empty where none names it.

    A row names an image by its path below the folder (`/` or `\\`, any case), else by an end of the path that is unique
    among the images and in the table: its folder and name, its name, its name without suffix.
    """
    paths = files.map(lambda file: _normalise(file, folder))
    named = table["file"].map(lambda file: _normalise(file, folder)).drop_duplicates()
    folders = {path.parent.name for path in paths}
    lone = named[[path.parent.name not in folders - {""} for path in named]]  # a name in another class is another image
    match = pd.Series(-1, index=files.index)
    ends: list[tuple[pd.Series, Callable[[PurePosixPath], str]]] = [
        (named, str),
        (named, lambda path: "/".join(path.parts[-2:])),
        (lone, lambda path: path.name),
        (named, lambda path: str(_without_suffix(path))),
        (lone, lambda path: _without_suffix(path).name),
    ]
    for candidates, end in ends:
        keys = candidates.map(end).drop_duplicates(keep=False)
        number_of = pd.Series(keys.index, index=keys.to_numpy())
        numbers = paths.map(end).drop_duplicates(keep=False).map(number_of).dropna().astype(int)
        match.update(numbers[match[numbers.index] < 0])
    return table.reindex(match).fillna("").set_index(files.index)


def _without_suffix(path: PurePosixPath) -> PurePosixPath:
    while path.suffix in SUFFIXES:  # film.dicom.png; a UID has dots, too
        path = path.with_suffix("")
    return path


def _normalise(file: str, folder: Path) -> PurePosixPath:
    """A path relative to the folder, with `/`, without case and in one form of Unicode."""
    path = os.path.relpath(folder / file.replace("\\", "/"), folder)
    return PurePosixPath(unicodedata.normalize("NFC", path).casefold())
