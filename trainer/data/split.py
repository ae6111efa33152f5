"""Who trains and who tests: patients and copies of an image stay together, and a split that is written down stays."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import train_test_split

from trainer.errors import UsageError
from trainer.tasks import normalise_label

PROTECTED = ("external", "test", "validation", "train")  # of several sides a group goes to the first
SHARES = {"test": 0.15, "validation": 0.15, "train": 0.70}
SOURCE_TB = {"normal": (2240, 2800), "tuberculosis": (448, 560)}  # the last file number of train and of validation


Members = dict[str, set[str]]  # of a group: the groups that copies joined into it


def fill_groups(rows: pd.DataFrame, copies: Iterable[tuple[int, int]] = ()) -> Members:
    """Give every row a `group`: the manifest's own, joined where the same image stands in two.

    Args:
        copies: pairs of row numbers that show the same image, besides those of equal sha256.

    Returns:
        For each group in the manifest what it was joined from: patients, or lone images by their sha256.
    """
    keys, names = pd.factorize(rows["group"].where(rows["group"] != "", rows["sha256"]))
    images, known = pd.factorize(rows["sha256"])
    pairs = keys[np.array(list(copies), int).reshape(-1, 2)]
    ends = np.concatenate([keys, pairs[:, 0]]), np.concatenate([len(names) + images, pairs[:, 1]])
    size = len(names) + len(known)
    graph = coo_array((np.ones(len(ends[0])), ends), shape=(size, size))
    component = connected_components(graph, directed=False)[1][: len(names)]
    joined = pd.Series(names, dtype=object).groupby(component).transform("min").to_numpy()
    rows["group"] = joined[keys]
    return {str(name): set(part) for name, part in pd.Series(names, dtype=object).groupby(joined)}


def fill_splits(rows: pd.DataFrame, members: Members, seed: int = 0) -> list[str]:
    """Give every row a `split`. A filled cell never moves: what is kept as a manifest stays when images are added.

    An empty cell follows the filled ones of its group, else the hash of its group's name. Where that is two sides (a
    copy joins what stood apart) it goes to the more protected one, PROTECTED. Only where no cell is empty, and no row
    is validation or none is test, is that split taken from train. The order of the rows changes nothing.

    Returns:
        What was done that a user should know.
    """
    if (rows["split"] == "").any():
        notes = _follow_groups(rows)
        return [*notes, *grouped_split(rows, members, SHARES, seed)]
    present = set(rows["split"])
    missing = {split: SHARES[split] for split in ("validation", "test") if split not in present}
    if not missing or "train" not in present:
        return []
    train = rows[rows["split"] == "train"].assign(split="")
    notes = grouped_split(train, members, {**missing, "train": 1 - sum(missing.values())}, seed)
    rows.loc[train.index, "split"] = train["split"]
    return [f"no {' and no '.join(missing)} split was given: taken from train", *notes]


def _follow_groups(rows: pd.DataFrame) -> list[str]:
    """Fill the empty cells of groups that have filled ones."""
    filled = rows["split"] != ""
    if not filled.any():
        return []
    sides = rows[filled].groupby("group")["split"].agg(set)
    new = ~filled & rows["group"].isin(sides.index)
    torn = sorted(group for group in set(rows.loc[new, "group"]) if len(sides[group]) > 1)
    rows.loc[new, "split"] = rows.loc[new, "group"].map(sides.map(_most_protected))
    notes = [
        f"{filled.sum()} images keep their split; of the others {new.sum()} follow a patient or image that has one"
    ]
    if torn:
        where = f"{len(torn)} groups with new images stand in more than one split (first: {torn[0]})"
        order = ", ".join(PROTECTED)
        notes.append(f"{where}: the new ones go to the first of {order} among them, the others stay where they are")
    return notes


def _most_protected(sides: Iterable[str]) -> str:
    return min(sides, key=PROTECTED.index)


def grouped_split(rows: pd.DataFrame, members: Members, shares: dict[str, float], seed: int) -> list[str]:
    """Split the rows without `split` by a hash of each group, a function of the group and the seed alone.

    Groups that a copy joins go together to the most protected of their sides. A class that a split lacks (of few
    images) gets one of these groups moved there.
    """
    free = set(rows.loc[rows["split"] == "", "group"])
    sides = {name: _most_protected(_side(key, shares, seed) for key in members[name]) for name in free}
    joined = sum(len(members[name]) > 1 for name in free)
    moved = _fill_empty(rows, sides, shares, seed)
    rows["split"] = rows["split"].where(rows["split"] != "", rows["group"].map(sides))
    notes = [f"split by group (seed {seed}): {_counts(rows)}"]
    if joined:
        where = "where their sides differed, to the most protected"
        notes.append(f"{joined} groups were joined by copies of an image; {where}")
    if moved:
        notes.append(f"few images: {moved} groups were moved so that each split holds each class")
    return notes


def _side(group: str, shares: dict[str, float], seed: int) -> str:
    """The split whose part of 0..1 the group's position falls into; `shares` end with train."""
    ends = np.cumsum(list(shares.values()))[:-1]
    return list(shares)[int(np.searchsorted(ends, _position(f"{seed}:{group}"), side="right"))]


