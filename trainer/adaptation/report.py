"""What a hospital should know of a change: before and after, what a population would see, how many films it takes."""

from typing import Any

import numpy as np

from trainer.adaptation.fits import Change
from trainer.adaptation.selection import Films, OutOfFold, interval, rate
from trainer.evaluation.intervals import Metric, Z, intervals

RATES = ("sensitivity", "specificity")
SENSITIVITIES = (0.8, 0.85, 0.9, 0.95, 1.0)  # of the table for a population
WIDTHS = (0.05, 0.10)  # half of an interval of sensitivity
SCREENED = 1000


def metrics(films: Films, test: OutOfFold) -> dict[str, Any]:
    """Sensitivity, specificity, Brier score and log-likelihood with intervals; expected and observed positives."""
    return {
        **{name: rate(films, test, name) for name in RATES},
        "brier": interval(test.squares, films.groups, test.wider),
        "nll": interval(test.losses, films.groups, test.wider),
        "expected_positives": float(test.scores.sum()),
        "observed_positives": int(films.positive.sum()),
    }


def auroc(films: Films) -> Metric:
    """The AUROC, which no threshold, slope or intercept changes."""
    truth, margins = films.positive.astype(int), films.margins
    found: Metric = intervals(truth, truth, np.stack([-margins, margins], axis=1), films.groups)["metrics"]["auroc"]
    return found


def population(films: Films, change: Change, prevalence: float) -> list[dict[str, Any]]:
    """Of 1,000 screened, at thresholds that reach a sensitivity in these films and at the one chosen: found, missed and
    false alarms, and confirmatory tests for each case found.
    """
    scores = change.scores(films.margins)
    ordered = np.sort(scores[films.positive])[::-1]
    steps = {float(ordered[int(np.ceil(goal * len(ordered) - 1e-9)) - 1]) for goal in SENSITIVITIES}
    rows = []
    for threshold in sorted({*steps, change.threshold}, reverse=True):
        sensitivity = float((scores[films.positive] >= threshold).mean())
        specificity = float((scores[~films.positive] < threshold).mean())
        ill = SCREENED * prevalence
        found, alarms = ill * sensitivity, (SCREENED - ill) * (1 - specificity)
        row: dict[str, Any] = {"threshold": threshold, "chosen": threshold == change.threshold}
        row |= {"sensitivity": sensitivity, "specificity": specificity, "found": found, "missed": ill - found}
        rows.append({**row, "false_alarms": alarms, "tests_per_case": (found + alarms) / found if found else None})
    return rows


def films_needed(sensitivity: float, share: float) -> dict[str, int]:
    """Films of this mixture, of which a share is positive, for an interval of sensitivity of +-5 and +-10 points."""
    spread = max(sensitivity * (1 - sensitivity), 0.05)
    return {f"{width:.2f}": int(np.ceil(Z**2 * spread / width**2 / share)) for width in WIDTHS}
