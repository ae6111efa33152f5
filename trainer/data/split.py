"""Who trains and who tests: a seeded, stratified split in which copies and patients stay together."""

import hashlib

import pandas as pd

SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}


def fill_groups(rows: pd.DataFrame) -> None:
    """Give every row a `group`: the manifest's own, joined where two of its groups hold the same sha256."""
    keys = [group or sha for group, sha in zip(rows["group"], rows["sha256"], strict=True)]
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for key, sha in zip(keys, rows["sha256"], strict=True):
        parent[root(key)] = root(f"sha256:{sha}")
    names: dict[str, str] = {}
    rows["group"] = [names.setdefault(root(key), key) for key in keys]


def fill_splits(rows: pd.DataFrame, seed: int) -> list[str]:
    """Give every row a `split` where the data has none; take a missing validation or test split from train.

    Returns:
        What was done that a user should know.
    """
    if (rows["split"] == "").all():
        rows["split"] = _stratified(rows, SHARES, seed)
        return [f"no split was given: {_counts(rows)} (stratified by label, seed {seed})"]
    present = set(rows["split"])
    missing = {split: SHARES[split] for split in ("validation", "test") if split not in present}
    if not missing or "train" not in present:
        return []
    train = rows["split"] == "train"
    shares = {"train": 1 - sum(missing.values()), **missing}
    rows.loc[train, "split"] = _stratified(rows[train], shares, seed)
    return [f"no {' and no '.join(missing)} split was given, so it is taken from train: {_counts(rows)}"]


def find_leaks(rows: pd.DataFrame) -> list[str]:
    """Say which groups stand on two sides of the split, and which pictures have two labels."""
    notes = []
    sides = rows.groupby("group")["split"].nunique()
    if (sides > 1).any():
        notes.append(f"LEAK: {int((sides > 1).sum())} groups (a patient, or copies of one picture) stand in more than one split")
    labels = rows.groupby("sha256")["label"].nunique()
    if (labels > 1).any():
        file = rows.loc[rows["sha256"] == labels.index[labels > 1][0], "file"].iloc[0]
        notes.append(f"LABEL CONFLICT: {int((labels > 1).sum())} pictures stand under two labels (first: {file})")
    return notes


def _stratified(rows: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    """Groups of each label, in an order fixed by the seed, dealt out so that every split keeps to its share of images."""
    counted = rows.value_counts(["group", "label"]).reset_index().sort_values(["count", "label"], ascending=[False, True])
    labels = dict(counted.drop_duplicates("group")[["group", "label"]].itertuples(index=False, name=None))
    sizes = rows["group"].value_counts().to_dict()
    placed: dict[str, str] = {}
    for label in sorted(set(labels.values())):
        groups = [group for group in labels if labels[group] == label]
        groups.sort(key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
        counts = dict.fromkeys(shares, 0)
        for group in groups:
            split = min(shares, key=lambda name: (counts[name] + sizes[group] / 2) / shares[name])
            counts[split] += sizes[group]
            placed[group] = split
    return rows["group"].map(placed)


def _counts(rows: pd.DataFrame) -> str:
    counts = rows["split"].value_counts()
    return ", ".join(f"{name} {counts[name]}" for name in ("train", "validation", "test", "external") if name in counts)
