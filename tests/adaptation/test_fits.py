"""What local films change: thresholds that keep their aim in films to come, calibration that is found again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit, softmax

from trainer.adaptation import selection
from trainer.adaptation.fits import (
    Change,
    Films,
    fit_calibration,
    fit_head,
    fit_threshold,
    local_aim,
    move_prevalence,
    specificity_to_come,
    to_logits,
)
from trainer.adaptation.forecast import forecast
from trainer.adaptation.report import auroc, films_needed, gains, metrics, population, subgroups
from trainer.adaptation.selection import choose, methods, out_of_fold, recall

TWO = ("Normal", "Tuberculosis")


def draw(rng, count, apart=2.0, slope=1.0, intercept=0.0, share=0.5):
    """Films whose probability of disease is expit(slope x margin + intercept), nearly; features say nothing."""
    positive = np.arange(count) < count * share
    ideal = rng.normal(np.where(positive, apart / 2, -apart / 2), 1) * apart + logit(share)
    return two(ideal, positive, rng, slope, intercept)


def two(ideal, positive, rng, slope=1.0, intercept=0.0):
    margins = (ideal - intercept) / slope
    logits = to_logits(softmax(np.stack([0 * margins, margins], axis=1), axis=1))
    features = rng.normal(size=(len(positive), 4)).astype(np.float32)
    return Films(logits, positive.astype(int), np.arange(len(positive)).astype(str), features)


def as_it_is(threshold=0.5, labels=2):
    return Change(threshold if labels == 2 else None, np.zeros(labels))


def scores_of(films):
    return np.exp(films.logits)[:, 1]


def test_a_threshold_for_a_sensitivity_keeps_it_in_films_to_come():
    rng, reached = np.random.default_rng(0), []
    for _ in range(200):
        films, others = draw(rng, 40), draw(rng, 2000)
        threshold = fit_threshold(films.positive, scores_of(films), local_aim(0.9, None))
        reached.append((scores_of(others)[others.positive] >= threshold).mean())
    assert 0.85 < np.mean(reached) < 0.95


def test_healthy_films_alone_keep_a_specificity_and_say_how_sure_they_are():
    rng, reached, inside = np.random.default_rng(1), [], []
    for _ in range(300):
        scores = rng.random(30)
        threshold = fit_threshold(np.zeros(30, bool), scores, local_aim(None, 0.7))
        low, high = specificity_to_come(30, int((scores < threshold).sum()))
        reached.append(threshold)  # of uniform scores it is the specificity itself
        inside.append(low <= threshold <= high)
    assert 0.66 < np.mean(reached) < 0.74
    assert 0.90 < np.mean(inside) <= 1


def test_where_healthy_films_score_highest_a_specificity_is_kept_all_the_same():
    scores, positive = np.array([0.1, 0.5, 0.8, 0.9]), np.array([False, True, True, False])
    threshold = fit_threshold(positive, scores, local_aim(None, 0.95))
    assert 0.9 < threshold < 1


@given(st.integers(20, 200), st.floats(0.05, 0.95))
def test_healthy_films_are_below_it_as_often_as_asked_for(count, specificity):
    scores = np.random.default_rng(count).random(count)
    threshold = fit_threshold(np.zeros(count, bool), scores, local_aim(None, specificity))
    assert (scores < threshold).mean() >= min(specificity, 1 - 1 / count) - 1e-9


def test_slope_and_intercept_are_found_again_and_moved_to_a_prevalence():
    films = draw(np.random.default_rng(2), 20_000, slope=0.5, intercept=-1.0)
    found = fit_calibration(films)
    assert (found.slope, found.intercepts[1]) == (pytest.approx(0.5, abs=0.03), pytest.approx(-1.0, abs=0.1))
    rare = fit_calibration(films, prevalence=0.02)
    assert rare.slope == pytest.approx(found.slope)
    assert rare.intercepts[1] - found.intercepts[1] == pytest.approx(logit(0.02), abs=1e-6)
    assert move_prevalence(found.scores(films)[:, 1], 0.5, 0.02) == pytest.approx(rare.scores(films)[:, 1])


def test_a_changed_threshold_decides_the_same():
    change = Change(0.5, np.array([0.0, -2.0]), 0.4)
    films = draw(np.random.default_rng(2), 50)
    assert ((change.scores(films)[:, 1] >= change.changed(0.3)) == (scores_of(films) >= 0.3)).all()


def shifted(rng, count, features=50, labels=3):
    """Films of a hospital where the model's scores say little and the first features much; the last label is absent."""
    truth = np.arange(count) % (labels - 1)
    logits = to_logits(rng.dirichlet([1.0] * (labels - 1) + [0.05], count))
    values = rng.normal(size=(count, features)) * np.linspace(1, 9, features)
    values[:, : labels - 1] += 6 * np.eye(labels - 1)[truth] * np.linspace(1, 9, features)[: labels - 1]
    return Films(logits, truth, np.arange(count).astype(str), values.astype(np.float32))


