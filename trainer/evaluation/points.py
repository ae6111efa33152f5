"""Operating points: thresholds chosen on validation for a stated aim, and what they do on other data.

WHO's triage target for tuberculosis: sensitivity of at least 90 % with specificity of at least 70 % (WHO/HTM/TB/2014.18).
Youden, Cancer 3 (1950) 32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.evaluation.intervals import Figure, share
from trainer.tasks import is_negative

PREVALENCES = (0.01, 0.05, 0.20)
SCREENING = "screening"  # the point that decides where there are two labels


@dataclass(frozen=True)
class Aim:
    """What a threshold is chosen for: the highest `sensitivity` + `specificity`, with at least so much of each."""

    name: str
    words: str
    sensitivity: float = 0.0
    specificity: float = 0.0


AIMS = (
    Aim(SCREENING, "sensitivity >= .95", sensitivity=0.95),
    Aim("confirming", "specificity >= .95", specificity=0.95),
    Aim("Youden", "highest sensitivity + specificity"),
)
TRIAGE = Aim("WHO triage", "sensitivity >= .90 and specificity >= .70", sensitivity=0.90, specificity=0.70)


def decided(scores: np.ndarray, labels: tuple[str, ...], point: dict[str, Any] | None) -> np.ndarray:
    """What a model decides, as its own `decide` does: label indices [N] of scores [N, C].

    A picture has the label of the point that ships (`config.operating_point`) where that label's score is the threshold
    or above, else the highest of the other labels. Without a point it has the highest score; of two labels the second
    from .5 on.
    """
    if point is None and len(labels) > 2:
        return scores.argmax(axis=1)
    point = point or {"label": labels[1], "threshold": 0.5}
    index = labels.index(point["label"])
    others = np.where(np.arange(len(labels)) == index, -1.0, scores).argmax(axis=1)
    return np.where(scores[:, index] >= point["threshold"], index, others)


def choose_points(truth: np.ndarray, scores: np.ndarray, labels: tuple[str, ...], task: str) -> list[dict[str, Any]]:
    """The thresholds for each aim on validation; None where no threshold reaches it.

    Args:
        truth: label indices [N].
        scores: probabilities [N, C]; `looked_for` says for which labels.

    Returns:
        {"name", "label", "aim", "threshold"} for each; a picture is called when its score is the threshold or above.
    """
    found = []
    for index in looked_for(labels):
        for aim in (*AIMS, TRIAGE) if task == "tb" else AIMS:
            threshold = choose_threshold(truth == index, scores[:, index], aim)
            found.append({"name": aim.name, "label": labels[index], "aim": aim.words, "threshold": threshold})
    return found


def looked_for(labels: tuple[str, ...]) -> list[int]:
    """The labels that a reader looks for: of two the second, of more each that is not negative by its name."""
    return [1] if len(labels) == 2 else [index for index, label in enumerate(labels) if not is_negative(label)]


def choose_threshold(positive: np.ndarray, scores: np.ndarray, aim: Aim) -> float | None:
    """Half-way between two neighbouring scores, so that rounding calls no picture otherwise."""
    steps = np.unique(scores)
    sensitivity = 1 - np.searchsorted(np.sort(scores[positive]), steps) / positive.sum()
    specificity = np.searchsorted(np.sort(scores[~positive]), steps) / (~positive).sum()
    allowed = (sensitivity >= aim.sensitivity) & (specificity >= aim.specificity)
    if not allowed.any():
        return None
    best = int(np.argmax(np.where(allowed, sensitivity + specificity, -1)))
    below = steps[best - 1] if best else 0.0
    return float((steps[best] + below) / 2)


def point_figures(
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
    sensitivity, specificity = share(called, positive, groups), share(~called, ~positive, groups)
    values = [{"prevalence": prevalence, **_predictive(sensitivity, specificity, prevalence)} for prevalence in prevalences]
    return {"n": len(truth), "sensitivity": sensitivity, "specificity": specificity, "predictive_values": values}


def _predictive(sensitivity: Figure, specificity: Figure, prevalence: float) -> dict[str, Figure]:
    """PPV and NPV at a prevalence; both grow with sensitivity and specificity, so their bounds give bounds."""
    method = "from the intervals of sensitivity and specificity"
    found: dict[str, Figure] = {"ppv": {"method": method}, "npv": {"method": method}}
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
