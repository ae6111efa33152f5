"""95 % intervals: Wilson and DeLong where every image stands alone, a bootstrap over groups otherwise.

Sources: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; DeLong et al., Biometrics 44 (1988) 837, by the fast algorithm of
Sun and Xu, IEEE Signal Process. Lett. 21 (2014) 1389; cluster bootstrap: Field and Welsh, J. R. Stat. Soc. B 69 (2007)
369.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, rankdata

from trainer.evaluation.metrics import Classification, confusion_rates

RESAMPLES = 1000
Z = float(norm.ppf(0.975))
Interval = tuple[float, float, str]
Metric = dict[str, Any]  # {"value", "low", "high", "method"}
UNDEFINED: Metric = {"value": None, "low": None, "high": None, "method": None}
OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc")
Statistic = Callable[[np.ndarray], np.ndarray]  # of weights [R, N]: [R]


def intervals(truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """The tree of `classification_metrics`, each value as {"value", "low", "high", "method"}; undefined ones are None
    throughout.

    Args:
        truth: label indices [N].
        decisions: what the model decides, label indices [N].
        scores: probabilities [N, C].
        groups: what must stay together, [N]: the unit that is resampled.
    """
    report = Classification(keep_in_memory=True).compute(references=truth, predictions=decisions, scores=scores)
    resampled = [weighted_metrics(truth, decisions, scores, weights) for weights in resample(groups)]
    alone = len(np.unique(groups)) == len(groups)
    method = "bootstrap" if alone else "cluster bootstrap"
    smallest = min(len(np.unique(groups[truth == index])) for index in np.unique(truth))

    def bootstrapped(name: str, value: float | None, label: int | None = None) -> Metric:
        draws = np.concatenate([part[name] if label is None else part[name][:, label] for part in resampled])
        return percentile_interval(value, draws, method, smallest, "Wilson on the smallest class's groups")

    metrics = {name: bootstrapped(name, report["metrics"][name]) for name in OVERALL if name in report["metrics"]}
    if alone:
        metrics["accuracy"] = proportion(truth == scores.argmax(axis=1), np.ones(len(truth), bool), groups)
    per_class = []
    for label, values in enumerate(report["per_class"]):
        row = {name: bootstrapped(name, value, label) for name, value in values.items()}
        if alone:
            row |= _closed_forms(truth == label, decisions == label, scores[:, label], values["auroc"])
        per_class.append(row)
    metrics |= per_class[1] if len(per_class) == 2 else {}
    return {"metrics": metrics, "per_class": per_class, "confusion": report["confusion"]}


def _closed_forms(
    positive: np.ndarray, decided: np.ndarray, scores: np.ndarray, auroc: float | None
) -> dict[str, Metric]:
    """The metrics of a label, each image [N] a group of its own, whose intervals need no bootstrap."""
    groups = np.arange(len(positive))
    metrics = {
        "sensitivity": proportion(decided, positive, groups),
        "specificity": proportion(~decided, ~positive, groups),
        "precision": proportion(positive, decided, groups),
    }
    if auroc is not None:
        metrics["auroc"] = _metric(auroc, *delong(positive, scores))
    return metrics


def weighted_metrics(
    truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Each metric for each row of `weights` [R, N]: [R], or [R, C] where labels have their own; nan if undefined."""
    classes = scores.shape[1]
    cells = np.eye(classes**2)[truth * classes + decisions]
    metrics = confusion_rates((weights @ cells).reshape(-1, classes, classes))
    pairs = [weighted_pairs(truth == label, scores[:, label], weights) for label in range(classes)]
    with np.errstate(divide="ignore", invalid="ignore"):
        metrics["auroc"] = np.stack([right / every for right, every in pairs], axis=1)
    metrics["accuracy"] = weighted_mean(truth == scores.argmax(axis=1))(weights)
    metrics["balanced_accuracy"] = metrics["sensitivity"].mean(axis=1)
    return metrics | {f"macro_{name}": metrics[name].mean(axis=1) for name in ("f1", "auroc")}


