"""Operating points: thresholds chosen on validation for a stated aim.

WHO's triage target for tuberculosis: sensitivity of at least 90 % with specificity of at least 70 %
(WHO/HTM/TB/2014.18). Youden, Cancer 3 (1950) 32.
"""

from typing import Any, NamedTuple

import numpy as np

from trainer.tasks import is_negative

SCREENING = "screening"
ENOUGH = 30  # a collection with so many cases and so many controls is looked at by itself


class Aim(NamedTuple):
    """What a threshold is chosen for: the highest of `best`, with at least this sensitivity and specificity."""

    name: str
    words: str
    best: str  # sensitivity, specificity, or sum
    sensitivity: float = 0.0
    specificity: float = 0.0


AIMS = (
    Aim(SCREENING, "highest specificity at sensitivity >= .95", "specificity", 0.95, 0.0),
    Aim("confirming", "highest sensitivity at specificity >= .95", "sensitivity", 0.0, 0.95),
    Aim("Youden", "highest sensitivity + specificity", "sum"),
)
TRIAGE = Aim("WHO triage", "highest specificity at sensitivity >= .90, if that is >= .70", "specificity", 0.90, 0.70)


def decided(scores: np.ndarray, labels: tuple[str, ...], point: dict[str, Any] | None) -> np.ndarray:
    """What a model decides at the point that ships, as its own `decide` does: label indices [N] of scores [N, C]."""
    if point is None and len(labels) > 2:
        return scores.argmax(axis=1)
    point = point or {"label": labels[1], "threshold": 0.5}
    index = labels.index(point["label"])
    others = np.where(np.arange(len(labels)) == index, -1.0, scores).argmax(axis=1)
    return np.where(scores[:, index] >= point["threshold"], index, others)


def choose_operating_points(
    truth: np.ndarray, scores: np.ndarray, labels: tuple[str, ...], task: str, collections: np.ndarray
) -> list[dict[str, Any]]:
    """The points for each aim and positive label, by validation's label indices [N], scores [N, C] and collections [N].

    Returns:
        {"name", "label", "aim", "threshold", "also", "cases", "controls", "within"} for each: an image is positive from
        the threshold on; it is None where none reaches the aim. Aims that end at one threshold are one point, by the
        name of the first; `also` has the others. `within` names the collections that were looked at by themselves.
    """
    points: list[dict[str, Any]] = []
    for index in positive_indices(labels):
        positive = truth == index
        counts = {"cases": int(positive.sum()), "controls": int((~positive).sum())}
        within = large_collections(positive, collections)
        of_label: dict[float | None, dict[str, Any]] = {}  # by threshold
        for aim in (*AIMS, TRIAGE) if task == "tb" else AIMS:
            threshold = choose_threshold(positive, scores[:, index], aim, collections)
            if same := of_label.get(threshold):
                same |= {"aim": f"{same['aim']}; {aim.words}", "also": [*same["also"], aim.name]}
                continue
            chosen = {"name": aim.name, "label": labels[index], "aim": aim.words, "threshold": threshold}
            points.append({**chosen, "also": [], **counts, "within": within})
            if threshold is not None:
                of_label[threshold] = points[-1]
    return points


def deciding_point(points: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The point that decides where there are two labels: WHO's triage target where it was aimed at and reached, else
    screening; None where neither has a threshold.
    """
    reached = [point for point in points if point["threshold"] is not None]
    for name in (TRIAGE.name, SCREENING):
        for point in reached:
            if name in (point["name"], *point["also"]):
                return point
    return None


def positive_indices(labels: tuple[str, ...]) -> list[int]:
    """The labels that a reader looks for: of two the second, of more each that is not negative by its name."""
    return [1] if len(labels) == 2 else [index for index, label in enumerate(labels) if not is_negative(label)]


def choose_threshold(positive: np.ndarray, scores: np.ndarray, aim: Aim, collections: np.ndarray) -> float | None:
    """The best threshold for an aim, half-way between two scores, so that rounding changes no decision; or None.

    Sensitivity and specificity are those of the worst part: of each collection with ENOUGH cases and controls, and of
    all others together; where these have too few, of all images. Where there is such a collection, cases of collections
    without a control do not count: what tells them is the hospital. Of equally good thresholds it is the one with the
    higher other rate, then the lower one, which misses less.
    """
    steps = np.unique(scores)
    large = large_collections(positive, collections)
    ill_alone = set(collections) - set(collections[~positive]) if large else set()

    def lowest_rate(members: np.ndarray, above: bool) -> np.ndarray:
        """At each threshold: the worst part's proportion of members that score at least as much, or less."""
        members = members & ~np.isin(collections, list(ill_alone))
        rest = members & ~np.isin(collections, large)
        parts = [*(members & (collections == name) for name in large), rest if rest.sum() >= ENOUGH else members]
        below = np.array([np.searchsorted(np.sort(scores[part]), steps) / part.sum() for part in parts])
        return (1 - below if above else below).min(axis=0)

    sensitivity, specificity = lowest_rate(positive, above=True), lowest_rate(~positive, above=False)
    allowed = (sensitivity >= aim.sensitivity) & (specificity >= aim.specificity)
    if not allowed.any():
        return None
    rates = {"sensitivity": sensitivity, "specificity": specificity, "sum": (sensitivity + specificity).round(9)}
    best = int(np.lexsort((-steps, rates["sum"], rates[aim.best], allowed))[-1])
    below = steps[best - 1] if best else 0.0
    return float((steps[best] + below) / 2)


def large_collections(positive: np.ndarray, collections: np.ndarray) -> list[str]:
    """Those with at least ENOUGH cases and ENOUGH controls."""
    counts = {name: np.bincount(positive[collections == name], minlength=2) for name in sorted(set(collections))}
    return [str(name) for name, count in counts.items() if name and count.min() >= ENOUGH]
