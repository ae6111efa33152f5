"""Operating points: thresholds chosen on validation for a stated aim, and what they do on other data.

WHO's triage target for tuberculosis: sensitivity of at least 90 % with specificity of at least 70 %
(WHO/HTM/TB/2014.18). Youden, Cancer 3 (1950) 32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.evaluation.intervals import Metric, proportion
from trainer.tasks import is_negative

PREVALENCES = (0.01, 0.05, 0.20)
SCREENING = "screening"  # the point that decides where there are two labels
ENOUGH = 30  # a collection with so many cases and so many controls is looked at by itself


@dataclass(frozen=True)
class Aim:
    """What a threshold is chosen for: the highest of one thing, with at least so much of the others."""

    name: str
    words: str
    best: str  # sensitivity, specificity, or sum
    sensitivity: float = 0.0
    specificity: float = 0.0


AIMS = (
    Aim(SCREENING, "highest specificity at sensitivity >= .95", "specificity", sensitivity=0.95),
    Aim("confirming", "highest sensitivity at specificity >= .95", "sensitivity", specificity=0.95),
    Aim("Youden", "highest sensitivity + specificity", "sum"),
)
TRIAGE = Aim(
    "WHO triage",
    "highest specificity at sensitivity >= .90, if that is >= .70",
    "specificity",
    sensitivity=0.90,
    specificity=0.70,
)


def decided(scores: np.ndarray, labels: tuple[str, ...], point: dict[str, Any] | None) -> np.ndarray:
    """What a model decides, as its own `decide` does: label indices [N] of scores [N, C].

    An image has the label of the point that ships (`config.operating_point`) where that label's score is the threshold
    or above, else the highest of the other labels. Without a point it has the highest score; of two labels the second
    from .5 on.
    """
    if point is None and len(labels) > 2:
        return scores.argmax(axis=1)
    point = point or {"label": labels[1], "threshold": 0.5}
    index = labels.index(point["label"])
    others = np.where(np.arange(len(labels)) == index, -1.0, scores).argmax(axis=1)
    return np.where(scores[:, index] >= point["threshold"], index, others)


def choose_operating_points(
    truth: np.ndarray, scores: np.ndarray, labels: tuple[str, ...], task: str, collections: np.ndarray
) -> list[dict[str, Any]]:
    """The thresholds for each aim on validation; None where no threshold reaches it.

    Aims of a label that end at one threshold are one point: it has the name of the first, and `also` the other names.

    Args:
        truth: label indices [N].
        scores: probabilities [N, C]; `positive_indices` says for which labels.
        collections: where each image is from, [N]: an aim is reached where it is in each of them (`choose_threshold`).

    Returns:
        {"name", "label", "aim", "threshold", "also", "cases", "controls", "within"} for each; an image is called when
        its score is the threshold or above. `within` names the collections that were looked at by themselves. Of fewer
        than 20 cases or controls a threshold is chosen as of more, but an aim of .95 then asks for all of them: the
        counts say so.
    """
    found: dict[Any, dict[str, Any]] = {}
    for index in positive_indices(labels):
        positive = truth == index
        facts = {
            "cases": int(positive.sum()),
            "controls": int((~positive).sum()),
            "within": large_collections(positive, collections),
        }
        for aim in (*AIMS, TRIAGE) if task == "tb" else AIMS:
            threshold = choose_threshold(positive, scores[:, index], aim, collections)
            same = found.get((index, threshold))
            if threshold is not None and same:
                same |= {"aim": f"{same['aim']}; {aim.words}", "also": [*same["also"], aim.name]}
            else:
                key = aim.name if threshold is None else threshold
                found[index, key] = {
                    "name": aim.name,
                    "label": labels[index],
                    "aim": aim.words,
                    "threshold": threshold,
                    "also": [],
                    **facts,
                }
    return list(found.values())


def positive_indices(labels: tuple[str, ...]) -> list[int]:
    """The labels that a reader looks for: of two the second, of more each that is not negative by its name."""
    return [1] if len(labels) == 2 else [index for index, label in enumerate(labels) if not is_negative(label)]


def choose_threshold(positive: np.ndarray, scores: np.ndarray, aim: Aim, collections: np.ndarray) -> float | None:
    """The threshold that is best for an aim: half-way between two neighbouring scores, so that rounding calls none
    otherwise.

    Sensitivity and specificity are those of the worst part: of each collection with ENOUGH cases and controls, and of
    all other collections together; where these have too few cases (or controls), of all images. Of equally good
    thresholds it is the one with the higher other figure, then the lower one, which misses less.
    """
    steps = np.unique(scores)
    large = large_collections(positive, collections)
    sensitivity = _worst(
        positive, collections, large, lambda part: 1 - np.searchsorted(np.sort(scores[part]), steps) / part.sum()
    )
    specificity = _worst(
        ~positive, collections, large, lambda part: np.searchsorted(np.sort(scores[part]), steps) / part.sum()
    )
    allowed = (sensitivity >= aim.sensitivity) & (specificity >= aim.specificity)
    if not allowed.any():
        return None
    figures = {"sensitivity": sensitivity, "specificity": specificity, "sum": (sensitivity + specificity).round(9)}
    best = int(np.lexsort((-steps, figures["sum"], figures[aim.best], allowed))[-1])
    below = steps[best - 1] if best else 0.0
    return float((steps[best] + below) / 2)


def large_collections(positive: np.ndarray, collections: np.ndarray) -> list[str]:
    """Those with at least ENOUGH cases and ENOUGH controls."""
    counts = {name: np.bincount(positive[collections == name], minlength=2) for name in sorted(set(collections))}
    return [str(name) for name, count in counts.items() if name and count.min() >= ENOUGH]


def _worst(
    members: np.ndarray, collections: np.ndarray, large: list[str], rate: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The lowest rate, at each threshold, of the members of each large collection and of the others together."""
    rest = members & ~np.isin(collections, large)
    parts = [*(members & (collections == name) for name in large), rest if rest.sum() >= ENOUGH else members]
    return np.min([rate(part) for part in parts], axis=0)


