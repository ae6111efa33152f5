"""`cxr data check`, `split` and `push`: what is done with data besides training on it."""

import base64
import io
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from PIL import Image

from hub_cards.dataset import publish_dataset
from trainer.data import check
from trainer.data.copies import find_copies
from trainer.data.hub_writing import write_parquet
from trainer.data.manifest import COLUMNS, read_manifest
from trainer.data.public.layout import read_terms
from trainer.data.split import fill_groups, fill_splits, find_leaks, hold_out, source_split
from trainer.errors import UsageError
from trainer.evaluation.shortcuts import tell_apart
from trainer.files import write_json, write_table, write_text
from trainer.publishing import hub_errors

PICTURED = 40  # most pairs that the report shows of a kind


def check_data(data: str, output: str | None) -> dict[str, Any]:
    """Inspect a folder or manifest; write report.html and report.json to `output` where it is given.

    Returns:
        The report as JSON.

    Raises:
        UsageError: no such data.
    """
    manifest = read_manifest(data)
    rows = manifest.rows
    looks = check.look_at(rows["file"])
    report = {"schema": 1, **check.find_faults(rows, looks, manifest.others), "shortcuts": _shortcuts(rows, looks)}
    report["leaks"] = check.leaks(report)
    if output:
        write_json(Path(output) / "report.json", report)
        write_text(Path(output) / "report.html", _render(report, dict(zip(rows["file"], looks, strict=True)), data))
    return report


def split_data(data: str, output: str, strategy: str, task: str, collection: str | None, seed: int, anew: bool) -> list[str]:
    """Write a manifest CSV with a split, its paths relative to itself where they can be.

    Args:
        strategy: `grouped` (as `fill_splits`: filled cells stay), `source` or `leave-one-collection-out`; the last writes
            one manifest a collection, or the one of `collection`.
        anew: for `grouped`: forget the split that is given, except `external`.

    Returns:
        What a user should know.

    Raises:
        UsageError: no such data, or data that the strategy does not fit.
    """
    manifest = read_manifest(data)
    rows, notes = manifest.rows, manifest.notes
    if strategy == "source":
        notes += source_split(rows, task)
        fill_groups(rows)
        _write_manifest(rows, Path(output))
        return notes
    looks = check.look_at(rows["file"])
    bad = [f"{file}: {look.error}" for file, look in zip(rows["file"], looks, strict=True) if look.error]
    if bad:
        notes.append(f"{len(bad)} files cannot be read and are left out (first: {bad[0]})")
    rows = rows[[not look.error for look in looks]].reset_index(drop=True)
    if rows.empty:
        raise UsageError(f"{data}: no file can be read")
    copies = find_copies(np.stack([look.thumbnail for look in looks if not look.error]))
    members = fill_groups(rows, copies.places)
    notes += copies.note
    if strategy == "grouped":
        if anew:
            rows["split"] = rows["split"].where(rows["split"] == "external", "")
        notes += [*fill_splits(rows, members, seed), *find_leaks(rows)]
        _write_manifest(rows, Path(output))
        return notes
    target = Path(output)
    for name in [collection] if collection else sorted(set(rows["collection"])):
        part, told = hold_out(rows, members, name, seed)
        place = target if collection else target.with_name(f"{target.stem}-{name}{target.suffix}")
        _write_manifest(part, place)
        notes += [f"{place.name}: {note}" for note in told]
    return notes


def push_data(data: str, repo_id: str, licence: str, private: bool, tell: Callable[[str], None]) -> str:
    """Publish a folder or manifest as a Hub dataset, in one commit; gives its address.

    Pictures go as 8-bit grey PNG without headers or names, groups under salted names.

    Raises:
        UsageError: no such data, an empty licence, or a repository name or token that the Hub does not take.
        WorkError: the upload failed.
    """
    if not licence.strip():
        raise UsageError("--licence: say under which licence the pictures may be published; without one they are not")
    rows = read_manifest(data).rows
    if 0 < (rows["split"] == "").sum() < len(rows):
        raise UsageError(f"{data}: some rows have no split: cxr data split {data} --output NEW.csv fills them")
    fill_groups(rows)
    sources = read_terms(rows["file"])
    with tempfile.TemporaryDirectory(prefix="cxr-push-") as folder:
        splits, classes, errors = write_parquet(rows, Path(folder), secrets.token_bytes(16))
        if errors:
            tell(f"note: {len(errors)} files cannot be read and are left out (first: {errors[0]})")
        collections = sorted(set(rows["collection"]) - {""})
        facts = {"splits": splits, "classes": classes, "collections": collections, "sources": sources, "patients_known": _patients(rows)}
        with hub_errors(repo_id):
            return publish_dataset(Path(folder), repo_id, licence.strip(), private, facts)


def _patients(rows: pd.DataFrame) -> bool:
    return bool((rows["group"] != rows["sha256"]).any())


def _write_manifest(rows: pd.DataFrame, target: Path) -> None:
    root = target.absolute().parent
    files = [os.path.relpath(file, root) if Path(file).is_relative_to(root) else file for file in rows["file"]]
    write_table(target, rows[list(COLUMNS)].assign(file=files))


def _shortcuts(rows: pd.DataFrame, looks: list[check.Look]) -> dict[str, Any]:
    """How well border pixels and global statistics tell the labels, over all and within each collection of several labels."""
    places = np.array([place for place, look in enumerate(looks) if not look.error])
    if not len(places):
        return {}
    pictures = check.thumbnails(looks, list(places))
    rows = rows.iloc[places]
    labels = rows["label"].to_numpy()
    groups = np.where(rows["group"] == "", rows["sha256"], rows["group"])
    parts = {"all": np.ones(len(rows), bool)}
    if rows["collection"].nunique() > 1:
        parts |= {name: (rows["collection"] == name).to_numpy() for name in sorted(set(rows["collection"]))}
    kinds = {"border pixels": check.border_pixels(pictures), "global statistics": check.global_statistics(pictures)}
    return {
        kind: {part: tell_apart(features[chosen], labels[chosen], groups[chosen]) for part, chosen in parts.items()}
        for kind, features in kinds.items()
    }


def _render(report: dict[str, Any], looks: dict[str, check.Look], data: str) -> str:
    def picture(file: str) -> str:
        stream = io.BytesIO()
        Image.fromarray(looks[file].thumbnail).save(stream, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()

    root = Path(data).expanduser().absolute()
    root = root if root.is_dir() else root.parent

    def name(file: str) -> str:
        return str(Path(file).relative_to(root)) if Path(file).is_relative_to(root) else file

    environment = Environment(loader=PackageLoader("trainer"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.get_template("check.html.jinja")
    labels = sorted({label for counts in report["collections"].values() for label in counts})
    return template.render(report=report, title=root.name, picture=picture, name=name, labels=labels, most=PICTURED)
