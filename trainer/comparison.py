"""Runs beside each other on the pictures that both were asked about."""

from itertools import combinations

import pandas as pd

from trainer.evaluation.paired import compare_answers, compare_aurocs, verdict
from trainer.run import Run


def compare_runs(runs: list[Run], split: str) -> list[str]:
    """For each two runs of the same labels: paired tests on the pictures of a split that both predicted, in words."""
    tables = {}
    for run in runs:
        table = pd.read_csv(run.path / "predictions.csv", dtype={"sha256": str})
        tables[run] = table[table["split"] == split].drop_duplicates("sha256").set_index("sha256")
    lines = []
    for one, other in combinations(runs, 2):
        names = (one.path.name, other.path.name)
        first, second = tables[one], tables[other]
        shared = first.index.intersection(second.index)
        if not len(shared) or list(first.columns) != list(second.columns):
            lines.append(f"{names[0]} and {names[1]}: no {split} picture of the same question in both")
            continue
        first, second = first.loc[shared], second.loc[shared]
        tests = [compare_answers(*((part["prediction"] == part["label"]).to_numpy() for part in (first, second)))]
        scores = [column for column in first.columns if column.startswith("p:")]
        positive = (first["label"] == scores[-1].removeprefix("p:")).to_numpy()
        if len(scores) == 2 and positive.any() and not positive.all():
            tests.append(compare_aurocs(positive, first[scores[1]].to_numpy(), second[scores[1]].to_numpy()))
        lines.append(f"{names[0]} and {names[1]} on the same {len(shared)} {split} pictures:")
        lines += [f"  {verdict(test, names)}" for test in tests]
    return lines