def weighted_pairs(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted (case, control) pairs ordered right, ties one half, and all pairs, by row of `weights` [R, N]."""
    order = np.argsort(scores, kind="stable")
    positive, scores, weights = positive[order], scores[order], weights[:, order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    cases = np.add.reduceat(weights * positive, starts, axis=1)
    controls = np.add.reduceat(weights * ~positive, starts, axis=1)
    below = np.cumsum(controls, axis=1) - controls
    return (cases * (below + controls / 2)).sum(axis=1), cases.sum(axis=1) * controls.sum(axis=1)


def weighted_mean(values: np.ndarray) -> Statistic:
    """The mean of `values` [N] as a statistic."""
    return lambda weights: weights @ values / weights.sum(axis=1)


def resample(groups: np.ndarray) -> Iterator[np.ndarray]:
    """RESAMPLES draws of whole groups as weights of the images, in chunks [100, N]."""
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    rng = np.random.default_rng(0)
    for _ in range(RESAMPLES // 100):
        drawn = rng.integers(count, size=(100, count)) + count * np.arange(100)[:, None]  # faster than a multinomial
        yield np.bincount(drawn.ravel(), minlength=100 * count).reshape(100, count)[:, member].astype(np.float64)


def bootstrap(statistic: Statistic, groups: np.ndarray) -> np.ndarray:
    """A statistic on each draw, [RESAMPLES]."""
    return np.concatenate([statistic(weights) for weights in resample(groups)])


def bootstrap_interval(statistic: Statistic, groups: np.ndarray, highest: float = np.inf) -> Metric:
    """A metric from 0 to `highest`, with the standard error of its bootstrap.

    For metrics that resampling biases (a calibration error): percentiles would miss the value itself.
    """
    value = float(statistic(np.ones((1, len(groups))))[0])
    half = Z * float(bootstrap(statistic, groups).std())
    return _metric(value, max(0.0, value - half), min(highest, value + half), "bootstrap over groups, normal")


def percentile_interval(value: float | None, draws: np.ndarray, method: str, trials: int, fallback: str) -> Metric:
    """From the 2.5th to the 97.5th percentile of `draws`, nan left out; where all are one, Wilson's of so many
    trials, by the name `fallback`.
    """
    known = draws[~np.isnan(draws)]
    if value is None or not len(known):
        return UNDEFINED | {"value": value, "method": None if value is None else method}
    low, high = np.percentile(known, [2.5, 97.5])
    if low < high:
        return _metric(value, low, high, method)
    low, high, _ = wilson(round(value * trials), trials)
    return _metric(value, low, high, fallback)


def proportion(hits: np.ndarray, among: np.ndarray, groups: np.ndarray) -> Metric:
    """The proportion of `hits` (bool [N]) in the images `among` (bool [N]): Wilson, or a bootstrap where groups hold
    several.
    """
    hits, groups = hits[among], groups[among]
    if not len(hits):
        return UNDEFINED
    count = len(np.unique(groups))
    if count == len(hits):
        return _metric(hits.mean(), *wilson(hits.sum(), count))
    draws = bootstrap(weighted_mean(hits), groups)
    return percentile_interval(float(hits.mean()), draws, "cluster bootstrap", count, "Wilson on the groups")


def cross_validated_auroc(positive: np.ndarray, scores: np.ndarray, folds: np.ndarray, groups: np.ndarray) -> Metric:
    """The AUROC of out-of-fold `scores` [N], which can be compared within a fold alone: each fold has its own model.

    It is the proportion of (case, control) pairs within the folds [N] that are ordered right: each fold's AUROC,
    weighted by its pairs, so that a fold of one class counts nothing. Undefined without a pair. The interval resamples
    groups [N]. As the models of K folds share training data, their AUROCs are correlated and that is too narrow: by the
    factor sqrt(1 + K / (K - 1)) of Nadeau and Bengio, Mach. Learn. 52 (2003) 239.
    """
    members = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]

    def area(weights: np.ndarray) -> np.ndarray:
        counts = [weighted_pairs(positive[inside], scores[inside], weights[:, inside]) for inside in members]
        right, pairs = np.sum(counts, axis=0)
        return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    value = float(area(np.ones((1, len(groups))))[0])
    if np.isnan(value):
        return UNDEFINED
    smallest = min(len(np.unique(groups[side])) for side in (positive, ~positive))
    method = "cluster bootstrap within folds, Nadeau and Bengio"
    metric = percentile_interval(value, bootstrap(area, groups), method, smallest, "Wilson")
    if metric["method"] == method:
        widen = np.sqrt(1 + len(members) / (len(members) - 1))
        metric |= {end: float(np.clip(value + widen * (metric[end] - value), 0, 1)) for end in ("low", "high")}
    return metric


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a proportion."""
    interval = binomtest(int(successes), int(trials)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high), "Wilson"


def delong(positive: np.ndarray, scores: np.ndarray) -> Interval:
    """Interval of the AUROC of `scores` [N] for `positive` bool [N].

    Where the variance is 0 (every pair is ordered right, or every one wrong) DeLong gives no width; then the interval
    is Wilson's for as many cases as the smaller class has, which is wider than the truth.
    """
    sides = placements(positive, scores)
    area, smaller = sides[0].mean(), min(map(len, sides))
    variance = sum(side.var(ddof=1) / len(side) for side in sides if len(side) > 1)
    if variance <= 0:
        low, high, _ = wilson(round(area * smaller), smaller)
        return low, high, "Wilson on the smaller class"
    half = Z * np.sqrt(variance)
    return float(max(0.0, area - half)), float(min(1.0, area + half)), "DeLong"


def placements(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each case the proportion of controls scored below it, for each control that of cases above it (ties one
    half).
    """
    cases, controls = scores[positive], scores[~positive]
    m, n = len(cases), len(controls)
    ranks = rankdata(np.concatenate([cases, controls]))
    return (ranks[:m] - rankdata(cases)) / n, 1 - (ranks[m:] - rankdata(controls)) / m


def _metric(value: float, low: float, high: float, method: str) -> Metric:
    return {"value": float(value), "low": float(low), "high": float(high), "method": method}
