"""`cxr adapt`: set a model's threshold, its calibration and its last layer by a hospital's own films."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands.options import BY, DATA, JSON, RUN, Commands, add_command, log
from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.adaptation.films import LocalFilms
    from trainer.adaptation.fits import Change, Films
    from trainer.adaptation.selection import OutOfFold
    from trainer.evaluation.operating_points import Aim
    from trainer.run import Run

FEWEST, FEWEST_HEALTHY = 5, 20  # films of each label; healthy ones where there are no others


def adapt(
    run: "Run",
    data: str,
    output: str,
    sensitivity: float | None = None,
    specificity: float | None = None,
    prevalence: float | None = None,
    by: Sequence[str] = (),
) -> "tuple[Run, dict[str, Any]]":
    """Adapt a model to a hospital by its own films: the simplest change that they justify.

    Research demonstration, not a medical device. Candidates are the model as it is; of two labels another threshold;
    slope and intercepts of the scores beside it; another last layer beside these. What a film says of them never comes
    from a fit that saw it or its group. An adapted run is adapted from its original again.

    Args:
        run: a finished run.
        data: labelled films; of a model of two labels also 20 and more healthy ones alone, which set a threshold for a
            specificity.
        output: a folder that is not there yet.
        sensitivity: of two labels, what the threshold is to reach (default .90); or
        specificity: the same (of healthy films alone, default .70).
        prevalence: of the disease among those who will be asked; scores are calibrated for it.
        by: columns of a CSV, as sex: rates before and after in each of their groups.

    Returns:
        The adapted run, and what is in its metrics.json as `adaptation`.

    Raises:
        UsageError: too few films, an aim for a model of more labels than two, no such column, or an output that is
            there.
    """
    _check(run, output, sensitivity, specificity, prevalence)

    from trainer.adaptation.films import score_films
    from trainer.adaptation.write import write_adapted
    from trainer.data.manifest import read_columns

    local = score_films(run, data, log)
    columns = read_columns(data, local.rows["file"], by) if by else None
    report, change, test = _choose(local, data, sensitivity, specificity, prevalence, columns)
    report |= {"from": _origin(run), **local.counts, "slope": change.slope, "prevalence": prevalence}
    report["intercepts"] = dict(zip(local.counts["labels"], change.intercepts.tolist(), strict=True))
    report["threshold"] = {"before": local.known.threshold, "after": change.threshold}
    return write_adapted(run, Path(output), change, report, local, test), report


def _check(
    run: "Run", output: str, sensitivity: float | None, specificity: float | None, prevalence: float | None
) -> None:
    if not run.finished:
        raise UsageError(f"{run.path}: not a finished run")
    if Path(output).exists():
        raise UsageError(f"--output {output}: there is something already; give a new folder")
    asked = [value for value in (sensitivity, specificity, prevalence) if value is not None]
    if not all(0 < value < 1 for value in asked):
        raise UsageError("--sensitivity, --specificity and --prevalence are proportions between 0 and 1, e.g. .9")
    labels = run.read_json("recipe.json")["labels"]
    if asked and len(labels) > 2:
        raise UsageError(f"{run.path}: answers {', '.join(labels)}; aims and a prevalence are for models of two labels")


def _choose(
    local: "LocalFilms",
    data: str,
    sensitivity: float | None,
    specificity: float | None,
    prevalence: float | None,
    columns: Any,
) -> "tuple[dict[str, Any], Change, OutOfFold | None]":
    """The report, the change that films justify, and what it does out of fold, where it was tested so."""
    from trainer.adaptation.fits import local_aim

    if len(local.counts["labels"]) == 2 and not local.films.positive.any():
        specificity = 0.7 if specificity is None and sensitivity is None else specificity
        if specificity is None or prevalence is not None or columns is not None:
            raise UsageError(f"{data}: healthy films alone set a threshold for --specificity, nothing else")
        return *_by_healthy(local.films, local_aim(None, specificity), local.known), None
    _check_counts(data, local)
    return _by_labels(local, local_aim(sensitivity, specificity), prevalence, columns)


def _check_counts(data: str, local: "LocalFilms") -> None:
    """Refuse too few films of a label, or all of one group; of more labels than two some may have none."""
    labels, films = local.counts["labels"], local.films
    counted = {label: count for label, count in labels.items() if count or len(labels) == 2}
    if fewest := [f"{count} of {label}" for label, count in counted.items() if count < FEWEST]:
        raise UsageError(f"{data}: {', '.join(fewest)}; at least {FEWEST} films of each label are needed")
    if len(counted) < 2:
        raise UsageError(f"{data}: films of {next(iter(counted))} alone; those of another label are needed, too")
    for index, label in enumerate(labels):
        if len(set(films.groups[films.truth == index])) == 1:
            raise UsageError(f"{data}: all films of {label} are of one group (patient); those of another are needed")


def _by_healthy(films: "Films", aim: "Aim", known: "Change") -> "tuple[dict[str, Any], Change]":
    from trainer.adaptation.fits import fit_threshold, specificity_to_come
    from trainer.evaluation.intervals import proportion

    if len(set(films.groups)) < FEWEST_HEALTHY:
        have = f"{len(set(films.groups))} healthy films"
        raise UsageError(f"{have} and no others: {FEWEST_HEALTHY} are needed, or at least {FEWEST} of each label")
    scores = known.scores(films)[:, 1]
    change = replace(known, threshold=fit_threshold(films.positive, scores, aim))
    below = int((scores < change.threshold).sum())
    low, high = specificity_to_come(len(scores), below)
    came = {"value": below / len(scores), "low": low, "high": high, "method": "Wilks, of films to come"}
    report = {"method": "threshold", "aim": aim.words, "reason": "healthy films alone set a threshold, nothing else"}
    before = {"specificity": proportion(scores < known.threshold, films.groups)}
    return {**report, "before": before, "after": {"specificity": came}}, change


def _by_labels(
    local: "LocalFilms", aim: "Aim", prevalence: float | None, columns: Any
) -> "tuple[dict[str, Any], Change, OutOfFold]":
    from trainer.adaptation.fits import move_prevalence
    from trainer.adaptation.forecast import forecast
    from trainer.adaptation.report import films_needed, gains, metrics, population, subgroups
    from trainer.adaptation.selection import choose, fit, methods, out_of_fold

    films, known, labels = local.films, local.known, tuple(local.counts["labels"])
    tests = {method: out_of_fold(films, method, aim, known) for method in methods(len(labels))}
    method, reason = choose(films, aim, tests)
    if prevalence is not None and method not in ("calibration", "head"):
        method, reason = "calibration", "scores for a prevalence that is given take slope and intercept of these films"
    change, test = fit(films, method, aim, known, prevalence), tests[method]
    before, after = (metrics(films, each, labels) for each in (tests["none"], test))
    if len(labels) == 2 and method != "head":  # the order of the films stays
        after["auroc"] = before["auroc"]
    if method == "threshold":  # which changes no score
        after |= {name: before[name] for name in ("brier", "nll")}
    report: dict[str, Any] = {"method": method, "reason": reason, "before": before, "after": after}
    report["aim"] = aim.words if len(labels) == 2 else "the label with the highest score decides"
    if method == "head":
        report["gain"] = gains(films, tests["none"], test, labels)
    if len(labels) == 2:
        report["films_needed"] = films_needed(after["sensitivity"]["value"], float(films.positive.mean()))
    if prevalence:
        scores = move_prevalence(test.scores[:, 1], float(films.positive.mean()), prevalence)
        rates = {name: after[name]["value"] for name in ("sensitivity", "specificity")}
        report["population"] = population(
            films.positive, scores, {"threshold": change.threshold or 0.0, **rates}, prevalence
        )
    if curve := forecast(films):
        report["forecast"] = curve
    if columns is not None:
        report["subgroups"] = subgroups(films, tests["none"], test, columns)
    return report, change, test


def _origin(run: "Run") -> dict[str, str]:
    """Which model it was: of an adapted run, its original."""
    known = run.read_json("metrics.json").get("adaptation")
    return known["from"] if known else {"name": run.read_json("recipe.json")["name"], "weights": run.weights_hash()}


def add_parser(commands: Commands) -> None:
    """cxr adapt"""
    parser = add_command(
        commands,
        "adapt",
        "set a model's threshold, calibration and last layer by a hospital's own films",
        *(RUN, DATA, BY, JSON),
        example="cxr adapt tb --data our-films.csv --output runs/tb-here --sensitivity .9 --by sex",
        description="Set a model's threshold, calibration and last layer by a hospital's own films: the simplest "
        "change that they justify, tested on films that did not choose it. 20 and more healthy films alone set a "
        "threshold for a specificity. Films without labels: --report-only.",
    )
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--output", metavar="NEW", help="the adapted run: a folder that is not there yet")
    only_help = "films without labels: say only how like those they are that the model knows; change nothing"
    to.add_argument("--report-only", action="store_true", help=only_help)
    aims = parser.add_mutually_exclusive_group()
    aims.add_argument("--sensitivity", type=float, metavar="S", help="what the threshold is to reach (default .90)")
    aims.add_argument("--specificity", type=float, metavar="S", help="or this (healthy films alone: default .70)")
    prevalence_help = "of the disease among those who will be asked, e.g. .02: scores are calibrated for it"
    parser.add_argument("--prevalence", type=float, metavar="P", help=prevalence_help)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Adapt, and print the report."""
    import json

    from trainer.commands.adapt_text import to_text
    from trainer.run import load_run

    run = load_run(options.model)
    if options.report_only:
        unused = ("by", "sensitivity", "specificity", "prevalence")
        if given := [f"--{name}" for name in unused if getattr(options, name)]:
            raise UsageError(f"--report-only looks at films without labels: it takes no {', '.join(given)}")
        return _look(run, options)
    aims = options.sensitivity, options.specificity, options.prevalence
    adapted, report = adapt(run, options.data, options.output, *aims, options.by)
    print(json.dumps(report, indent=2) if options.json else to_text(report))
    log(f"run: {adapted.path}   (its card: {adapted.path / 'README.md'})")
    return 0


def _look(run: "Run", options: argparse.Namespace) -> int:
    """A first look at films without labels, printed."""
    import json

    from trainer.adaptation.first_look import first_look, verdict
    from trainer.commands.adapt_text import look_text
    from trainer.data.manifest import list_unlabelled

    report = first_look(run, list_unlabelled(options.data))
    print(json.dumps(report, indent=2) if options.json else look_text(report, verdict(report)))
    return 0