def operating_point_metrics(
    point: dict[str, Any],
    truth: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    labels: tuple[str, ...],
    prevalences: tuple[float, ...] = PREVALENCES,
) -> dict[str, Any] | None:
    """Sensitivity, specificity and predictive values of a point on some data; None where it has no threshold."""
    if point["threshold"] is None:
        return None
    index = labels.index(point["label"])
    positive, called = truth == index, scores[:, index] >= point["threshold"]
    sensitivity, specificity = proportion(called, positive, groups), proportion(~called, ~positive, groups)
    values = [
        {"prevalence": prevalence, **_predictive(sensitivity, specificity, prevalence)} for prevalence in prevalences
    ]
    return {"n": len(truth), "sensitivity": sensitivity, "specificity": specificity, "predictive_values": values}


def _predictive(sensitivity: Metric, specificity: Metric, prevalence: float) -> dict[str, Metric]:
    """PPV and NPV at a prevalence; both grow with sensitivity and specificity, so their bounds give bounds."""
    method = "from the intervals of sensitivity and specificity"
    found: dict[str, Metric] = {"ppv": {"method": method}, "npv": {"method": method}}
    for key in ("value", "low", "high"):
        one, other = sensitivity[key], specificity[key]
        if one is None or other is None:
            found["ppv"][key] = found["npv"][key] = None
            continue
        hits, alarms = one * prevalence, (1 - other) * (1 - prevalence)
        misses, cleared = (1 - one) * prevalence, other * (1 - prevalence)
        found["ppv"][key] = hits / (hits + alarms) if hits + alarms else None
        found["npv"][key] = cleared / (cleared + misses) if cleared + misses else None
    return found
