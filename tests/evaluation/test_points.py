"""Thresholds do on validation what they were chosen for."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.cxr_model.test_model import FOUR, TWO, make
from trainer.cxr_model import CxrOutput
from trainer.evaluation.points import AIMS, TRIAGE, choose_points, choose_threshold, decided, looked_for, point_figures

LABELS = ("Normal", "Tuberculosis")
make_decider = cache(lambda count: make({2: TWO, 4: FOUR}[count]))


@given(st.integers(5, 80), st.integers(5, 80), st.floats(-1, 4), st.integers(0, 999))
def test_a_threshold_reaches_its_aim_and_none_does_better(cases, controls, distance, seed):
    rng = np.random.default_rng(seed)
    positive = np.repeat([True, False], [cases, controls])
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, cases + controls) + distance * positive)))
    for aim in (*AIMS, TRIAGE):
        reached = {}
        for threshold in [*np.unique(scores), *(np.unique(scores) - 1e-12)]:
            called = scores >= threshold
            sensitivity, specificity = called[positive].mean(), (~called)[~positive].mean()
            if sensitivity >= aim.sensitivity and specificity >= aim.specificity:
                reached[threshold] = sensitivity + specificity
        threshold = choose_threshold(positive, scores, aim)
        if aim.specificity <= 0 or aim.sensitivity > 0:  # calling nobody is no point worth having
            assert (threshold is None) == (not reached)
        if threshold is not None:
            called = scores >= threshold
            assert called[positive].mean() >= aim.sensitivity
            assert (~called)[~positive].mean() >= aim.specificity
            assert called[positive].mean() + (~called)[~positive].mean() == pytest.approx(max(reached.values()))
            assert np.abs(scores - threshold).min() > 0 or threshold == 0  # between two scores


@given(st.sampled_from([TWO, FOUR]), st.integers(0, 999), st.integers(-1, 3), st.floats(0, 1), st.booleans())
def test_what_is_evaluated_is_what_the_model_decides(labels, seed, place, threshold, tied):
    """Ties and scores at the threshold included."""
    model = make_decider(len(labels))
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (20, len(labels))).astype(np.float32))
    logits = logits.round() if tied else logits
    names = tuple(labels.values())
    scores = logits.softmax(dim=-1)
    if tied:
        threshold = float(scores[seed % 20, place % len(labels)])
    point = {"name": "screening", "label": names[place], "threshold": threshold} if 0 <= place < len(labels) else None
    model.config.operating_point = point
    said = [answer["label"] for answer in model.decide(CxrOutput(logits=logits))]
    assert [names[index] for index in decided(scores.double().numpy(), names, point)] == said


def test_points_of_two_and_of_more_labels():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 100)
    scores = np.stack([1 - truth * 0.6, truth * 0.6], axis=1)
    names = [(point["name"], point["label"]) for point in choose_points(truth, scores, LABELS, "tb")]
    assert names == [(name, "Tuberculosis") for name in ("screening", "confirming", "Youden", "WHO triage")]
    assert len(choose_points(truth, scores, ("a", "b"), "own")) == 3
    assert looked_for(("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")) == [0, 1, 3]


def test_predictive_values_by_bayes():
    truth = np.array([1] * 100 + [0] * 100)
    scores = np.zeros((200, 2))
    scores[:90, 1] = scores[100:120, 1] = 0.9  # sensitivity .9, specificity .8
    point = {"name": "screening", "label": "Tuberculosis", "aim": "", "threshold": 0.5}
    found = point_figures(point, truth, scores, np.arange(200), LABELS, (0.02,))
    assert (found["sensitivity"]["value"], found["specificity"]["value"]) == (0.9, 0.8)
    (row,) = found["predictive_values"]
    assert row["ppv"]["value"] == pytest.approx(0.9 * 0.02 / (0.9 * 0.02 + 0.2 * 0.98))
    assert row["npv"]["value"] == pytest.approx(0.8 * 0.98 / (0.8 * 0.98 + 0.1 * 0.02))
    assert row["ppv"]["low"] < row["ppv"]["value"] < row["ppv"]["high"] < 0.2
    assert point_figures({**point, "threshold": None}, truth, scores, np.arange(200), LABELS) is None


def test_an_aim_out_of_reach_has_no_threshold():
    truth, scores = np.array([0, 1] * 50), np.full((100, 2), 0.5)
    points = {point["name"]: point["threshold"] for point in choose_points(truth, scores, LABELS, "tb")}
    assert points["WHO triage"] is None
    assert points["screening"] is not None  # by calling everybody
