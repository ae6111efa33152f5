"""95 % intervals: Wilson and DeLong where every image stands alone, a bootstrap over groups otherwise.

Sources: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; DeLong et al., Biometrics 44 (1988) 837, by the fast algorithm of
Sun and Xu, IEEE Signal Process. Lett. 21 (2014) 1389; cluster bootstrap: Field and Welsh, J. R. Stat. Soc. B 69 (2007)
369.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, rankdata

from trainer.evaluation.metrics import classification_metrics

RESAMPLES = 1000
Z = float(norm.ppf(0.975))
Interval = tuple[float, float, str]
Metric = dict[str, Any]  # {"value", "low", "high", "method"}
UNDEFINED: Metric = {"value": None, "low": None, "high": None, "method": None}


def intervals(truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """The figures of `classification_metrics`, each with its interval.

    Args:
        truth: label indices [N].
        decisions: what the model decides, label indices [N].
        scores: probabilities [N, C].
        groups: what must stay together, [N]: the unit that is resampled.

    Returns:
        The tree of `classification_metrics`, each figure as {"value", "low", "high", "method"}; undefined ones are None
        throughout.
    """
    figures = classification_metrics(truth, decisions, scores)
    alone = len(np.unique(groups)) == len(groups)
    smallest = min(len(np.unique(groups[truth == index])) for index in np.unique(truth))
    closed = _closed_forms(truth, decisions, scores) if alone else {}
    resampled = _bootstrap(truth, decisions, scores, groups)
    name = "bootstrap" if alone else "cluster bootstrap"

    def with_interval(key: tuple[Any, ...], value: float | None) -> dict[str, Any]:
        if value is None:
            return UNDEFINED
        low, high, method = closed.get(key) or (*_percentiles(resampled[key]), name)
        if low is not None and low == high:  # no draw differs: as wide as so many groups allow
            low, high, _ = wilson(round(value * smallest), smallest)
            method = "Wilson on the smallest class's groups"
        return {"value": value, "low": low, "high": high, "method": method}

    positive = ("class", 1) if scores.shape[1] == 2 else ("all",)
    metrics = {
        key: with_interval((*(positive if key not in ("accuracy", "balanced_accuracy") else ("all",)), key), value)
        for key, value in figures["metrics"].items()
    }
    per_class = [
        {key: with_interval(("class", index, key), value) for key, value in row.items()}
        for index, row in enumerate(figures["per_class"])
    ]
    return {"metrics": metrics, "per_class": per_class, "confusion": figures["confusion"]}


def proportion(hits: np.ndarray, among: np.ndarray, groups: np.ndarray) -> Metric:
    """The share of `hits` (bool [N]) in the images `among` (bool [N]): Wilson, or a bootstrap where groups hold
    several.
    """
    hits, groups = hits[among], groups[among]
    if not len(hits):
        return UNDEFINED
    count = len(np.unique(groups))
    if count == len(hits):
        low, high, method = wilson(hits.sum(), len(hits))
    else:
        low, high = np.percentile(
            np.concatenate([weights @ hits / weights.sum(axis=1) for weights in resample(groups)]), [2.5, 97.5]
        )
        method = "cluster bootstrap"
        if low == high:
            low, high, _ = wilson(round(hits.mean() * count), count)
            method = "Wilson on the groups"
    return {"value": float(hits.mean()), "low": float(low), "high": float(high), "method": method}


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray], groups: np.ndarray, highest: float = np.inf
) -> Metric:
    """A figure from 0 to `highest`, with the standard error of its bootstrap: `statistic` maps weights [R, N] to [R].

    For figures that resampling biases (a calibration error): percentiles would miss the value itself.
    """
    value = float(statistic(np.ones((1, len(groups))))[0])
    half = Z * float(np.concatenate([statistic(weights) for weights in resample(groups)]).std())
    return {
        "value": value,
        "low": max(0.0, value - half),
        "high": min(highest, value + half),
        "method": "bootstrap over groups, normal",
    }


def resample(groups: np.ndarray, seed: int = 0) -> Iterator[np.ndarray]:
    """RESAMPLES draws of whole groups as weights of the images, in chunks [100, N]."""
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES // 100):
        drawn = rng.integers(count, size=(100, count)) + count * np.arange(100)[:, None]  # faster than a multinomial
        yield np.bincount(drawn.ravel(), minlength=100 * count).reshape(100, count)[:, member].astype(np.float64)


def cross_validated_auroc(positive: np.ndarray, scores: np.ndarray, folds: np.ndarray, groups: np.ndarray) -> Metric:
    """The AUROC of out-of-fold `scores` [N], which can be compared within a fold alone: each fold has its own model.

    It is the share of (case, control) pairs within the folds [N] that are ordered right: each fold's AUROC, weighted by
    its pairs, so that a fold of one class counts nothing. Undefined without a pair. The interval resamples groups [N].
    As the models of K folds share training data, their AUROCs are correlated and that is too narrow: by the factor
    sqrt(1 + K / (K - 1)) of Nadeau and Bengio, Mach. Learn. 52 (2003) 239.
    """
    insides = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]

    def area(weights: np.ndarray) -> np.ndarray:
        counts = [_weighted_pairs(positive[inside], scores[inside], weights[:, inside]) for inside in insides]
        right, pairs = np.sum(counts, axis=0)
        return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    value = float(area(np.ones((1, len(groups))))[0])
    if np.isnan(value):
        return UNDEFINED
    low, high = np.nanpercentile(np.concatenate([area(weights) for weights in resample(groups)]), [2.5, 97.5])
    if low == high:
        smallest = min(len(np.unique(groups[positive])), len(np.unique(groups[~positive])))
        return {
            "value": value,
            **dict(zip(("low", "high", "method"), wilson(round(value * smallest), smallest), strict=True)),
        }
    widen = np.sqrt(1 + len(insides) / (len(insides) - 1))
    low, high = (float(np.clip(value + widen * (bound - value), 0, 1)) for bound in (low, high))
    return {"value": value, "low": low, "high": high, "method": "cluster bootstrap within folds, Nadeau and Bengio"}


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a proportion."""
    interval = binomtest(int(successes), int(trials)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high), "Wilson"


