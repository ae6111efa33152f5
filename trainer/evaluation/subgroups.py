"""How a model does in parts of the images: by sex, age group, scanner, whatever a column says.

Each value of a column is compared with all others of that column; the p values are corrected for all comparisons that
are made (Holm, Scand. J. Stat. 6 (1979) 65). No standard error is below that of Agresti and Coull, Am. Stat. 52 (1998)
119: few images that are all right prove little.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from trainer.evaluation.intervals import Z, intervals, resample
from trainer.evaluation.metrics import weighted_metrics
from trainer.evaluation.operating_points import decided
from trainer.evaluation.report import Scored

UNKNOWN = "(unknown)"
CORRECTION = "Holm"


@dataclass(frozen=True)
class Rates:
    """What is compared: `of` weights [R, N] gives each rate [R]; `among` names the images [N] that each is a rate of,
    several sets where it is of pairs; `groups` [N] stay together; a standard error is multiplied by `wider`.
    """

    of: Callable[[np.ndarray], dict[str, np.ndarray]]
    among: dict[str, tuple[np.ndarray, ...]]
    groups: np.ndarray
    wider: float = 1.0


def report_subgroups(
    columns: pd.DataFrame, part: Scored, labels: tuple[str, ...], decision: dict[str, Any] | None
) -> dict[str, Any]:
    """Metrics in each part of a split, and how they differ from those of the other parts.

    Args:
        columns: a row an image, text; a column for each way to part them.
        labels: in the order of the scores.
        decision: the operating point that ships, or None where the highest score decides.

    Returns:
        {"correction", "comparisons", "columns": {column: [{"value", "n", "groups", "metrics", "differences"}]}}.
    """
    truth, scores, groups = part.truth, part.scores, part.groups
    decisions = decided(scores, labels, decision)

    def measure(inside: np.ndarray) -> dict[str, Any]:
        return intervals(truth[inside], decisions[inside], scores[inside], groups[inside])["metrics"]

    return compare_subgroups(columns, measure, _rates(truth, decisions, scores, groups))


def _rates(truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> Rates:
    """Of two labels sensitivity, specificity and AUROC of the second; of more, averages over the labels."""
    sets = tuple(truth == index for index in range(scores.shape[1]))
    if len(sets) > 2:
        names: dict[str, Any] = dict.fromkeys(("balanced_accuracy", "macro_auroc"), ...)
        among = dict.fromkeys(names, sets)
    else:
        names = dict.fromkeys(("sensitivity", "specificity", "auroc"), (..., 1))
        among = {"sensitivity": sets[1:], "specificity": sets[:1], "auroc": sets}

    def of(weights: np.ndarray) -> dict[str, np.ndarray]:
        metrics = weighted_metrics(truth, decisions, scores, weights)
        return {name: metrics[name][where] for name, where in names.items()}

    return Rates(of, among, groups)


def compare_subgroups(
    columns: pd.DataFrame, measure: Callable[[np.ndarray], dict[str, Any]], rates: Rates
) -> dict[str, Any]:
    """What `measure` says of each part, bool [N], and how its rates differ from the others'; see `report_subgroups`."""
    report: dict[str, list[dict[str, Any]]] = {}
    for column in map(str, columns):
        values = columns[column].replace("", UNKNOWN).to_numpy(str)
        names = sorted(set(values), key=lambda value: (value == UNKNOWN, value))
        report[column] = []
        for name in names:
            inside = values == name
            sizes = {"n": int(inside.sum()), "groups": len(set(rates.groups[inside]))}
            again = len(names) == 1 or (len(names) == 2 and name == names[1])  # the same comparison, or none
            differences = {} if again else compare(inside, rates)
            report[column].append({"value": name, **sizes, "metrics": measure(inside), "differences": differences})
    tests = [test for rows in report.values() for row in rows for test in row["differences"].values()]
    tests = [test for test in tests if test["p"] is not None]
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p"] = corrected
    return {"correction": CORRECTION, "comparisons": len(tests), "columns": report}


def compare(inside: np.ndarray, rates: Rates) -> dict[str, dict[str, float | None]]:
    """By how much each rate is higher `inside` bool [N] than outside: {"value", "low", "high", "p"}, None where it is
    undefined; by a bootstrap over groups. The interval and p are of this one comparison.
    """

    def both(weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return rates.of(weights * inside), rates.of(weights * ~inside)

    here, there = both(np.ones((1, len(inside))))
    draws = [both(weights) for weights in resample(rates.groups)]
    tests: dict[str, dict[str, float | None]] = {}
    for name, sets in rates.among.items():
        gap = float(here[name][0] - there[name][0])
        if np.isnan(gap):
            tests[name] = dict.fromkeys(("value", "low", "high", "p"))
            continue
        least = sum(
            _least_variance(float(rate[name][0]), min(len(set(rates.groups[one & side])) for one in sets))
            for rate, side in ((here, inside), (there, ~inside))
        )
        deviation = float(np.nanstd(np.concatenate([one[name] - other[name] for one, other in draws])))
        error = max(deviation * rates.wider, float(np.sqrt(least)))
        interval = {"low": max(-1.0, gap - Z * error), "high": min(1.0, gap + Z * error)}
        tests[name] = {"value": gap, **interval, "p": float(2 * norm.sf(abs(gap) / error))}
    return tests


def _least_variance(rate: float, trials: int) -> float:
    """Agresti and Coull's, of a rate of so many trials."""
    centre = (rate * trials + 2) / (trials + 4)
    return centre * (1 - centre) / (trials + 4)


def holm(p: list[float]) -> list[float]:
    """P values corrected for their number."""
    order, corrected = np.argsort(p), np.zeros(len(p))
    corrected[order] = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected.tolist()
