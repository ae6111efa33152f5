"""95 % intervals: Wilson for proportions where every image stands alone, a bootstrap over groups for all else.

Sources: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; Field and Welsh, J. R. Stat. Soc. B 69 (2007) 369.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from trainer.evaluation.metrics import Classification, Statistic, weighted_mean, weighted_metrics, weighted_pairs

RESAMPLES = 1000
Z = float(norm.ppf(0.975))
Metric = dict[str, Any]  # {"value", "low", "high", "method"}
UNDEFINED: Metric = {"value": None, "low": None, "high": None, "method": None}
PER_CLASS = ("sensitivity", "specificity", "precision", "f1", "auroc")


def intervals(truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Metrics with intervals, each {"value", "low", "high", "method"}; undefined ones are None throughout.

    Args:
        truth: label indices [N].
        decisions: what the model decides, label indices [N].
        scores: probabilities [N, C].
        groups: what must stay together, [N]: the unit that is resampled.

    Returns:
        {"metrics": {name: metric}, "per_class": [{name: metric}], "confusion": rows of counts, a row a true label}.
        With two labels `metrics` holds those of the second, the positive one; with more, averages over the labels.
    """
    values = Classification(keep_in_memory=True).compute(references=truth, predictions=decisions, scores=scores)
    resampled = [weighted_metrics(truth, decisions, scores, weights) for weights in resample(groups)]
    alone = len(np.unique(groups)) == len(groups)
    method = "bootstrap" if alone else "cluster bootstrap"
    smallest = min(len(np.unique(groups[truth == index])) for index in np.unique(truth))

    def bootstrapped(name: str, label: Any = ...) -> Metric:  # `...` takes a metric that labels share
        draws = np.concatenate([part[name][:, label] for part in resampled])
        return percentile_interval(float(values[name][0, label]), draws, method, smallest)

    per_class = [{name: bootstrapped(name, label) for name in PER_CLASS} for label in range(scores.shape[1])]
    overall = ("accuracy", "balanced_accuracy", *(("macro_f1", "macro_auroc") if len(per_class) > 2 else ()))
    metrics = {name: bootstrapped(name) for name in overall}
    if alone:
        metrics["accuracy"] = proportion(truth == scores.argmax(axis=1), groups)
        for label, row in enumerate(per_class):
            positive, decided = truth == label, decisions == label
            row["sensitivity"] = proportion(decided, groups, positive)
            row["specificity"] = proportion(~decided, groups, ~positive)
            row["precision"] = proportion(positive, groups, decided)
    metrics |= per_class[1] if len(per_class) == 2 else {}
    return {"metrics": metrics, "per_class": per_class, "confusion": values["confusion"][0].astype(int).tolist()}


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
    """A metric from 0 to `highest` with its bootstrap's standard error: for those that resampling biases."""
    value = float(statistic(np.ones((1, len(groups))))[0])
    half = Z * float(bootstrap(statistic, groups).std())
    return _metric(value, max(0.0, value - half), min(highest, value + half), "bootstrap over groups, normal")


def percentile_interval(value: float, draws: np.ndarray, method: str, trials: int) -> Metric:
    """The 2.5th to the 97.5th percentile of `draws`, nan left out; where they are one, Wilson's of so many trials."""
    known = draws[~np.isnan(draws)]
    if np.isnan(value) or not len(known):
        return UNDEFINED
    low, high = np.percentile(known, [2.5, 97.5])
    if low < high:
        return _metric(value, low, high, method)
    return wilson(value, trials, "Wilson on groups")


def proportion(hits: np.ndarray, groups: np.ndarray, among: np.ndarray | None = None) -> Metric:
    """The proportion of `hits` bool [N], of those `among` bool [N]: Wilson, or a bootstrap by groups of several."""
    if among is not None:
        hits, groups = hits[among], groups[among]
    if not len(hits):
        return UNDEFINED
    count = len(np.unique(groups))
    if count == len(hits):
        return wilson(hits.mean(), count)
    draws = bootstrap(weighted_mean(hits), groups)
    return percentile_interval(float(hits.mean()), draws, "cluster bootstrap", count)


def cross_validated_auroc(positive: np.ndarray, scores: np.ndarray, folds: np.ndarray, groups: np.ndarray) -> Metric:
    """The AUROC of out-of-fold `scores` [N] over pairs within a fold [N], as each fold has its own model.

    The interval resamples groups [N] and is widened by sqrt(1 + K / (K - 1)), as the models of K folds share training
    data: Nadeau and Bengio, Mach. Learn. 52 (2003) 239. Undefined without a (case, control) pair.
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
    metric = percentile_interval(value, bootstrap(area, groups), method, smallest)
    if metric["method"] == method:
        times = np.sqrt(1 + len(members) / (len(members) - 1))
        metric |= {end: float(np.clip(value + times * (metric[end] - value), 0, 1)) for end in ("low", "high")}
    return metric


def widen_intervals(report: Any, times: float) -> Any:
    """A report in which each metric of 0..1 has an interval so many times as wide, as those of folds must have."""
    if isinstance(report, list):
        return [widen_intervals(one, times) for one in report]
    if not isinstance(report, dict):
        return report
    if report.keys() >= {"value", "low", "high"} and report["low"] is not None:
        value, method = report["value"], f"{report['method']}, cross-validated: {times:.2g} times as wide"
        ends = {end: float(np.clip(value + times * (report[end] - value), 0, 1)) for end in ("low", "high")}
        return {**report, **ends, "method": method}
    return {key: widen_intervals(one, times) for key, one in report.items()}


def wilson(value: float, trials: int, method: str = "Wilson") -> Metric:
    """A proportion of so many trials, with Wilson's score interval."""
    interval = binomtest(round(value * trials), trials).proportion_ci(method="wilson")
    return _metric(value, interval.low, interval.high, method)


def _metric(value: float, low: float, high: float, method: str) -> Metric:
    return {"value": float(value), "low": float(low), "high": float(high), "method": method}