def delong(positive: np.ndarray, scores: np.ndarray) -> Interval:
    """Interval of the AUROC of `scores` [N] for `positive` bool [N].

    Where the variance is 0 (every pair is ordered right, or every one wrong) DeLong gives no width; then the interval
    is Wilson's for as many cases as the smaller class has, which is wider than the truth.
    """
    above, below = placements(positive, scores)
    m, n = len(above), len(below)
    area = above.mean()
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    if variance <= 0:
        low, high, _ = wilson(round(area * min(m, n)), min(m, n))
        return low, high, "Wilson on the smaller class"
    half = Z * np.sqrt(variance)
    return float(max(0.0, area - half)), float(min(1.0, area + half)), "DeLong"


def placements(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each case the share of controls scored below it, for each control the share of cases above it (ties one
    half).
    """
    cases, controls = scores[positive], scores[~positive]
    m, n = len(cases), len(controls)
    ranks = rankdata(np.concatenate([cases, controls]))
    return (ranks[:m] - rankdata(cases)) / n, 1 - (ranks[m:] - rankdata(controls)) / m


def _closed_forms(truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray) -> dict[tuple[Any, ...], Interval]:
    right = truth == scores.argmax(axis=1)
    found: dict[tuple[Any, ...], Interval] = {("all", "accuracy"): wilson(right.sum(), len(truth))}
    for index in range(scores.shape[1]):
        is_class, called = truth == index, decisions == index
        for name, hits, among in (
            ("sensitivity", called, is_class),
            ("specificity", ~called, ~is_class),
            ("precision", is_class, called),
        ):
            if among.any():
                found["class", index, name] = wilson((hits & among).sum(), among.sum())
        if is_class.any() and not is_class.all():
            found["class", index, "auroc"] = delong(is_class, scores[:, index])
    return found


def _bootstrap(
    truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, groups: np.ndarray
) -> dict[tuple[Any, ...], np.ndarray]:
    """Each figure on RESAMPLES draws of whole groups, by weights; nan where a draw leaves it undefined."""
    chunks = [_weighted_figures(truth, decisions, scores, weights) for weights in resample(groups)]
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


def _weighted_figures(
    truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[tuple[Any, ...], np.ndarray]:
    """All figures for each row of `weights` [R, N]."""
    classes = scores.shape[1]
    confusion = np.stack(
        [weights @ ((truth == row) & (decisions == column)) for row in range(classes) for column in range(classes)],
        axis=1,
    )
    confusion = confusion.reshape(-1, classes, classes)
    total, right = confusion.sum(axis=(1, 2)), np.diagonal(confusion, axis1=1, axis2=2)
    actual, called = confusion.sum(axis=2), confusion.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, precision = right / actual, right / called
        specificity = (total[:, None] - actual - called + right) / (total[:, None] - actual)
        f1 = 2 * right / (actual + called)
        aurocs = np.stack(
            [_weighted_auroc(truth == index, scores[:, index], weights) for index in range(classes)], axis=1
        )
        found: dict[tuple[Any, ...], np.ndarray] = {
            ("all", "accuracy"): weights @ (truth == scores.argmax(axis=1)) / total,
            ("all", "balanced_accuracy"): sensitivity.mean(axis=1),
        }
    found |= {("all", "macro_f1"): f1.mean(axis=1), ("all", "macro_auroc"): aurocs.mean(axis=1)}
    for name, values in (
        ("sensitivity", sensitivity),
        ("specificity", specificity),
        ("precision", precision),
        ("f1", f1),
        ("auroc", aurocs),
    ):
        found |= {("class", index, name): values[:, index] for index in range(classes)}
    return found


def _weighted_auroc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of weighted (case, control) pairs ordered right, for each row of `weights`."""
    right, pairs = _weighted_pairs(positive, scores, weights)
    return right / pairs


def _weighted_pairs(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted (case, control) pairs ordered right, ties one half, and all pairs, by row of `weights` [R, N]."""
    order = np.argsort(scores, kind="stable")
    positive, scores, weights = positive[order], scores[order], weights[:, order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    cases = np.add.reduceat(weights * positive, starts, axis=1)
    controls = np.add.reduceat(weights * ~positive, starts, axis=1)
    below = np.cumsum(controls, axis=1) - controls
    return (cases * (below + controls / 2)).sum(axis=1), cases.sum(axis=1) * controls.sum(axis=1)


def _percentiles(values: np.ndarray) -> tuple[float | None, float | None]:
    known = values[~np.isnan(values)]
    if not len(known):
        return None, None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
