"""Two models on the same images: is one better?

Images of a group (a patient) are alike, so groups are what is counted. Decisions: McNemar, Psychometrika 12 (1947)
153, and for groups the statistic of Yang, Sun and Hardin, Biom. J. 52 (2010) 638, here with its exact distribution.
AUROC: DeLong et al., Biometrics 44 (1988) 837, and for groups Obuchowski, Biometrics 53 (1997) 567. Where every group
holds one image the tests for groups are the plain ones.
"""

from typing import Any

import numpy as np
from scipy.stats import t as student

from hub_cards.formatting import format_number
from trainer.evaluation.intervals import placements

LEVEL = 0.05


def compare_answers(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test for two models' answers, bool [N] each: right or wrong on the same images.

    If the models are equally good, then each group [N] (numbers from 0) is as likely to favour the one as the other by
    as many images: p is the share of all ways to swap the models in whole groups that differ by as much as was seen.
    """
    gaps = np.bincount(groups, weights=one.astype(float) - other).astype(int)
    chance = np.ones(1)  # of each difference between -reach and reach
    for gap in np.abs(gaps[gaps != 0]):
        chance = (np.pad(chance, (2 * gap, 0)) + np.pad(chance, (0, 2 * gap))) / 2
    reach = len(chance) // 2
    p = float(chance[np.abs(np.arange(-reach, reach + 1)) >= abs(gaps.sum())].sum())
    method = "McNemar, exact" if _alone(groups) else "McNemar by groups, exact"
    return {
        "figure": "right decisions",
        "one": float(one.mean()),
        "other": float(other.mean()),
        "p": min(p, 1.0),
        "method": method,
    }


def compare_aurocs(positive: np.ndarray, one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """DeLong's test for the AUROCs of two models' scores [N] of the same images, `positive` bool [N].

    Groups [N] are numbers from 0. With groups of several images the variance is Obuchowski's and the reference
    Student's t, as there are often few.
    """
    placed = [placements(positive, scores) for scores in (one, other)]
    areas = [float(above.mean()) for above, _ in placed]
    difference = areas[0] - areas[1]
    of_group, shares = [], []  # for cases and for controls: what each group adds to the difference, [G]
    for members, gaps in zip(
        (positive, ~positive), (placed[0][side] - placed[1][side] for side in (0, 1)), strict=True
    ):
        own = groups[members]
        of_group.append(np.bincount(own, weights=gaps - difference, minlength=groups.max() + 1) / len(own))
        shares.append(len(np.unique(own)))
    variance = sum(
        count / (count - 1) * float((part**2).sum()) for part, count in zip(of_group, shares, strict=True) if count > 1
    )
    count = len(np.unique(groups))
    variance += 2 * count / max(count - 1, 1) * float((of_group[0] * of_group[1]).sum())
    freedom = np.inf if _alone(groups) else count - 1
    p = float(2 * student.sf(abs(difference) / np.sqrt(variance), freedom)) if variance > 0 else float(difference == 0)
    method = "DeLong, paired" if _alone(groups) else "DeLong by groups, Obuchowski"
    return {"figure": "AUROC", "one": areas[0], "other": areas[1], "p": p, "method": method}


def verdict(test: dict[str, Any], names: tuple[str, str]) -> str:
    """In words: which is better, or that they cannot be told apart."""
    values = f"{format_number(test['one'])} and {format_number(test['other'])}"
    said = f"{test['figure']} {values}, p = {test['p']:.2g} ({test['method']})"
    if test["p"] >= LEVEL:
        return f"{said}: not distinguishable"
    return f"{said}: {names[0] if test['one'] > test['other'] else names[1]} is better"


def _alone(groups: np.ndarray) -> bool:
    return len(np.unique(groups)) == len(groups)
