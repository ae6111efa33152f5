"""`cxr adapt`: set a model's threshold and calibration by a hospital's own films."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_cards.formatting import format_metric, format_number
from trainer.commands.options import DATA, JSON, RUN, Commands, add_command, log
from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.adaptation.fits import Change
    from trainer.adaptation.selection import Films
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
) -> "tuple[Run, dict[str, Any]]":
    """Adapt a model of two labels to a hospital by its own films: the simplest change that they justify.

    Research demonstration, not a medical device. Candidates are the model as it is, another threshold, and slope and
    intercept of the scores beside it; what a film says of them never comes from a fit that saw it or its group. An
    adapted run is adapted from its original again.

    Args:
        run: a finished run with two labels.
        data: labelled films, or 20 and more healthy ones alone, which set a threshold for a specificity.
        output: a folder that is not there yet.
        sensitivity: what the threshold is to reach (default .90); or
        specificity: the same (of healthy films alone, default .70).
        prevalence: of the disease among those who will be asked; scores are calibrated for it.

    Returns:
        The adapted run, and what is in its metrics.json as `adaptation`.

    Raises:
        UsageError: too few films, more labels than two, or an output that is there.
    """
    from trainer.adaptation.fits import local_aim
    from trainer.adaptation.write import write_adapted

    _check(run, output, sensitivity, specificity, prevalence)
    films, known, counts = _score_films(run, data)
    if not films.positive.any():
        specificity = 0.7 if specificity is None and sensitivity is None else specificity
        if specificity is None or prevalence is not None:
            raise UsageError(f"{data}: healthy films alone set a threshold for --specificity, nothing else")
        report, change = _by_healthy(films, local_aim(None, specificity), known)
    elif fewest := [f"{count} of {label}" for label, count in counts["labels"].items() if count < FEWEST]:
        raise UsageError(f"{data}: {', '.join(fewest)}; at least {FEWEST} films of each label are needed")
    else:
        report, change = _by_both(films, local_aim(sensitivity, specificity), known, prevalence)
    report |= {"from": _origin(run), **counts, "slope": change.slope, "intercept": change.intercept}
    report |= {"threshold": {"before": known.threshold, "after": change.threshold}, "prevalence": prevalence}
    return write_adapted(run, Path(output), change, report), report


def _check(run: "Run", output: str, *proportions: float | None) -> None:
    if not run.finished:
        raise UsageError(f"{run.path}: not a finished run")
    if Path(output).exists():
        raise UsageError(f"--output {output}: there is something already; give a new folder")
    if not all(value is None or 0 < value < 1 for value in proportions):
        raise UsageError("--sensitivity, --specificity and --prevalence are proportions between 0 and 1, e.g. .9")


def _score_films(run: "Run", data: str) -> "tuple[Films, Change, dict[str, Any]]":
    """Local films by the original of a run, that original's threshold, and how many films there are."""
    from trainer.adaptation.fits import Change, to_margin
    from trainer.adaptation.selection import Films
    from trainer.data.labelled import load_for_model
    from trainer.evaluation.report import score
    from trainer.inference import for_inference

    model, processor = run.load_model()
    if len(model.labels) != 2:
        raise UsageError(f"{run.path}: answers {', '.join(model.labels)}; models of two labels can be adapted")
    labelled, counts = load_for_model(data, None, model.labels, processor, run.manifest(), log)
    part = score(for_inference(model, processor), processor, labelled, "external")
    positive, margins = part.truth == 1, to_margin(part.scores[:, 1])
    metrics = run.read_json("metrics.json")
    decision = metrics["decision"] or {"threshold": 0.5}
    if "adaptation" in metrics:
        margins = (margins - metrics["adaptation"]["intercept"]) / metrics["adaptation"]["slope"]
        decision = metrics["before"]["decision"] or {"threshold": 0.5}
    labels = {label: int((part.truth == index).sum()) for index, label in enumerate(model.labels)}
    tested = dict(run.predictions()[["sha256", "split"]].to_numpy()) if run.has("predictions.csv") else {}
    again = Counter(tested[sha] for sha in part.rows["sha256"] if sha in tested)
    sizes = {"n": len(positive), "groups": len(set(part.groups)), "labels": labels, "tested_before": dict(again)}
    return Films(margins, positive, part.groups), Change(decision["threshold"]), {**sizes, **counts}


def _by_healthy(films: "Films", aim: "Aim", known: "Change") -> "tuple[dict[str, Any], Change]":
    from trainer.adaptation.fits import fit_threshold, specificity_to_come
    from trainer.evaluation.intervals import proportion

    if len(set(films.groups)) < FEWEST_HEALTHY:
        have = f"{len(set(films.groups))} healthy films"
        raise UsageError(f"{have} and no others: {FEWEST_HEALTHY} are needed, or at least {FEWEST} of each label")
    scores = known.scores(films.margins)
    change = known.with_threshold(fit_threshold(films.positive, scores, aim))
    below = int((scores < change.threshold).sum())
    low, high = specificity_to_come(len(scores), below)
    came = {"value": below / len(scores), "low": low, "high": high, "method": "Wilks, of films to come"}
    report = {"method": "threshold", "aim": aim.words, "reason": "healthy films alone set a threshold, nothing else"}
    before = {"specificity": proportion(scores < known.threshold, films.groups)}
    return {**report, "before": before, "after": {"specificity": came}}, change