def test_of_three_labels_the_mixture_is_learned_and_an_absent_label_keeps_its_place():
    rng = np.random.default_rng(7)
    films = shifted(rng, 400)
    change = fit_calibration(films)
    expected = change.scores(films).sum(axis=0)
    assert expected[0] / expected[1] == pytest.approx(1, rel=0.02)
    assert change.intercepts[2] == pytest.approx(change.intercepts[:2].mean())
    assert change.threshold is None


def test_a_last_layer_learns_what_features_say_and_is_one_linear_layer():
    rng = np.random.default_rng(8)
    films, others = shifted(rng, 60), shifted(rng, 1000)
    change, before = fit_head(films), as_it_is(labels=3)
    right = [(each.decide(each.scores(others)) == others.truth).mean() for each in (before, change)]
    assert right[0] < 0.6
    assert right[1] > 0.85
    logits = change.slope * others.logits + change.intercepts + others.features @ change.head.T
    assert np.allclose(softmax(logits, axis=1), change.scores(others))
    few = fit_head(films.take(np.arange(6)))  # few films change it little
    assert np.abs(few.head).mean() < np.abs(change.head).mean()


def test_a_last_layer_is_chosen_where_features_tell_more_and_not_where_they_tell_nothing():
    rng, aim = np.random.default_rng(9), local_aim(0.9, None)
    films, known = shifted(rng, 60), as_it_is(labels=3)
    tests = {name: out_of_fold(films, name, aim, known) for name in methods(3)}
    assert list(tests) == ["none", "calibration", "head"]
    assert choose(films, aim, tests)[0] == "head"
    names = ("Covid", "Normal", "Pneumonia")
    after, rise = metrics(films, tests["head"], names), gains(films, tests["none"], tests["head"], names)
    assert after["balanced_accuracy"]["low"] > 0.5
    assert set(after["per_class"]) == set(rise) == {"Covid", "Normal"}
    assert rise["Covid"]["low"] > 0
    chosen = []
    for _ in range(2):
        films = draw(rng, 40)
        tests = {name: out_of_fold(films, name, aim, as_it_is()) for name in methods(2)}
        chosen.append(choose(films, aim, tests)[0])
    assert chosen.count("head") <= 1


def test_twice_as_many_films_do_about_what_was_forecast():
    rng = np.random.default_rng(11)
    films, more, others = shifted(rng, 60), shifted(rng, 120), shifted(rng, 3000)
    curve = forecast(films)
    assert (curve["films"], curve["twice"]["films"]) == ([10, 20, 40], 120)
    assert curve["auroc"] == sorted(curve["auroc"])
    scores = fit_head(more).scores(others)
    real = np.mean([auroc(others, index, scores)(np.ones((1, 3000)))[0] for index in (0, 1)])
    assert curve["twice"]["auroc"] == pytest.approx(real, abs=0.04)
    assert curve["auroc"][0] < curve["twice"]["auroc"] <= 1
    assert forecast(films.take(np.arange(12))) is None
    assert forecast(replace(films, groups=(films.truth == 1).astype(str))) is None  # nobody is left to test it


