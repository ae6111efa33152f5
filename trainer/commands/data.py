"""`cxr data`: fetch, check, split and publish data, draw phantoms."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands import data_check
from trainer.commands.options import DATA_ARGUMENT, LICENCE, PRIVATE, REPO_ID, Commands, add_command, parent
from trainer.errors import UsageError, hub_errors
from trainer.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

    from trainer.data.split import Members

TASK = parent("--task", choices=TASKS, default="tb", help="default: tb")
SEED = parent("--seed", type=int, default=0, metavar="S", help="another seed gives another result (default 0)")
SPLIT_HELP = """grouped (default): patients and near copies together, 70/15/15; a split cell that is filled stays, so
add new images with empty cells to the CSV that this wrote;
source: the split of the project being reproduced; leave-one-collection-out: each collection in turn is external"""


def split_data(
    data: str, output: str, strategy: str, task: str, collection: str | None, seed: int, anew: bool
) -> list[str]:
    """Write a manifest CSV with a split; see `write_manifest`.

    Args:
        strategy: `grouped` (as `fill_splits`: filled cells stay), `source` or `leave-one-collection-out`; the last
            writes one manifest a collection, or the one of `collection`.
        anew: for `grouped`: forget the split that the data has, except `external`.

    Returns:
        What a user should know.

    Raises:
        UsageError: no such data, or data that the strategy does not fit.
    """
    from trainer.data.manifest import read_manifest, write_manifest
    from trainer.data.split import fill_groups, fill_splits, find_leaks, label_conflicts, source_split

    target = Path(output)
    if target.suffix.lower() != ".csv" or target.is_dir():
        raise UsageError(f"--output {output}: expected the name of a file that ends in .csv")
    if collection and strategy != "leave-one-collection-out":
        raise UsageError("--hold-out is for --split leave-one-collection-out")
    if anew and strategy != "grouped":
        raise UsageError("--anew is for --split grouped")
    manifest = read_manifest(data)
    rows, notes = manifest.rows, manifest.notes
    if strategy == "source":
        notes += source_split(rows, task)
        fill_groups(rows)
        write_manifest(rows, target, data)
        return notes
    rows, copies = _search_copies(rows, notes, data)
    members = fill_groups(rows, copies)
    if strategy == "grouped":
        if anew:
            rows["split"] = rows["split"].where(rows["split"] == "external", "")
        notes += [*fill_splits(rows, members, seed), *find_leaks(rows, copies)[1], *label_conflicts(rows)]
        write_manifest(rows, target, data)
        return notes
    return notes + _hold_out_each(rows, members, collection, target, data, seed)


def _hold_out_each(
    rows: "pd.DataFrame", members: "Members", collection: str | None, target: Path, data: str, seed: int
) -> list[str]:
    """Write a manifest for each collection that is held out, or for the one that is named; notes on each."""
    from trainer.data.manifest import write_manifest
    from trainer.data.split import hold_out

    names, notes = [collection] if collection else sorted(set(rows["collection"])), []
    files = [
        target if collection else target.with_name(f"{target.stem}-{name.replace('/', '-')}.csv") for name in names
    ]
    if len(set(files)) < len(files):
        raise UsageError(f"{data}: two collections would have one file; rename one of {', '.join(names)}")
    for name, file in zip(names, files, strict=True):
        part, part_notes = hold_out(rows, members, name, seed)
        write_manifest(part, file, data)
        notes += [f"{file.name}: {note}" for note in part_notes]
    return notes


def _search_copies(rows: "pd.DataFrame", notes: list[str], data: str) -> "tuple[pd.DataFrame, list[tuple[int, int]]]":
    """The rows that can be read, and pairs of near copies among them; adds to the notes."""
    from trainer.data.check import inspect_files, thumbnails
    from trainer.data.copies import find_copies

    infos = inspect_files(rows["file"])
    bad = [f"{file}: {info.error}" for file, info in zip(rows["file"], infos, strict=True) if info.error]
    if bad:
        notes.append(f"{len(bad)} files cannot be read and are left out (first: {bad[0]})")
    readable = [not info.error for info in infos]
    if not any(readable):
        raise UsageError(f"{data}: no file can be read")
    copies = find_copies(thumbnails(infos))
    notes += copies.note
    return rows[readable].reset_index(drop=True), copies.index_pairs


def push_data(data: str, repo_id: str, licence: str, private: bool = False) -> str:
    """Publish a folder or manifest as a Hub dataset, in one commit; gives its address.

    Images go as 8-bit grey PNG without headers or names, groups under salted names.

    Raises:
        UsageError: no such data, or something that the Hub does not take: see `check_target`.
        WorkError: the upload failed.
    """
    import secrets
    import tempfile

    from hub_cards.dataset import publish_dataset
    from trainer.commands.publish import check_target
    from trainer.data.hub_writing import write_parquet
    from trainer.data.manifest import read_manifest
    from trainer.data.public.layout import read_terms
    from trainer.data.split import fill_groups

    licence = check_target(repo_id, licence, private, "dataset")
    rows = read_manifest(data).rows
    if 0 < (rows["split"] == "").sum() < len(rows):
        raise UsageError(f"{data}: some rows have no split: cxr data split {data} --output NEW.csv fills them")
    fill_groups(rows)
    facts = {
        "collections": sorted(set(rows["collection"]) - {""}),
        "sources": read_terms(rows["file"]),
        "patients_known": bool((rows["group"] != rows["sha256"]).any()),
    }
    with tempfile.TemporaryDirectory(prefix="cxr-push-") as folder:
        splits, classes, errors = write_parquet(rows, Path(folder), secrets.token_bytes(16))
        if errors:
            print(f"note: {len(errors)} files cannot be read and are left out (first: {errors[0]})")
        with hub_errors(f"--repo-id {repo_id}"):
            facts |= {"splits": splits, "classes": classes}
            return publish_dataset(Path(folder), repo_id, licence, private, facts)


def add_parser(commands: Commands) -> None:
    """cxr data get, check, split, push, phantom"""
    data = add_command(commands, "data", "fetch, check, split and publish data, draw phantoms")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="COMMAND")
    _add_get(kinds)
    data_check.add_parser(kinds)
    _add_split(kinds)
    push = add_command(
        kinds,
        "push",
        "publish a prepared folder as a Hub dataset with its card",
        *(DATA_ARGUMENT, REPO_ID, LICENCE, PRIVATE),
        example="cxr data push my-films.csv --repo-id org/films --licence cc-by-4.0",
    )
    push.set_defaults(main=main_push)
    phantom_help = "draw phantoms: radiographs of nobody, with a known finding and its mask"
    phantom = add_command(kinds, "phantom", phantom_help, TASK, SEED, example="cxr data phantom --output phantoms")
    phantom.add_argument("--output", required=True, metavar="DIR", help="a new folder; masks go to DIR_masks beside it")
    count_help = "images in all, spread evenly over the labels (default 600)"
    phantom.add_argument("--count", type=int, default=600, metavar="N", help=count_help)
    phantom.set_defaults(main=main_phantom)


def _add_get(kinds: Commands) -> None:
    example = "cxr data get montgomery --output data/montgomery"
    get = add_command(kinds, "get", "fetch a public set and lay it out", example=example)
    get.add_argument("name", nargs="?", metavar="SET", help="its name; without one the sets are listed")
    output_help = "where to lay it out: DIR/<label>/…, manifest.csv, SOURCE.json; masks in DIR_masks"
    get.add_argument("--output", metavar="DIR", type=Path, help=output_help)
    from_help = (
        "an archive or folder that you downloaded, instead of a download; NAME=FILE for each part of a merged set"
    )
    get.add_argument("--from", dest="origins", action="append", default=[], metavar="FILE", help=from_help)
    get.set_defaults(main=main_get)


def _add_split(kinds: Commands) -> None:
    split = add_command(
        kinds,
        "split",
        "write a manifest with a split that does not leak",
        *(DATA_ARGUMENT, TASK, SEED),
        example="cxr data split my-films --output my-films.csv",
    )
    output_help = "the manifest to write; give it to cxr train as --data"
    split.add_argument("--output", required=True, metavar="CSV", help=output_help)
    strategies = ("grouped", "source", "leave-one-collection-out")
    split.add_argument("--split", choices=strategies, default="grouped", help=SPLIT_HELP)
    hold_out_help = "for leave-one-collection-out: only this one"
    split.add_argument("--hold-out", metavar="COLLECTION", help=hold_out_help)
    anew_help = "for grouped: forget the split that the data has, except external"
    split.add_argument("--anew", action="store_true", help=anew_help)
    split.set_defaults(main=main_split)


def main_get(options: argparse.Namespace) -> int:
    """Fetch a public set, or list them."""
    from trainer.data.public.layout import get_set
    from trainer.data.public.sets import MERGED, PUBLIC_SETS

    if not options.name:
        for public_set in PUBLIC_SETS.values():
            print(f"{public_set.name:<22}{public_set.title}")
        for name, parts in MERGED.items():
            print(f"{name:<22}{', '.join(parts)} merged")
        return 0
    if not options.output:
        raise UsageError("data get: --output DIR is needed")
    rows = get_set(options.name, options.output, options.origins, print)
    manifest = options.output / "manifest.csv"
    print(f"{len(rows)} radiographs: cxr data check {manifest}, then cxr data split {manifest} --output …")
    return 0


def main_split(options: argparse.Namespace) -> int:
    """Write a manifest and print what the user should know."""
    settings = (options.split, options.task, options.hold_out, options.seed, options.anew)
    for note in split_data(options.data, options.output, *settings):
        print(note)
    return 0


def main_push(options: argparse.Namespace) -> int:
    """Publish a data set and print its address."""
    print(push_data(options.data, options.repo_id, options.licence, options.private))
    return 0


def main_phantom(options: argparse.Namespace) -> int:
    """Draw phantoms and print how many of each label."""
    from trainer.data.phantom import write_phantoms

    counts = write_phantoms(Path(options.output), options.task, options.count, options.seed)
    drawn = ", ".join(f"{count} {label}" for label, count in counts.items())
    print(f"{options.output}: {drawn}  (drawings, not patients)")
    return 0
