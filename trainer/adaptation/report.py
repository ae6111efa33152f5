"""What a hospital should know of a change: before and after, what a population would see, how many films it takes."""

from typing import Any

import numpy as np
import pandas as pd

from trainer.adaptation.fits import Films
from trainer.adaptation.selection import OutOfFold, interval, rate, recall, statistic_interval
from trainer.evaluation.intervals import Metric, Z, wilson
from trainer.evaluation.metrics import Statistic, weighted_auroc
from trainer.evaluation.subgroups import Rates, compare_subgroups

RATES = ("sensitivity", "specificity")
SENSITIVITIES = (0.8, 0.85, 0.9, 0.95, 1.0)  # of the table for a population
WIDTHS = (0.05, 0.10)  # half of an interval of sensitivity
SCREENED = 1000


def metrics(films: Films, test: OutOfFold, labels: tuple[str, ...]) -> dict[str, Any]:
    """What a change does out of fold, with intervals: of two labels AUROC, sensitivity and specificity, of more their
    balanced accuracy and for each label with films its AUROC and sensitivity; Brier score, log-likelihood; and how many
    films of each label are expected by the scores.
    """
    present = np.unique(films.truth)
    if len(labels) == 2:
        report: dict[str, Any] = {"auroc": _within(auroc(films, 1, test.scores), films, test)}
        report |= {name: rate(films, test, name) for name in RATES}
    else:
        report = {"balanced_accuracy": _within(_balanced(films, test), films, test)}
        report["per_class"] = {
            labels[index]: {
                "n": int((films.truth == index).sum()),
                "auroc": _within(auroc(films, index, test.scores), films, test),
                "sensitivity": recall(films, test, index),
            }
            for index in present
        }
    report |= {
        name: interval(values, films.groups, test.wider)
        for name, values in (("brier", test.squares), ("nll", test.losses))
    }
    return {**report, "expected": dict(zip(labels, test.scores.sum(axis=0).tolist(), strict=True))}


def gains(films: Films, before: OutOfFold, after: OutOfFold, labels: tuple[str, ...]) -> dict[str, Metric]:
    """How much higher the AUROC of each label with films, of two of the second, is after a change: paired."""

    def gain(index: int) -> Metric:
        old, new = (auroc(films, index, test.scores) for test in (before, after))
        return statistic_interval(lambda weights: new(weights) - old(weights), films.groups, after.wider)

    return {labels[index]: gain(index) for index in ([1] if len(labels) == 2 else np.unique(films.truth))}


def auroc(films: Films, index: int, scores: np.ndarray) -> Statistic:
    """The AUROC of a label against the others, by scores [N, C]."""
    return lambda weights: weighted_auroc(films.truth == index, scores[:, index], weights)


def _within(statistic: Statistic, films: Films, test: OutOfFold) -> Metric:
    """A statistic of 0..1 with its interval: Wilson's of the rarest label's groups where all draws are alike."""
    metric = statistic_interval(statistic, films.groups, test.wider)
    if metric["low"] == metric["high"]:
        rarest = min(len(set(films.groups[films.truth == index])) for index in np.unique(films.truth))
        return wilson(metric["value"], rarest, "Wilson on groups")
    return {**metric, "low": max(0.0, metric["low"]), "high": min(1.0, metric["high"])}


def _balanced(films: Films, test: OutOfFold) -> Statistic:
    """The mean of the proportions of each label's films that were found."""
    parts = [(films.truth == index, test.decided[:, index]) for index in np.unique(films.truth)]

    def mean(weights: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = np.stack([weights @ (of_label * positive) / (weights @ of_label) for of_label, positive in parts])
        return rates.mean(axis=0)

    return mean


def subgroups(films: Films, before: OutOfFold, after: OutOfFold, columns: pd.DataFrame) -> dict[str, Any]:
    """Rates before and after in the parts that columns make of the films; what differs is compared after the change.

    Of two labels sensitivity and specificity, of more the sensitivity of each label; see `compare_subgroups`.
    """
    labels = np.unique(films.truth).tolist()
    two = films.logits.shape[1] == 2
    names = {index: RATES[1 - index] if two else f"sensitivity of label {index}" for index in labels}

    def measure(inside: np.ndarray) -> dict[str, Any]:
        present = [index for index in labels if (films.truth[inside] == index).any()]
        old, new = ({names[index]: recall(films, test, index, inside) for index in present} for test in (before, after))
        return {**new, "before": old}

    def rates(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts = {index: weights * (films.truth == index) for index in labels}
        return {names[index]: part @ after.decided[:, index] / part.sum(axis=1) for index, part in parts.items()}

    among: dict[str, tuple[np.ndarray, ...]] = {names[index]: (films.truth == index,) for index in labels}
    return compare_subgroups(columns, measure, Rates(rates, among, films.groups, after.wider))


def population(
    positive: np.ndarray, scores: np.ndarray, chosen: dict[str, float], prevalence: float
) -> list[dict[str, Any]]:
    """Of 1,000 screened: found, missed and false alarms, and confirmatory tests for each case found.

    By films that are `positive` bool [N] with `scores` [N] out of fold, at thresholds that reach a sensitivity, and at
    the one chosen: its `threshold`, and the `sensitivity` and `specificity` that it has out of fold.
    """
    ordered = np.sort(scores[positive])[::-1]
    steps = {float(ordered[int(np.ceil(goal * len(ordered) - 1e-9)) - 1]) for goal in SENSITIVITIES}
    points, rows = [{**chosen, "chosen": True}], []
    for threshold in steps:
        if not np.isclose(threshold, chosen["threshold"], rtol=0.05):
            found, spared = float((scores[positive] >= threshold).mean()), float((scores[~positive] < threshold).mean())
            points.append({"threshold": threshold, "sensitivity": found, "specificity": spared, "chosen": False})
    for point in sorted(points, key=lambda point: -point["threshold"]):
        ill = SCREENED * prevalence
        found, alarms = ill * point["sensitivity"], (SCREENED - ill) * (1 - point["specificity"])
        row: dict[str, Any] = {**point, "found": found, "missed": ill - found, "false_alarms": alarms}
        rows.append({**row, "tests_per_case": (found + alarms) / found if found else None})
    return rows


def films_needed(sensitivity: float, share: float) -> dict[str, int]:
    """Films of this mixture, of which a share is positive, for an interval of sensitivity of +-5 and +-10 points."""
    variance = max(sensitivity * (1 - sensitivity), 0.05)
    return {f"{width:.2f}": int(np.ceil(Z**2 * variance / width**2 / share)) for width in WIDTHS}
