"""`cxr data get`: fetch a public set, lay it out as class folders with a manifest, and keep its terms beside it."""

import base64
import hashlib
import json
import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlparse

import httpx
import pandas as pd
from tqdm.auto import tqdm

from trainer.data.manifest import SUFFIXES
from trainer.data.sources import INTO_THREE, MERGED, PUBLIC_SETS, Place, PublicSet
from trainer.errors import UsageError, WorkError

RETRIES = 5
TERMS = "SOURCE.json"  # beside the data: what it is, its licence, whom to cite
Files = dict[PurePosixPath, Callable[[], IO[bytes]]]


def get_set(name: str, output: Path, origins: list[str], tell: Callable[[str], None]) -> pd.DataFrame:
    """Lay out a public set, or the merged `three-class`, below `output`: <label>/<file>, manifest.csv, SOURCE.json.

    What is there already is not copied again, so a stopped run goes on with the same command. Masks go to OUTPUT_masks.

    Args:
        origins: archives or folders that hold the set, as NAME=FILE for a merged one; what is not given is downloaded.
        tell: is given each line a user should read.

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
        tell(f"{part.title}\n  {part.page}\n  licence: {part.licence}\n  cite: {part.citation}")
    given = _origins(name, parts, origins)
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for part in parts:
        places = given[part.name] or _download(part, output)
        found = _lay_out(part, output, places, merged=name in MERGED)
        if not found:
            raise UsageError(f"{', '.join(places)}: holds no picture of {part.name} ({part.place.__doc__})")
        tell(f"{part.name}: {len(found)} radiographs")
        rows += found
    table = pd.DataFrame(rows)
    _replace(output / "manifest.csv", table.to_csv(index=False))
    facts = [
        {key: value for key, value in asdict(part).items() if key in ("name", "title", "page", "licence", "citation")} for part in parts
    ]
    _replace(output / TERMS, json.dumps({"name": name, "images": len(table), "sets": facts}, indent=2))
    return table


def _origins(name: str, parts: list[PublicSet], origins: list[str]) -> dict[str, list[str]]:
    """What was given for each part."""
    if name not in MERGED:
        return {name: origins}
    given: dict[str, list[str]] = {part.name: [] for part in parts}
    for origin in origins:
        part, equals, file = origin.partition("=")
        if not equals or part not in given:
            raise UsageError(f"--from {origin}: {name} is merged from several sets; give NAME=FILE with NAME one of {', '.join(given)}")
        given[part].append(file)
    return given


def _lay_out(source: PublicSet, output: Path, origins: list[str], merged: bool) -> list[dict[str, str]]:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    masks: dict[tuple[str, str], list[str]] = {}
    for origin in origins:
        with _opened(origin) as files:
            origins_of = _metadata(files)
            for path, opener in tqdm(sorted(files.items()), desc=f"laying out {source.name}", unit="file", leave=False):
                place = source.place(path) if path.suffix.lower() in SUFFIXES else None
                if place and merged:
                    place = replace(place, label=INTO_THREE.get(place.label, place.label), split="")
                if place is None or not place.label:
                    continue
                key = (place.label, path.stem.lower().removesuffix("_mask"))
                if place.mask:
                    side = path.parent.name if path.parent.name.lower() in ("leftmask", "rightmask") else ""
                    target = output.with_name(f"{output.name}_masks") / place.label / side / path.name
                    masks.setdefault(key, []).append(os.path.relpath(target, output))
                else:
                    target = _target(output, place, path, source.name, merged)
                    collection = origins_of.get(path.stem.lower(), place.collection)
                    rows[(place.label, str(path))] = {
                        "file": str(target.relative_to(output)),
                        "label": place.label,
                        "split": place.split,
                        "group": place.group,
                        "collection": collection,
                        "mask": path.stem.lower(),
                    }
                _copy(opener, target)
    return [{**row, "mask": ";".join(masks.get((row["label"], row["mask"]), []))} for row in rows.values()]


def _target(output: Path, place: Place, path: PurePosixPath, source: str, merged: bool) -> Path:
    """<label>/<file>; in a merged set with the set's name before it, with a split of the set's own in the split's folder."""
    return output / place.split / place.label / (f"{source}-{path.name}" if merged else path.name)


def _copy(opener: Callable[[], IO[bytes]], target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    writing = target.with_name(f".{target.name}.part")
    with opener() as source, writing.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    os.replace(writing, target)


@contextmanager
def _opened(origin: str) -> Iterator[Files]:
    """Every file of a folder, a ZIP or a tar archive. Names of members choose no path: only `place` does."""
    path = Path(origin).expanduser()
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith("._")]
        yield {PurePosixPath(file.relative_to(path).as_posix()): partial(_plain_file, file) for file in files}
    elif path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
            yield {PurePosixPath(name): partial(archive.open, name) for name in names}
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            yield {PurePosixPath(member.name): partial(_member, archive, member) for member in members}
    else:
        raise UsageError(f"--from {origin}: " + ("no ZIP or tar archive" if path.exists() else "not found"))