def _position(text: str) -> float:
    """A hash of the text, evenly spread over 0..1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def _fill_empty(rows: pd.DataFrame, sides: dict[str, str], shares: dict[str, float], seed: int) -> int:
    moved = 0
    for label, part in rows.groupby("label"):
        kept = part.loc[part["split"] != "", ["group", "split"]].drop_duplicates()["split"]
        names = sorted(set(part["group"]) & set(sides), key=lambda name: _position(f"{seed}:{label}:{name}"))
        for split in shares:
            held = Counter([*kept, *(sides[name] for name in names)])
            spare = next((name for name in names if held[sides[name]] > 1), None)
            if split not in held and spare is not None:
                sides[spare] = split
                moved += 1
    return moved


def hold_out(rows: pd.DataFrame, members: Members, collection: str, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """One collection becomes `external`, the rest is split by group; whom both hold is left out of the rest.

    Raises:
        UsageError: there is no such collection, or nothing besides it.
    """
    known = sorted(set(rows["collection"]))
    if collection not in known or len(known) < 2:
        names = ", ".join(name or "(none)" for name in known)
        raise UsageError(f"--hold-out {collection}: the data has the collections {names}")
    outside = rows["collection"] == collection
    shared = ~outside & rows["group"].isin(rows.loc[outside, "group"])
    inside = rows[~outside & ~shared].assign(split="")
    notes = grouped_split(inside, members, SHARES, seed)
    rows = rows[~shared].assign(split=inside["split"]).fillna({"split": "external"})
    if shared.any():
        notes.append(f"{int(shared.sum())} images are left out: the external images show the same patient or image")
    absent = sorted(set(rows["label"]) - set(inside["label"]))
    if absent:
        notes.append(f"only external images show {', '.join(absent)}: nothing else could teach it")
    return rows, notes


def source_split(rows: pd.DataFrame, task: str) -> list[str]:
    """The split of the project that is reproduced: by file number (tb), seeded and stratified (covid), its folders
    (three-class).

    Raises:
        UsageError: the data is not laid out as the source's.
    """
    if task == "tb":
        rows["split"] = [_tb_side(file, label) for file, label in zip(rows["file"], rows["label"], strict=True)]
    elif task == "covid":
        order = rows.sort_values(["label", "file"], key=lambda column: column.map(_natural))
        rest, test = train_test_split(order, test_size=0.2, random_state=123, stratify=order["label"])
        train, validation = train_test_split(rest, test_size=0.25, random_state=123, stratify=rest["label"])
        for name, part in (("train", train), ("validation", validation), ("test", test)):
            rows.loc[part.index, "split"] = name
    elif (rows["split"] == "").any():
        raise UsageError("--split source: three-class has its own folders train, val and test; this data has none")
    return [f"the source's split: {_counts(rows)} (by image: patients may stand on two sides; cxr data check tells)"]


def _tb_side(file: str, label: str) -> str:
    number = re.search(r"(\d+)\.\w+$", file)
    if number is None or normalise_label(label) not in SOURCE_TB:
        raise UsageError(f"{file}: --split source needs files named as Normal-1.png … Tuberculosis-700.png")
    train, validation = SOURCE_TB[normalise_label(label)]
    return "train" if int(number[1]) <= train else "validation" if int(number[1]) <= validation else "test"


def _natural(text: str) -> tuple[str, ...]:
    """Sorts file-2 before file-10."""
    return tuple(part.zfill(12) if part.isdigit() else part for part in re.split(r"(\d+)", text))


def find_leaks(rows: pd.DataFrame, copies: Iterable[tuple[int, int]] = ()) -> tuple[dict[str, int], list[str]]:
    """Count the pairs of near copies and the groups on two sides of the split; a note that names the first, if any."""
    split = rows["split"]
    pairs = [(one, two) for one, two in copies if split[one] != split[two]]
    sides = rows.groupby("group")["split"].nunique()
    groups = sides.index[sides > 1]
    counts = {"near_copies_across_splits": len(pairs), "groups_across_splits": len(groups)}
    if not len(groups):
        return counts, []
    one, two = pairs[0] if pairs else rows[rows["group"] == groups[0]].drop_duplicates("split").index[:2]
    first = " and ".join(f"{rows['file'][number]} ({split[number]})" for number in (one, two))
    leak = (
        f"{len(pairs)} pairs of near copies and {len(groups)} groups stand on two sides of the split (first: {first})"
    )
    return counts, [f"LEAK: {leak}"]


def label_conflicts(rows: pd.DataFrame) -> list[str]:
    """A note on images that stand under two labels, if any."""
    labels = rows.groupby("sha256")["label"].nunique()
    torn = rows["sha256"].isin(labels.index[labels > 1])
    if not torn.any():
        return []
    images = int((labels > 1).sum())
    return [f"LABEL CONFLICT: {images} images stand under two labels (first: {rows['file'][torn].iloc[0]})"]


def _counts(rows: pd.DataFrame) -> str:
    counts = rows["split"].value_counts()
    return ", ".join(f"{name} {counts[name]}" for name in ("train", "validation", "test", "external") if name in counts)
