"""Thresholds do on validation what they were chosen for."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.cxr_model.test_model import FOUR, TWO, make
from trainer.cxr_model import CxrOutput
from trainer.evaluation.operating_points import (
    AIMS,
    TRIAGE,
    choose_operating_points,
    choose_threshold,
    decided,
    deciding_point,
    positive_indices,
)
from trainer.evaluation.report import PREVALENCES, Scored, operating_point_metrics

LABELS = ("Normal", "Tuberculosis")
make_decider = cache(lambda count: make({2: TWO, 4: FOUR}[count]))


@given(st.integers(5, 80), st.integers(5, 80), st.floats(-1, 4), st.integers(0, 999), st.integers(1, 2))
def test_a_threshold_reaches_its_aim_in_each_collection_and_none_does_better(cases, controls, distance, seed, places):
    """By brute force: over all thresholds, the worst of the collections that are large, and of the others together."""
    rng = np.random.default_rng(seed)
    positive = np.repeat([True, False], [cases, controls])
    collections = rng.integers(0, places, cases + controls).astype(str)
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, cases + controls) + distance * positive + (collections == "1"))))
    large = [
        name
        for name in ("0", "1")
        if min((collections[positive] == name).sum(), (collections[~positive] == name).sum()) >= 30
    ]
    rest = ~np.isin(collections, large)
    counts = np.isin(collections, list(set(collections[~positive]))) if large else np.ones(len(positive), bool)

    def worst(called, among):
        among = among & counts
        parts = [
            *(among & (collections == name) for name in large),
            among & rest if (among & rest).sum() >= 30 else among,
        ]
        return min(called[part].mean() for part in parts)

    for aim in (*AIMS, TRIAGE):
        reached = [
            (sensitivity, specificity)
            for step in np.unique(scores)
            if (sensitivity := worst(scores >= step, positive)) >= aim.sensitivity
            and (specificity := worst(scores < step, ~positive)) >= aim.specificity
        ]
        threshold = choose_threshold(positive, scores, aim, collections)
        assert (threshold is None) == (not reached)
        if threshold is not None:
            sensitivity, specificity = worst(scores >= threshold, positive), worst(scores < threshold, ~positive)
            aimed = {"sensitivity": lambda pair: pair[0], "specificity": lambda pair: pair[1], "sum": sum}[aim.best]
            assert sensitivity >= aim.sensitivity
            assert specificity >= aim.specificity
            assert aimed((sensitivity, specificity)) == pytest.approx(max(map(aimed, reached)))
            equal = [pair for pair in reached if aimed(pair) == pytest.approx(aimed((sensitivity, specificity)))]
            assert sensitivity + specificity == pytest.approx(max(map(sum, equal)))
            assert np.abs(scores - threshold).min() > 0 or threshold == 0  # between two scores


def overlapping(count: int, distance: float, seed: int = 0):
    """Labels, and scores of which `distance` lies between cases and controls."""
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 2
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, count) + distance * (truth - 0.5))))
    return truth, np.stack([1 - scores, scores], axis=1)


def scored(truth, scores) -> Scored:
    """Each image a group of its own."""
    return Scored(pd.DataFrame({"group": np.arange(len(truth))}), truth, scores, None)


def test_a_good_model_has_four_different_points():
    """Screening gives up cases for specificity, confirming gives up nothing more than its aim asks."""
    truth, scores = overlapping(2000, 3.8)
    points = {point["name"]: point for point in choose_operating_points(truth, scores, LABELS, "tb", np.full(2000, ""))}
    assert list(points) == ["screening", "confirming", "Youden", "WHO triage"]
    found = {
        name: operating_point_metrics(point, scored(truth, scores), LABELS, PREVALENCES)
        for name, point in points.items()
    }
    assert 0.95 <= found["screening"]["sensitivity"]["value"] < 0.96  # of 1000 cases, some lie between two controls
    assert 0.95 <= found["confirming"]["specificity"]["value"] < 0.96
    assert 0.90 <= found["WHO triage"]["sensitivity"]["value"] < 0.92
    assert found["WHO triage"]["specificity"]["value"] > found["screening"]["specificity"]["value"]


def test_triage_decides_where_it_is_reached_and_else_screening():
    truth, scores = overlapping(2000, 4)
    points = choose_operating_points(truth, scores, LABELS, "tb", np.full(2000, ""))
    assert deciding_point(points)["name"] == "WHO triage"
    assert (
        deciding_point(choose_operating_points(truth, scores, LABELS, "own", np.full(2000, "")))["name"] == "screening"
    )
    one = choose_operating_points(*overlapping(100, 60), LABELS, "tb", np.full(100, ""))
    assert deciding_point(one) == one[0]
    assert deciding_point([{**point, "threshold": None} for point in points]) is None


def test_points_that_are_one_are_told_once():
    truth = np.arange(100) % 2
    scores = np.stack([0.9 - 0.8 * truth, 0.1 + 0.8 * truth], axis=1)
    (point,) = choose_operating_points(truth, scores, LABELS, "tb", np.full(100, ""))
    assert (point["name"], point["also"]) == ("screening", ["confirming", "Youden", "WHO triage"])
    assert point["aim"] == "; ".join(aim.words for aim in (*AIMS, TRIAGE))
    assert 0.1 < point["threshold"] < 0.9


def test_an_easy_collection_does_not_pay_for_a_hard_one():
    """Two hospitals, one with lower scores: the threshold of both together would miss a tenth of its cases."""
    truth, scores = overlapping(800, 4)
    places = np.repeat(["easy", "hard"], 400)
    scores[:, 1] -= np.where(places == "hard", 0.2, 0) * scores[:, 1]
    points = choose_operating_points(truth, scores, LABELS, "own", places)
    caught = [
        (scores[(truth == 1) & (places == name), 1] >= points[0]["threshold"]).mean() for name in ("easy", "hard")
    ]
    assert min(caught) >= 0.95
    assert points[0]["within"] == ["easy", "hard"]
    pooled = choose_operating_points(truth, scores, LABELS, "own", np.full(800, "both"))
    assert (scores[(truth == 1) & (places == "hard"), 1] >= pooled[0]["threshold"]).mean() < 0.95


def test_cases_of_a_hospital_without_controls_move_no_threshold():
    truth, scores = overlapping(400, 4)
    places = np.full(400, "both")
    expected = choose_threshold(truth == 1, scores[:, 1], AIMS[0], places)
    truth, places = np.append(truth, np.ones(100, int)), np.append(places, np.full(100, "ill alone"))
    low = np.append(scores[:, 1], np.linspace(0.01, 0.2, 100))
    more = choose_threshold(truth == 1, low, AIMS[0], places)
    assert expected is not None
    assert more == pytest.approx(expected, abs=0.05)
    alone = np.where(places == "both", "ill alone", places)
    assert choose_threshold(truth == 1, low, AIMS[0], alone) < 0.2  # no other collection: they count


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
    truth, scores = rng.integers(0, 4, 100), rng.dirichlet(np.ones(4), 100)
    points = choose_operating_points(truth, scores, tuple(FOUR.values()), "own", np.full(100, ""))
    assert {point["label"] for point in points} == {"COVID", "Lung_Opacity", "Viral Pneumonia"}
    assert all(point["cases"] + point["controls"] == 100 and point["within"] == [] for point in points)
    assert positive_indices(("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")) == [0, 1, 3]


def test_predictive_values_by_bayes():
    truth = np.array([1] * 100 + [0] * 100)
    scores = np.zeros((200, 2))
    scores[:90, 1] = scores[100:120, 1] = 0.9  # sensitivity .9, specificity .8
    point = {"name": "screening", "label": "Tuberculosis", "aim": "", "threshold": 0.5}
    found = operating_point_metrics(point, scored(truth, scores), LABELS, (0.02,))
    assert (found["sensitivity"]["value"], found["specificity"]["value"]) == (0.9, 0.8)
    (row,) = found["predictive_values"]
    assert row["ppv"]["value"] == pytest.approx(0.9 * 0.02 / (0.9 * 0.02 + 0.2 * 0.98))
    assert row["npv"]["value"] == pytest.approx(0.8 * 0.98 / (0.8 * 0.98 + 0.1 * 0.02))
    assert row["ppv"]["low"] < row["ppv"]["value"] < row["ppv"]["high"] < 0.2


def test_an_aim_out_of_reach_has_no_threshold():
    truth, scores = np.array([0, 1] * 50), np.full((100, 2), 0.5)
    points = {
        point["name"]: point["threshold"]
        for point in choose_operating_points(truth, scores, LABELS, "tb", np.full(100, ""))
    }
    assert points["WHO triage"] is None
    assert points["screening"] is not None  # by calling everybody
