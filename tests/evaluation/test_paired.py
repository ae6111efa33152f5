"""Paired tests against their textbooks, and in words by `cxr compare`."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from trainer.commands.compare import compare, joint_groups
from trainer.evaluation.paired import compare_answers, compare_aurocs, verdict
from trainer.run import Run


def test_mcnemar_by_hand():
    one = np.array([True] * 90 + [True] * 8 + [False] * 2)
    other = np.array([True] * 90 + [False] * 8 + [True] * 2)
    assert compare_answers(one, other, np.arange(100))["p"] == pytest.approx(2 * binom.cdf(2, 10, 0.5))
    assert compare_answers(one, one, np.arange(100))["p"] == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.integers(1, 5))
def test_mcnemar_by_groups_counts_groups(answers, copies):
    """Of groups of one image it is McNemar's; so many copies of each image change nothing."""
    one, other = np.array(answers).T
    groups = np.arange(len(one))
    alone = compare_answers(one, other, groups)
    better, worse = (one & ~other).sum(), (other & ~one).sum()
    assert alone["p"] == pytest.approx(binomtest(int(better), int(better + worse)).pvalue if better + worse else 1)
    grouped = compare_answers(*(np.repeat(part, copies) for part in (one, other)), np.repeat(groups, copies))
    assert grouped["p"] == pytest.approx(alone["p"])
    assert grouped["method"] == ("McNemar, exact" if copies == 1 else "McNemar by groups, exact")


def test_delong_by_groups_counts_groups():
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.4
    one, other = rng.normal(0, 1, (2, 400)) + positive
    alone = compare_aurocs(positive, one, other, np.arange(400))
    copied = compare_aurocs(*(np.repeat(part, 5) for part in (positive, one, other)), np.repeat(np.arange(400), 5))
    assert copied["p"] == pytest.approx(alone["p"], rel=0.02)  # Student's t of 399 beside the normal distribution
    assert (alone["method"], copied["method"]) == ("DeLong, paired", "DeLong by groups, Obuchowski")


def test_delong_has_its_level_and_finds_a_difference():
    rng = np.random.default_rng(0)
    positive, groups = np.repeat([True, False], [60, 90]), np.arange(150)
    below = 0
    for _ in range(300):
        shared = rng.normal(0, 1, 150) + positive
        below += (
            compare_aurocs(positive, shared + rng.normal(0, 1, 150), shared + rng.normal(0, 1, 150), groups)["p"] < 0.05
        )
    assert 0.02 < below / 300 < 0.09
    found = compare_aurocs(positive, rng.normal(0, 1, 150) + 3 * positive, rng.normal(0, 1, 150), groups)
    assert found["p"] < 1e-6
    assert verdict(found, ("a", "b")).endswith("a is better")
    assert compare_aurocs(positive, positive * 1.0, positive * 2.0, groups)["p"] == 1
    assert verdict(compare_aurocs(positive, positive * 1.0, positive * 2.0, groups), ("a", "b")).endswith(
        "not distinguishable"
    )


def equally_good(seed: int, patients: int = 40, films: int = 8):
    """Scores of two models on films of patients, who are hard for both, and some for one of them, whatever the film."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), films)
    positive, hard = (rng.permutation(patients) % 2 == 1)[groups], rng.normal(0, 1, patients)[groups]
    scores = [
        2 * positive + hard + rng.normal(0, 1, patients)[groups] + rng.normal(0, 1, len(groups)) for _ in range(2)
    ]
    return positive, 1 / (1 + np.exp(1 - np.array(scores))), groups


@pytest.mark.slow
def test_of_equally_good_models_5_in_100_are_told_apart():
    answers, aurocs = [], []
    for seed in range(500):
        positive, scores, groups = equally_good(seed)
        answers.append(compare_answers(*((part >= 0.5) == positive for part in scores), groups)["p"] < 0.05)
        aurocs.append(compare_aurocs(positive, *scores, groups)["p"] < 0.05)
    assert 0.03 <= np.mean(answers) <= 0.07
    assert 0.03 <= np.mean(aurocs) <= 0.07


def write_run(folder, positive, scores, groups, point=None) -> Run:
    """What `compare` reads of a run; it decided at `point`, else at .5."""
    folder.mkdir(exist_ok=True)
    rows = pd.DataFrame({"sha256": [f"{place:064}" for place in range(len(scores))], "split": "test"})
    rows["label"] = np.where(positive, "ill", "well")
    rows.assign(group=groups).to_csv(folder / "manifest.csv", index=False)
    rows["prediction"] = np.where(scores >= 0.5, "ill", "well")
    rows["decision"] = np.where(scores >= (point or {"threshold": 0.5})["threshold"], "ill", "well")
    rows.assign(**{"p:well": 1 - scores, "p:ill": scores}).to_csv(folder / "predictions.csv", index=False)
    return Run(folder)


def test_films_of_few_patients_do_not_make_equal_models_different(tmp_path):
    told = []
    for seed in range(40):
        positive, scores, groups = equally_good(seed)
        runs = [
            write_run(tmp_path / name, positive, part, [f"{name}{group}" for group in groups])
            for name, part in zip("ab", scores, strict=True)
        ]
        lines = compare(runs, "test")
        assert lines[0] == "a and b on the same 320 test images in 40 groups:"
        assert "McNemar by groups, exact" in lines[1]
        assert "DeLong by groups, Obuchowski" in lines[2]
        told.append([line.endswith("is better") for line in lines[1:]])
    assert (np.sum(told, axis=0) <= 6).all()  # of 40, at a level of .05


def test_groups_of_two_runs_are_joined_by_their_pictures(tmp_path):
    """Their names mean something within their own run alone: `x` of the one is not `x` of the other."""
    positive, scores = np.array([True, False] * 3), np.linspace(0, 1, 6)
    one = write_run(tmp_path / "one", positive, scores, ["x", "x", "y", "z", "w", ""])
    other = write_run(tmp_path / "other", positive, scores, ["1", "2", "2", "x", "w", ""])
    pictures = pd.read_csv(one.path / "predictions.csv", dtype=str)["sha256"]
    assert joint_groups([one, other], pd.Index(pictures)).tolist() == [0, 0, 0, 1, 2, 3]
    assert joint_groups([one, other], pd.Index(pictures[[0, 2, 3]])).tolist() == [
        0,
        0,
        1,
    ]  # linked by an image that is not asked about


def test_decisions_are_compared(tmp_path):
    positive, scores = np.repeat([True, False], 20), np.repeat([0.3, 0.1], 20)
    point = {"name": "screening", "label": "ill", "threshold": 0.2}
    runs = [
        write_run(tmp_path / name, positive, scores, np.arange(40), at) for name, at in (("low", point), ("half", None))
    ]
    lines = compare(runs, "test")
    assert lines[1].startswith("  right decisions 1.000 and .500, p = 1.9e-06 (McNemar, exact)")
