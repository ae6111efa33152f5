"""`cxr compare`: runs beside each other, with paired tests, and beside their sources' published figures."""

import argparse
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from hub_cards.formatting import figure_name, format_metric, format_number
from trainer.commands.options import Commands, add_command, log, split
from trainer.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from trainer.run import Run

COLUMNS = (
    *("auroc", "macro_auroc", "sensitivity", "specificity", "balanced_accuracy"),
    *("precision", "f1", "macro_f1", "accuracy"),
)


def compare(runs: "list[Run]", split: str = "test") -> list[str]:
    """For each two runs of the same labels: paired tests on the images of a split that both predicted, in words.

    Tests count groups: images that one of the two runs, or a chain through both, knows to be of one group.
    """
    return [line for pair in combinations(runs, 2) for line in _compare_two(pair, split)]


def _compare_two(runs: "tuple[Run, Run]", split: str) -> list[str]:
    from trainer.evaluation.paired import compare_answers, compare_aurocs, verdict

    names = (runs[0].path.name, runs[1].path.name)
    first, second = (_predictions(run, split) for run in runs)
    shared = first.index.intersection(second.index)
    if not len(shared) or list(first.columns) != list(second.columns):
        return [f"{names[0]} and {names[1]}: no {split} image of the same question in both"]
    first, second = first.loc[shared], second.loc[shared]
    groups = joint_groups(runs, shared)
    correct, other_correct = ((part["decision"] == part["label"]).to_numpy() for part in (first, second))
    tests = [compare_answers(correct, other_correct, groups)]
    columns = list(map(str, first))[2:]  # scores
    positive = (first["label"] == columns[-1].removeprefix("p:")).to_numpy()
    if len(columns) == 2 and positive.any() and not positive.all():
        tests.append(compare_aurocs(positive, first[columns[1]].to_numpy(), second[columns[1]].to_numpy(), groups))
    head = f"{names[0]} and {names[1]} on the same {len(shared)} {split} images in {groups.max() + 1} groups:"
    return [head, *(f"  {verdict(test, names)}" for test in tests)]


def joint_groups(runs: "Sequence[Run]", images: "pd.Index") -> "np.ndarray":
    """The group [N], numbered from 0, of each image (by sha256): images that the groups of any run link.

    Names of groups are salted, so they hold within their own run alone.
    """
    import numpy as np
    import pandas as pd
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    manifests = [run.read_table("manifest.csv").assign(run=str(run.path)) for run in runs]
    known = [table[table["group"] != ""] for table in manifests]
    rows = pd.concat([*known, pd.DataFrame({"sha256": images, "group": images, "run": ""})])
    image, names = pd.factorize(rows["sha256"])
    group = rows.groupby(["run", "group"]).ngroup().to_numpy()
    size = len(names) + int(group.max()) + 1
    links = coo_array((np.ones(len(rows)), (image, group + len(names))), shape=(size, size))
    _, component = connected_components(links, directed=False)
    return np.unique(component[names.get_indexer(images)], return_inverse=True)[1]


def _predictions(run: "Run", split: str) -> "pd.DataFrame":
    """Label, decision and scores of a split by sha256."""
    table = run.predictions()
    table = table[table["split"] == split].drop_duplicates("sha256").set_index("sha256")
    return table[["label", "decision", *(column for column in map(str, table) if column.startswith("p:"))]]


def add_parser(commands: Commands) -> None:
    """cxr compare"""
    parser = add_command(
        commands,
        "compare",
        "runs beside each other and beside their sources' figures",
        split("validation", "test", "external"),
        example="cxr compare runs/tb runs/tb-resnet50",
    )
    parser.add_argument("models", nargs="+", metavar="RUN", help="runs' folders, or org/name[@revision] on the Hub")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print a table of metrics, then the paired tests."""
    from trainer.run import load_run

    runs = [load_run(model) for model in options.models]
    for run in runs:
        if not run.finished:
            raise UsageError(f"{run.path}: not a finished run")
        for note in run.threshold_note():
            log(f"note: {note}")
    lines = compare(runs, options.split)
    print("\n".join([*_table(runs, options.split), *lines]))
    return 0


def _table(runs: "list[Run]", split: str) -> list[str]:
    """A Markdown table of runs, each followed by its source's metrics.

    The source's metrics are of its own data and test split, so they orient and do not compare. All but AUROC and
    accuracy are of the decision, which is the argmax in the sources.
    """
    reports = [run.read_json("metrics.json") for run in runs]
    splits = [report["splits"].get(split, {"n": "–", "metrics": {}}) for report in reports]
    keys = [key for key in COLUMNS if any(key in part["metrics"] for part in splits)]
    rows = [[f"run ({split})", "recipe", "decision", "n", *map(figure_name, keys)], ["---"] * (len(keys) + 4)]
    for run, report, part in zip(runs, reports, splits, strict=True):
        recipe, point = run.read_json("recipe.json"), report.get("decision")
        decision = f"{point['name']}, {point['label']} from {format_number(point['threshold'])}" if point else "argmax"
        metrics = [format_metric(part["metrics"].get(key)) for key in keys]
        rows.append([run.path.name, recipe["name"], decision, str(part["n"]), *metrics])
        if source := recipe["source"]:
            published = [format_number(source["figures"][key]) if key in source["figures"] else "–" for key in keys]
            rows.append(["– its source –", source["name"], "argmax", str(source["n"]), *published])
    return [f"| {' | '.join(row)} |" for row in rows]
