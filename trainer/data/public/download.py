"""Fetching a public set: from Kaggle through kagglehub, or over HTTPS with broken transfers resumed."""

import base64
import hashlib
import os
import time
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import httpx
from tqdm.auto import tqdm

from trainer.data.public.sets import PublicSet
from trainer.errors import UsageError, WorkError


def fetch_archives(public_set: PublicSet, output: Path) -> list[str]:
    """Download a set below OUTPUT/.download; gives the paths of its archives or its folder.

    Raises:
        UsageError: it must be fetched by hand, or kagglehub is not installed.
        WorkError: the download failed.
    """
    by_hand = f"download it from {public_set.page} and give the ZIP or folder: --from FILE"
    if not public_set.kaggle and not public_set.urls:
        raise UsageError(f"{public_set.name} cannot be fetched by a program ({public_set.by_hand}): {by_hand}")
    if not public_set.kaggle:
        return [str(download(url, output / ".download")) for url in public_set.urls]
    if not find_spec("kagglehub"):
        cure = f'pip install "cxr-hub[data]" and run again (an account may be asked for), or {by_hand}'
        raise UsageError(f"{public_set.name} lies on Kaggle: {cure}")
    import kagglehub

    try:
        return [kagglehub.dataset_download(public_set.kaggle)]
    except Exception as error:  # kagglehub raises many kinds, for network, account and terms alike
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WorkError(f"Kaggle: {reason}; {by_hand}") from error


def download(url: str, folder: Path, wait: float = 2.0) -> Path:
    """Fetch a file over HTTPS into `folder`; a broken transfer goes on where it stopped, now or in the next run.

    Where the server publishes an MD5 (Content-MD5, or x-goog-hash as Google's storage has it), the whole file is
    checked.

    Raises:
        WorkError: it cannot be fetched, or its checksum is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / PurePosixPath(urlparse(url).path).name
    part = target.with_name(f"{target.name}.part")
    for pause in (1, 2, 4, 8, 0):
        if target.exists():
            break
        try:
            _transfer(url, part)
            os.replace(part, target)
        except httpx.HTTPError as error:
            answer = getattr(error, "response", None)
            if not pause or (answer is not None and answer.status_code in (401, 403, 404, 410)):
                cure = "run the command again to go on, or give the file: --from FILE"
                raise WorkError(f"{url}: {error or type(error).__name__}; {cure}") from error
            time.sleep(wait * pause)
    return target


def _transfer(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer:
        if answer.status_code == 416:  # nothing is left to fetch
            return
        answer.raise_for_status()
        have = have if answer.status_code == 206 else 0
        total = have + int(answer.headers.get("Content-Length", 0))
        bar = tqdm(total=total or None, initial=have, unit="B", unit_scale=True, desc=part.stem, leave=False)
        with part.open("ab" if have else "wb") as stream, bar:
            for chunk in answer.iter_raw():  # as it arrives: what came before a break is kept
                stream.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < total:
        raise httpx.ReadError("the connection ended early")
    published = _published_md5(answer.headers)
    with part.open("rb") as stream:
        if published and hashlib.file_digest(stream, "md5").digest() != published:
            part.unlink()
            cure = "run the command again to fetch it anew"
            raise WorkError(f"{url}: it arrived damaged, its MD5 is not the published one; {cure}")


def _published_md5(headers: httpx.Headers) -> bytes:
    google = (part.strip().partition("md5=")[2] for part in headers.get("x-goog-hash", "").split(","))
    return base64.b64decode(next(filter(None, [headers.get("Content-MD5", ""), *google]), ""))
