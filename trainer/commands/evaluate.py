"""`cxr evaluate`: metrics of a run on other data."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer.commands.options import BY, DATA, JSON, OTHERS, OUTPUT_FILE, RUN, Commands, add_command, log, split
from trainer.commands.tables import metrics_text, print_report
from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.data.labelled import LabelledImages
    from trainer.run import Run


def evaluate(
    run: "Run",
    data: str,
    split: str = "test",
    prevalences: Sequence[float] = (),
    other_diseases: str | None = None,
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """Metrics of a run on a split of some data, or on all of it where the data has no splits; the run is never changed.

    Research demonstration, not a medical device.

    Args:
        run: a run with a model.
        data: a folder, a manifest or a Hub dataset.
        split: train, validation, test or external.
        prevalences: for predictive values, each between 0 and 1 (default .01, .05 and .20).
        other_diseases: data with films of diseases that the model does not answer, to see what it calls them.
        by: columns of a CSV, as sex: metrics of each of their groups, and how they differ from the others'.

    Returns:
        metrics.json of this split, `skipped` (files that cannot be read), `left_out` (films that the model learned
        from) and, with `by`, `subgroups`.

    Raises:
        UsageError: no such split, nothing in it that is new to the model, classes that it does not know, or no such
            column.
    """
    if not all(0 < prevalence < 1 for prevalence in prevalences):
        raise UsageError("--prevalence: a proportion between 0 and 1, e.g. .02")
    model, processor = run.load_model()  # first: a model that is refused needs nothing else

    from trainer.data.labelled import load_for_model, load_other_diseases
    from trainer.data.manifest import read_columns
    from trainer.evaluation.report import report_other_diseases
    from trainer.inference import for_inference

    labelled, counts = load_for_model(data, split, model.labels, processor, run.manifest(), log)
    columns = read_columns(data, labelled.rows["file"], by) if by else None
    model = for_inference(model, processor)
    report = {**_assess(run, model, processor, labelled, split, prevalences, columns), **counts}
    if other_diseases:
        others = load_other_diseases(other_diseases, model.labels, processor, run.manifest(), log)
        report["other_diseases"] = report_other_diseases(model, processor, others)
    return report


def _assess(
    run: "Run",
    model: Any,
    processor: Any,
    labelled: "LabelledImages",
    split: str,
    prevalences: Sequence[float],
    columns: Any,
) -> dict[str, Any]:
    """metrics.json of a split, with its `subgroups` where there are columns."""
    from trainer.evaluation.report import PREVALENCES, assess, score
    from trainer.evaluation.subgroups import report_subgroups

    points = run.read_json("metrics.json").get("operating_points", []) if run.has("metrics.json") else []
    part = score(model, processor, labelled, split)
    report = assess(model, {split: part}, points, run.trained_collections(), tuple(prevalences) or PREVALENCES)
    if columns is not None:
        report["subgroups"] = report_subgroups(columns, part, model.labels, model.config.operating_point)
    return report


def add_parser(commands: Commands) -> None:
    """cxr evaluate"""
    parser = add_command(
        commands,
        "evaluate",
        "metrics of a run on other data",
        *(RUN, DATA, OTHERS, BY, split("train", "validation", "test", "external"), OUTPUT_FILE, JSON),
        example="cxr evaluate runs/tb --data other-hospital.csv --split external",
    )
    prevalence_help = "for predictive values: the proportion of diseased, e.g. .02 (default .01, .05 and .20)"
    parser.add_argument("--prevalence", type=float, action="append", default=[], metavar="P", help=prevalence_help)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the metrics, and write them to --output."""
    from trainer.run import load_run

    chosen = options.split, options.prevalence, options.other_diseases, options.by
    report = evaluate(load_run(options.model), options.data, *chosen)
    print_report(report, options, metrics_text)
    return 0