def _by_both(films: "Films", aim: "Aim", known: "Change", prevalence: float | None) -> "tuple[dict[str, Any], Change]":
    from trainer.adaptation.report import auroc, films_needed, metrics, population
    from trainer.adaptation.selection import SENTENCES, choose, fit, out_of_fold

    tests = {method: out_of_fold(films, method, aim, known) for method in SENTENCES}
    method, reason = choose(films, aim, tests)
    if prevalence is not None and method != "calibration":
        method, reason = "calibration", "scores for a prevalence that is given take slope and intercept of these films"
    change = fit(films, method, aim, known, prevalence)
    before, after = (metrics(films, tests[name]) for name in ("none", method))
    if method == "threshold":  # which changes no score
        after |= {name: before[name] for name in ("brier", "nll")}
    needed = films_needed(after["sensitivity"]["value"], float(films.positive.mean()))
    table = {"population": population(films, change, prevalence)} if prevalence else {}
    report = {"method": method, "aim": aim.words, "reason": reason, "auroc": auroc(films)}
    return {**report, "before": before, "after": after, "films_needed": needed, **table}, change


def _origin(run: "Run") -> dict[str, str]:
    """Which model it was: of an adapted run, its original."""
    from hashlib import sha256

    known = run.read_json("metrics.json").get("adaptation")
    weights = sha256((run.path / "model.safetensors").read_bytes()).hexdigest()
    return known["from"] if known else {"name": run.read_json("recipe.json")["name"], "weights": weights}


def add_parser(commands: Commands) -> None:
    """cxr adapt"""
    parser = add_command(
        commands,
        "adapt",
        "set a model's threshold and calibration by a hospital's own films",
        *(RUN, DATA, JSON),
        example="cxr adapt tb --data our-films.csv --output runs/tb-here --sensitivity .9",
        description="Set a model's threshold and calibration by a hospital's own films: the simplest change that they "
        "justify, tested on films that did not choose it. 20 and more healthy films alone set a threshold for a "
        "specificity.",
    )
    parser.add_argument(
        "--output", required=True, metavar="NEW", help="the adapted run: a folder that is not there yet"
    )
    aims = parser.add_mutually_exclusive_group()
    aims.add_argument("--sensitivity", type=float, metavar="S", help="what the threshold is to reach (default .90)")
    aims.add_argument("--specificity", type=float, metavar="S", help="or this (healthy films alone: default .70)")
    prevalence_help = "of the disease among those who will be asked, e.g. .02: scores are calibrated for it"
    parser.add_argument("--prevalence", type=float, metavar="P", help=prevalence_help)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Adapt, and print the report."""
    import json

    from trainer.run import load_run

    run = load_run(options.model)
    aims = options.sensitivity, options.specificity, options.prevalence
    adapted, report = adapt(run, options.data, options.output, *aims)
    print(json.dumps(report, indent=2) if options.json else to_text(report))
    log(f"run: {adapted.path}   (its card: {adapted.path / 'README.md'})")
    return 0


def to_text(report: dict[str, Any]) -> str:
    """The report as lines."""
    from trainer.adaptation.selection import SENTENCES

    films = ", ".join(f"{count} {label}" for label, count in report["labels"].items())
    lines = [f"{report['n']} films of {report['groups']} groups ({films}); aim: {report['aim']}"]
    lines.append(f"{SENTENCES[report['method']]}: {report['reason']}")
    threshold = report["threshold"]
    lines.append(f"  threshold          {format_number(threshold['before'])} -> {format_number(threshold['after'])}")
    if report["method"] == "calibration":
        lines.append(f"  scores             slope {report['slope']:.2f}, intercept {report['intercept']:+.2f}")
    if "auroc" in report:
        lines.append(f"  AUROC              {format_metric(report['auroc'])}, the same after")
    for name in ("sensitivity", "specificity", "brier", "nll"):
        if name in report["after"]:
            values = " -> ".join(format_metric(report[when][name]) for when in ("before", "after"))
            lines.append(f"  {name:<18} {values}")
    if "expected_positives" in report["after"]:
        lines += _lines_of_both(report)
    for row in report.get("population", []):
        chosen = " (chosen)" if row["chosen"] else ""
        counts = f"found {row['found']:.1f}, missed {row['missed']:.1f}, false alarms {row['false_alarms']:.0f}"
        tests = "no case" if row["tests_per_case"] is None else f"{row['tests_per_case']:.1f} tests for each case found"
        lines.append(f"  of 1,000 screened, from {format_number(row['threshold'])}{chosen}: {counts}, {tests}")
    return "\n".join(lines)


def _lines_of_both(report: dict[str, Any]) -> list[str]:
    """What films of both labels tell besides."""
    expected = " -> ".join(f"{report[when]['expected_positives']:.1f}" for when in ("before", "after"))
    assumed = "the training's"
    if report["method"] == "calibration":
        mixture = list(report["labels"].values())[1] / report["n"]
        assumed = f"{report['prevalence']:g}, as given" if report["prevalence"] else f"{mixture:.2f}, of these films"
    needed = report["films_needed"]
    return [
        f"  expected positives {expected}; observed: {report['after']['observed_positives']}",
        f"  after: out of fold; the prevalence that scores assume: {assumed}",
        f"  a sensitivity within 5 points takes about {needed['0.05']} such films, within 10 points {needed['0.10']}",
    ]
