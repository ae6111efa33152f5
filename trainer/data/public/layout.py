"""`cxr data get`: fetch a public set, lay it out as class folders with a manifest, and keep its terms beside it."""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlparse

import pandas as pd
from tqdm.auto import tqdm

from trainer.data.public.download import fetch_archives
from trainer.data.public.sets import INTO_THREE, MERGED, PUBLIC_SETS, ImageRecord, PublicSet
from trainer.data.schema import SUFFIXES
from trainer.errors import UsageError
from trainer.files import atomic_write, read_json, write_json, write_table

TERMS = "SOURCE.json"  # beside the data: what it is, its licence, whom to cite
Files = dict[PurePosixPath, Callable[[], IO[bytes]]]


def get_set(name: str, output: Path, origins: list[str], log: Callable[[str], None]) -> pd.DataFrame:
    """Lay out a public set, or the merged `three-class`, below `output`: <label>/<file>, manifest.csv, SOURCE.json.

    What is there already is not copied again, so a stopped run goes on with the same command. Masks go to OUTPUT_masks.

    Args:
        origins: archives or folders that hold the set, as NAME=FILE for a merged one; what is not given is downloaded.
        log: receives each line a user should read.

    Returns:
        The manifest: file, label, split, group, collection, mask.

    Raises:
        UsageError: no such set, or one that must be fetched by hand, or an origin that does not hold it.
        WorkError: the download failed.
    """
    if name not in PUBLIC_SETS and name not in MERGED:
        raise UsageError(f"no public set {name!r}; there are: {', '.join([*PUBLIC_SETS, *MERGED])}")
    parts = [PUBLIC_SETS[part] for part in MERGED.get(name, (name,))]
    for part in parts:
        log(f"{part.title}\n  {part.page}\n  licence: {part.licence}\n  cite: {part.citation}")
    origins_of = _split_origins(name, parts, origins)
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for part in parts:
        archives = origins_of[part.name] or fetch_archives(part, output)
        part_rows = _lay_out(part, output, archives, merged=name in MERGED)
        if not part_rows:
            raise UsageError(f"{', '.join(archives)}: holds no image of {part.name} ({part.layout})")
        log(f"{part.name}: {len(part_rows)} radiographs")
        rows += part_rows
    table = pd.DataFrame(rows)
    write_table(output / "manifest.csv", table)
    facts = [{key: getattr(part, key) for key in ("name", "title", "page", "licence", "citation")} for part in parts]
    write_json(output / TERMS, {"name": name, "images": len(table), "sets": facts})
    return table


def _split_origins(name: str, parts: list[PublicSet], origins: list[str]) -> dict[str, list[str]]:
    """The user's archives and folders by the name of the part they hold."""
    if name not in MERGED:
        return {name: origins}
    by_part: dict[str, list[str]] = {part.name: [] for part in parts}
    for origin in origins:
        part, equals, file = origin.partition("=")
        if not equals or part not in by_part:
            cure = f"give NAME=FILE with NAME one of {', '.join(by_part)}"
            raise UsageError(f"--from {origin}: {name} is merged from several sets; {cure}")
        by_part[part].append(file)
    return by_part


def _lay_out(public_set: PublicSet, output: Path, origins: list[str], merged: bool) -> list[dict[str, str]]:
    """Copy the images and masks of a set; gives a row an image, `mask` joining the masks of one image by `;`.

    Images go to OUTPUT/<label>/, or to <split>/<label>/ where the set has splits; in a merged set their names begin
    with the set's.
    """
    rows: dict[Path, dict[str, str]] = {}
    masks: dict[tuple[str, str], list[str]] = {}
    for origin in origins:
        with _open_origin(origin) as files:
            collections = _read_collections(files)
            bar = tqdm(sorted(files.items()), desc=f"laying out {public_set.name}", unit="file", leave=False)
            for path, opener in bar:
                record = _read_record(public_set, path, merged)
                if record is None:
                    continue
                stem = path.stem.lower()
                if record.mask:
                    side = path.parent.name if path.parent.name.lower() in ("leftmask", "rightmask") else ""
                    target = output.with_name(f"{output.name}_masks") / record.label / side / path.name
                    key = (record.label, stem.removesuffix("_mask"))
                    masks.setdefault(key, []).append(os.path.relpath(target, output))
                else:
                    name = f"{public_set.name}-{path.name}" if merged else path.name
                    target = output / record.split / record.label / name
                    row = {"file": str(target.relative_to(output)), "label": record.label, "split": record.split}
                    collection = collections.get(stem, record.collection)
                    rows[target] = {**row, "group": record.group, "collection": collection, "mask": stem}
                if not target.exists():
                    with opener() as source, atomic_write(target) as temporary, temporary.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
    return [{**row, "mask": ";".join(masks.get((row["label"], row["mask"]), []))} for row in rows.values()]


def _read_record(public_set: PublicSet, path: PurePosixPath, merged: bool) -> ImageRecord | None:
    """What a path says of its image, with the labels of the merged set where it goes there; None for other files."""
    record = public_set.read_path(path) if path.suffix.lower() in SUFFIXES else None
    if record and merged:
        record = replace(record, label=INTO_THREE.get(record.label, record.label), split="")
    return record if record and record.label else None


@contextmanager
def _open_origin(origin: str) -> Iterator[Files]:
    """Every file of a folder or a ZIP. Names of members choose no path: only `read_path` does."""
    path = Path(origin).expanduser()
    if path.is_dir():
        below = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith("._")]
        yield {PurePosixPath(file.relative_to(path).as_posix()): partial(FileIO, file) for file in below}
    elif path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
            yield {PurePosixPath(name): partial(archive.open, name) for name in names}
    else:
        fault = "no ZIP archive; unpack it and give the folder" if path.exists() else "not found"
        raise UsageError(f"--from {origin}: {fault}")


def _read_collections(files: Files) -> dict[str, str]:
    """{file stem: origin} from the `*.metadata.xlsx` sheets of the Qatar sets: each row's web address, by its host."""
    collections: dict[str, str] = {}
    for path, opener in files.items():
        if not path.name.lower().endswith("metadata.xlsx"):
            continue
        if not find_spec("openpyxl"):
            cure = 'reading it needs openpyxl: pip install "cxr-hub[data]"'
            raise UsageError(f"{path.name} names each image's origin; {cure}")
        with opener() as stream:
            sheet = pd.read_excel(stream, dtype=str).rename(columns=lambda name: str(name).strip().lower())
        for name, address in zip(sheet.get("file name", ()), sheet.get("url", ()), strict=False):
            if host := urlparse(str(address).strip()).netloc.removeprefix("www."):
                collections[str(name).strip().lower()] = host
    return collections


def read_terms(files: Iterable[str]) -> list[dict[str, Any]]:
    """The public sets that these images (or a manifest of them) were laid out from, with licence and citation; empty
    for a user's own.
    """
    folders = {folder for file in files for folder in Path(file).parents[:3]}  # above <split>/<label>/ or one of them
    terms: dict[str, dict[str, Any]] = {}
    for file in sorted(folder / TERMS for folder in folders):
        if file.is_file():
            terms |= {part["name"]: part for part in read_json(file)["sets"]}
    return list(terms.values())