def test_rates_in_parts_of_the_films():
    films = draw(np.random.default_rng(10), 200)
    wrong = scores_of(films) >= 0.5
    before = out_of_fold(films, "none", local_aim(0.9, None), as_it_is())
    column = pd.DataFrame({"right": np.where(wrong == films.positive, "yes", "no")})
    rows = subgroups(films, before, before, column)["columns"]["right"]
    assert [row["metrics"]["sensitivity"]["value"] for row in rows] == [0, 1]
    assert rows[1]["metrics"]["before"] == {name: rows[1]["metrics"][name] for name in ("specificity", "sensitivity")}
    assert rows[0]["differences"]["sensitivity"]["p"] < 0.001


@pytest.mark.parametrize(
    ("threshold", "slope", "intercept", "method"),
    [(0.5, 1.0, 0.0, "none"), (0.999, 1.0, 0.0, "threshold"), (0.5, 0.3, -3.0, "calibration")],
)
def test_the_simplest_change_that_is_not_clearly_worse_is_chosen(threshold, slope, intercept, method):
    films = draw(np.random.default_rng(3), 150, apart=3.0, slope=slope, intercept=intercept)
    aim = local_aim(0.9, None)
    tests = {name: out_of_fold(films, name, aim, as_it_is(threshold)) for name in ("none", "threshold", "calibration")}
    assert choose(films, aim, tests)[0] == method


@pytest.mark.parametrize(("found", "method"), [(11, "threshold"), (15, "none")])
def test_a_threshold_that_misses_its_aim_by_more_than_one_standard_error_is_changed(found, method):
    """Of 16 diseased films so many lie above it, and the others just below, among few healthy ones."""
    positive = np.arange(40) < 16
    margins = np.where(positive, np.where(np.arange(40) < found, 2.0, -0.5), -3.0) + np.linspace(0, 0.4, 40)
    films, aim, known = two(margins, positive, np.random.default_rng(0)), local_aim(0.9, None), as_it_is()
    tests = {name: out_of_fold(films, name, aim, known) for name in ("none", "threshold")}
    chosen, reason = choose(films, aim, tests)
    assert (chosen, "one standard error" in reason) == (method, True)


def test_no_film_of_a_group_is_in_what_tests_it(monkeypatch):
    groups = np.repeat(np.arange(20), 5)
    positive = (np.arange(20) < 10)[groups]
    rng = np.random.default_rng(4)
    films = replace(two(rng.normal(size=100), positive, rng), groups=groups.astype(str))
    learned = []
    known = selection.fit
    monkeypatch.setattr(selection, "fit", lambda part, *words: learned.append(part.groups) or known(part, *words))
    out_of_fold(films, "threshold", local_aim(0.9, None), as_it_is())
    assert len(learned) == selection.FOLDS * selection.REPEATS
    for part in learned:
        assert set(np.unique(part, return_counts=True)[1]) == {5}
        assert len(part) < 100


def test_intervals_out_of_fold_hold_what_films_to_come_have():
    rng, inside, aim = np.random.default_rng(5), [], local_aim(0.9, None)
    for seed in range(25):
        films, others = draw(rng, 60), draw(rng, 4000)
        test = out_of_fold(films, "threshold", aim, as_it_is(), seed)
        threshold = fit_threshold(films.positive, scores_of(films), aim)
        real = (scores_of(others)[~others.positive] < threshold).mean()
        found = recall(films, test, 0)
        inside.append(found["low"] <= real <= found["high"])
    assert np.mean(inside) >= 0.88


def test_a_population_adds_up():
    films = draw(np.random.default_rng(6), 100)
    rates = {"threshold": 0.5, "sensitivity": 0.8, "specificity": 0.6}
    rows = population(films.positive, scores_of(films), rates, 0.02)
    (chosen,) = (row for row in rows if row["chosen"])
    assert (chosen["found"], chosen["false_alarms"]) == (pytest.approx(16), pytest.approx(980 * 0.4))
    assert all(row["found"] + row["missed"] == pytest.approx(20) for row in rows)
    assert rows[-1]["sensitivity"] == 1
    assert films_needed(0.9, 0.5) == {"0.05": 277, "0.10": 70}
    area = metrics(films, out_of_fold(films, "none", local_aim(0.9, None), as_it_is()), TWO)["auroc"]
    assert area["low"] < area["value"] < area["high"]
