"""Two models on the same images: is one better? Images of a group (a patient) are alike, so groups are counted.

Decisions: McNemar, Psychometrika 12 (1947) 153, and for groups Yang, Sun and Hardin, Biom. J. 52 (2010) 638, with its
exact distribution. AUROC: DeLong et al., Biometrics 44 (1988) 837, by the fast algorithm of Sun and Xu, IEEE Signal
Process. Lett. 21 (2014) 1389, and for groups Obuchowski, Biometrics 53 (1997) 567.
"""

from typing import Any

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from hub_cards.formatting import format_number

LEVEL = 0.05


def compare_answers(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test for two models' answers, bool [N] each: right or wrong on the same images.

    p is the proportion of all ways to swap the models in whole groups [N] (numbers from 0) that differ by as much.
    """
    gaps = np.bincount(groups, weights=one.astype(float) - other).astype(int)
    chance = np.ones(1)  # of each difference between -reach and reach
    for gap in np.abs(gaps[gaps != 0]):
        chance = (np.pad(chance, (2 * gap, 0)) + np.pad(chance, (0, 2 * gap))) / 2
    reach = len(chance) // 2
    p = float(chance[np.abs(np.arange(-reach, reach + 1)) >= abs(gaps.sum())].sum())
    method = "McNemar, exact" if _alone(groups) else "McNemar by groups, exact"
    return _test("right decisions", one.mean(), other.mean(), min(p, 1.0), method)


def compare_aurocs(positive: np.ndarray, one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """DeLong's test for the AUROCs of two models' scores [N] of the same images, `positive` bool [N].

    Groups [N] are numbers from 0. With groups of several images the variance is Obuchowski's and the reference
    Student's t, as there are often few.
    """
    first, second = placements(positive, one), placements(positive, other)
    difference = first[0].mean() - second[0].mean()
    count = int(groups.max()) + 1
    variance, contributions = 0.0, []  # of cases, then of controls: what each group adds to the difference, [G]
    for members, gaps in ((groups[positive], first[0] - second[0]), (groups[~positive], first[1] - second[1])):
        contribution = np.bincount(members, weights=gaps - difference, minlength=count) / len(members)
        present = len(np.unique(members))
        variance += present / (present - 1) * float((contribution**2).sum()) if present > 1 else 0.0
        contributions.append(contribution)
    variance += 2 * count / max(count - 1, 1) * float((contributions[0] * contributions[1]).sum())
    freedom = np.inf if _alone(groups) else count - 1
    p = float(2 * student.sf(abs(difference) / np.sqrt(variance), freedom)) if variance > 0 else float(difference == 0)
    method = "DeLong, paired" if _alone(groups) else "DeLong by groups, Obuchowski"
    return _test("AUROC", first[0].mean(), second[0].mean(), p, method)


def placements(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each case the proportion of controls scored below it, for each control of cases above it; ties one half."""
    cases, controls = scores[positive], scores[~positive]
    m, n = len(cases), len(controls)
    ranks = rankdata(np.concatenate([cases, controls]))
    return (ranks[:m] - rankdata(cases)) / n, 1 - (ranks[m:] - rankdata(controls)) / m


def verdict(test: dict[str, Any], names: tuple[str, str]) -> str:
    """In words: which is better, or that they cannot be told apart."""
    values = f"{format_number(test['one'])} and {format_number(test['other'])}"
    better = f"{names[0] if test['one'] > test['other'] else names[1]} is better"
    outcome = better if test["p"] < LEVEL else "not distinguishable"
    return f"{test['metric']} {values}, p = {test['p']:.2g} ({test['method']}): {outcome}"


def _test(metric: str, one: float, other: float, p: float, method: str) -> dict[str, Any]:
    return {"metric": metric, "one": float(one), "other": float(other), "p": p, "method": method}


def _alone(groups: np.ndarray) -> bool:
    return len(np.unique(groups)) == len(groups)
