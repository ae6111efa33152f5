"""Runs beside each other on the pictures that both were asked about."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trainer.evaluation.paired import compare_answers, compare_aurocs, verdict
from trainer.evaluation.points import decided
from trainer.run import Run


def compare_runs(runs: list[Run], split: str) -> list[str]:
    """For each two runs of the same labels: paired tests on the pictures of a split that both predicted, in words.

    What is counted are groups: pictures that one of the two runs, or a chain through both, knows to be of one group.
    """
    tables = {run: _predictions(run, split) for run in runs}
    lines = []
    for one, other in combinations(runs, 2):
        names = (one.path.name, other.path.name)
        first, second = tables[one], tables[other]
        shared = first.index.intersection(second.index)
        if not len(shared) or list(first.columns) != list(second.columns):
            lines.append(f"{names[0]} and {names[1]}: no {split} picture of the same question in both")
            continue
        first, second = first.loc[shared], second.loc[shared]
        groups = joint_groups([one, other], shared)
        right, other_right = ((part["decision"] == part["label"]).to_numpy() for part in (first, second))
        tests = [compare_answers(right, other_right, groups)]
        scores = _scores(first)
        positive = (first["label"] == scores[-1].removeprefix("p:")).to_numpy()
        if len(scores) == 2 and positive.any() and not positive.all():
            tests.append(compare_aurocs(positive, first[scores[1]].to_numpy(), second[scores[1]].to_numpy(), groups))
        lines.append(f"{names[0]} and {names[1]} on the same {len(shared)} {split} pictures in {groups.max() + 1} groups:")
        lines += [f"  {verdict(test, names)}" for test in tests]
    return lines


def joint_groups(runs: list[Run], pictures: pd.Index) -> np.ndarray:
    """The group [N], numbered from 0, of each picture (by sha256): those that are linked by the groups of any run.

    Names of groups are salted, so they say something within their own run's manifest.csv alone.
    """
    known = [pd.read_csv(run.path / "manifest.csv", dtype=str, keep_default_na=False).assign(run=str(run.path)) for run in runs]
    rows = pd.concat([*(table[table["group"] != ""] for table in known), pd.DataFrame({"sha256": pictures, "group": pictures, "run": ""})])
    picture, places = pd.factorize(rows["sha256"])
    group = rows.groupby(["run", "group"]).ngroup().to_numpy()
    size = len(places) + int(group.max()) + 1
    _, component = connected_components(coo_array((np.ones(len(rows)), (picture, group + len(places))), shape=(size, size)), directed=False)
    return np.unique(component[places.get_indexer(pictures)], return_inverse=True)[1]


def _predictions(run: Run, split: str) -> pd.DataFrame:
    """Label, decision and scores of a split by sha256; an older run's decision follows from its scores."""
    table = pd.read_csv(run.path / "predictions.csv", dtype={"sha256": str})
    table = table[table["split"] == split].drop_duplicates("sha256").set_index("sha256")
    if "decision" not in table:
        labels = tuple(name.removeprefix("p:") for name in _scores(table))
        indices = decided(table[_scores(table)].to_numpy(), labels, run.read_json("config.json").get("operating_point"))
        table["decision"] = np.array(labels)[indices]
    return table[["label", "decision", *_scores(table)]]


def _scores(table: pd.DataFrame) -> list[str]:
    return [column for column in table.columns if column.startswith("p:")]