def _plain_file(file: Path) -> IO[bytes]:
    return file.open("rb")


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    assert stream is not None  # only regular files are listed
    return stream


def _metadata(files: Files) -> dict[str, str]:
    """{file stem: origin} from the `*.metadata.xlsx` sheets of the Qatar sets: each row's web address, by its host."""
    found: dict[str, str] = {}
    for path, opener in files.items():
        if not path.name.lower().endswith("metadata.xlsx"):
            continue
        if not find_spec("openpyxl"):
            raise UsageError(f'{path.name} names each picture\'s origin; reading it needs openpyxl: pip install "cxr-hub[data]"')
        with opener() as stream:
            sheet = pd.read_excel(stream, dtype=str).rename(columns=lambda name: str(name).strip().lower())
        for name, address in zip(sheet.get("file name", ()), sheet.get("url", ()), strict=False):
            host = urlparse(str(address).strip()).netloc.removeprefix("www.")
            if host:
                found[str(name).strip().lower()] = host
    return found


def _download(source: PublicSet, output: Path) -> list[str]:
    """Fetch a set; gives its archives or its folder."""
    if source.kaggle:
        if not find_spec("kagglehub"):
            raise UsageError(
                f'{source.name} lies on Kaggle: pip install "cxr-hub[data]" and run again (an account may be asked for), or download it '
                f"from {source.page} and give the ZIP or folder: --from FILE"
            )
        import kagglehub

        try:
            return [kagglehub.dataset_download(source.kaggle)]
        except Exception as error:  # kagglehub raises many kinds, for network, account and terms alike
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WorkError(f"Kaggle: {reason}\nDownload it from {source.page} and give the ZIP or folder: --from FILE") from error
    if not source.urls:
        raise UsageError(f"{source.name} cannot be fetched by a program: {source.by_hand} ({source.page}) and give it: --from FILE")
    return [str(download(url, output / ".download")) for url in source.urls]


def download(url: str, folder: Path, wait: float = 2.0) -> Path:
    """Fetch a file over HTTPS into `folder`; a broken transfer goes on where it stopped, now or in the next run.

    Where the server publishes an MD5 (Content-MD5, or x-goog-hash as Google's storage has it), the whole file is checked.

    Raises:
        WorkError: it cannot be fetched, or its checksum is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / PurePosixPath(urlparse(url).path).name
    part = target.with_name(f"{target.name}.part")
    for attempt in range(RETRIES):
        if target.exists():
            break
        try:
            _transfer(url, part)
            os.replace(part, target)
        except httpx.HTTPError as error:
            if attempt == RETRIES - 1 or (isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403, 404, 410)):
                raise WorkError(
                    f"{url}: {error or type(error).__name__}; run the command again to go on, or give the file: --from FILE"
                ) from error
            time.sleep(wait * 2**attempt)
    return target


def _transfer(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer:
        if answer.status_code == 416:  # nothing is left to send
            return
        answer.raise_for_status()
        goes_on = answer.status_code == 206
        total = int(answer.headers.get("Content-Length", 0)) + (have if goes_on else 0)
        with part.open("ab" if goes_on else "wb") as stream:
            bar = tqdm(total=total or None, initial=have if goes_on else 0, unit="B", unit_scale=True, desc=part.stem, leave=False)
            for chunk in answer.iter_raw():  # as it arrives: what came before a break is kept
                stream.write(chunk)
                bar.update(len(chunk))
            bar.close()
    if total and part.stat().st_size < total:
        raise httpx.ReadError("the connection ended early")
    published = _published_md5(answer.headers)
    with part.open("rb") as stream:
        if published and hashlib.file_digest(stream, "md5").digest() != published:
            part.unlink()
            raise WorkError(f"{url}: it arrived damaged, its MD5 is not the published one; run the command again to fetch it anew")


def _published_md5(headers: httpx.Headers) -> bytes:
    marks = [
        headers.get("Content-MD5", ""),
        *(part.strip().removeprefix("md5=") for part in headers.get("x-goog-hash", "").split(",") if "md5=" in part),
    ]
    return next((base64.b64decode(mark) for mark in marks if mark), b"")


def _replace(target: Path, text: str) -> None:
    writing = target.with_name(f".{target.name}")
    writing.write_text(text, encoding="utf-8")
    os.replace(writing, target)


def read_sources(files: Iterable[str]) -> list[dict[str, Any]]:
    """The public sets that these pictures were laid out from, with licence and citation; none where they are a user's own."""
    folders = {folder for file in files for folder in Path(file).parents[:3]}  # below <split>/<label>/, or one of the two
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder / TERMS for folder in folders):
        if file.is_file():
            found |= {part["name"]: part for part in json.loads(file.read_text(encoding="utf-8"))["sets"]}
    return list(found.values())
