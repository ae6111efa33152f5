"""Two models on the same pictures: is one better?

McNemar, Psychometrika 12 (1947) 153, exact; paired AUROC: DeLong et al., Biometrics 44 (1988) 837.
"""

from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from trainer.evaluation.intervals import placements

LEVEL = 0.05


def compare_answers(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test for two models' answers, bool [N] each: right or wrong on the same pictures."""
    better, worse = int((one & ~other).sum()), int((other & ~one).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return {"figure": "accuracy", "one": float(one.mean()), "other": float(other.mean()), "p": p, "method": "McNemar, exact"}


def compare_aurocs(positive: np.ndarray, one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """DeLong's test for the AUROCs of two models' scores [N] of the same pictures, `positive` bool [N]."""
    (above, below), (other_above, other_below) = (placements(positive, scores) for scores in (one, other))
    areas = [float(above.mean()), float(other_above.mean())]
    variance = sum(float(gap.var(ddof=1)) / len(gap) for gap in (above - other_above, below - other_below) if len(gap) > 1)
    difference = areas[0] - areas[1]
    p = float(2 * norm.sf(abs(difference) / np.sqrt(variance))) if variance > 0 else float(difference == 0)
    return {"figure": "AUROC", "one": areas[0], "other": areas[1], "p": p, "method": "DeLong, paired"}


def verdict(test: dict[str, Any], names: tuple[str, str]) -> str:
    """In words: which is better, or that they cannot be told apart."""
    said = f"{test['figure']} {test['one']:.3f} and {test['other']:.3f}, p = {test['p']:.2g} ({test['method']})"
    if test["p"] >= LEVEL:
        return f"{said}: not distinguishable"
    return f"{said}: {names[0] if test['one'] > test['other'] else names[1]} is better"
