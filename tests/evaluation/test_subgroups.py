"""Metrics by a column: a difference is found, few images prove nothing, many comparisons are corrected for."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.report import Scored
from trainer.evaluation.subgroups import UNKNOWN, holm, report_subgroups


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Label indices, and scores of two labels that are right in most."""
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 2
    positive = 1 / (1 + np.exp(-(3 * truth - 1.5 + rng.normal(0, 1, count))))
    return truth, np.stack([1 - positive, positive], axis=1)


def report(columns: dict[str, list[str]], truth: np.ndarray, scores: np.ndarray, groups: np.ndarray | None = None):
    groups = np.arange(len(truth)) if groups is None else groups
    labels = tuple("ABC"[: scores.shape[1]])
    part = Scored(pd.DataFrame({"group": groups}), truth, scores, None)
    return report_subgroups(pd.DataFrame(columns), part, labels, None)


def test_a_group_in_which_the_model_fails_is_named():
    truth, scores = images(240)
    sex = np.array(["F", "M"])[(np.arange(240) // 2) % 2]
    missed = (sex == "M") & (truth == 1) & (np.arange(240) % 8 < 6)
    scores[missed] = [0.9, 0.1]
    found = report({"sex": sex.tolist()}, truth, scores)
    first, second = found["columns"]["sex"]
    assert (first["value"], first["n"], second["n"]) == ("F", 120, 120)
    assert first["differences"]["sensitivity"]["value"] > 0.3
    assert first["differences"]["sensitivity"]["p"] < 0.001
    assert first["differences"]["specificity"]["p"] > 0.05
    assert second["differences"] == {}  # the same comparison, the other way round
    assert found["comparisons"] == 3


def test_each_part_has_the_metrics_of_its_own_images():
    truth, scores = images(120)
    inside = np.arange(120) % 3 == 0
    whole = report({"site": np.where(inside, "A", "").tolist()}, truth, scores)["columns"]["site"]
    alone = report({"site": ["A"] * int(inside.sum())}, truth[inside], scores[inside])["columns"]["site"]
    assert [row["value"] for row in whole] == ["A", UNKNOWN]
    assert whole[0]["metrics"] == alone[0]["metrics"]


def test_three_images_that_are_all_right_prove_nothing():
    truth, scores = images(200, seed=1)
    few = np.full(200, "others")
    right = np.flatnonzero((scores.argmax(axis=1) == truth) & (truth == 1))[:3]
    few[right] = "few"
    rows = report({"scanner": few.tolist()}, truth, scores)["columns"]["scanner"]
    assert rows[0]["metrics"]["sensitivity"]["value"] == 1
    assert rows[0]["differences"]["sensitivity"]["p"] > 0.05
    assert rows[0]["differences"]["auroc"] == {"value": None, "low": None, "high": None, "p": None}  # no control


def test_images_of_a_group_stay_together():
    truth, scores = images(200)
    sex = np.repeat(["F", "M"], 100).tolist()
    alone = report({"sex": sex}, truth, scores)["columns"]["sex"][0]
    patients = report({"sex": sex}, truth, scores, np.arange(200) // 10)["columns"]["sex"][0]
    assert (alone["groups"], patients["groups"]) == (100, 10)
    width = {name: rows["differences"]["sensitivity"] for name, rows in (("alone", alone), ("patients", patients))}
    assert width["patients"]["high"] - width["patients"]["low"] > width["alone"]["high"] - width["alone"]["low"]


def test_of_more_labels_averages_are_compared():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 90)
    found = report({"sex": ["F", "M", "M"] * 30}, np.arange(90) % 3, scores)
    assert set(found["columns"]["sex"][0]["differences"]) == {"balanced_accuracy", "macro_auroc"}


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrected_p_values_are_no_lower_and_keep_their_order(p):
    corrected = np.array(holm(p))
    assert ((corrected >= p) & (corrected <= 1)).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()
