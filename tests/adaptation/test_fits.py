"""What local films change: thresholds that keep their aim in films to come, calibration that is found again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from trainer.adaptation import selection
from trainer.adaptation.fits import Change, fit_calibration, fit_threshold, local_aim, specificity_to_come, to_margin
from trainer.adaptation.report import auroc, films_needed, population
from trainer.adaptation.selection import SENTENCES, Films, choose, interval, out_of_fold


def draw(rng, count, apart=2.0, slope=1.0, intercept=0.0, share=0.5):
    """Films whose probability of disease is expit(slope x margin + intercept), nearly."""
    positive = np.arange(count) < count * share
    ideal = rng.normal(np.where(positive, apart / 2, -apart / 2), 1) * apart + logit(share)
    return Films((ideal - intercept) / slope, positive, np.arange(count).astype(str))


def test_a_threshold_for_a_sensitivity_keeps_it_in_films_to_come():
    rng, reached = np.random.default_rng(0), []
    for _ in range(200):
        films, others = draw(rng, 40), draw(rng, 2000)
        threshold = fit_threshold(films.positive, expit(films.margins), local_aim(0.9, None))
        reached.append((expit(others.margins[others.positive]) >= threshold).mean())
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
    found = fit_calibration(films.margins, films.positive)
    assert (found.slope, found.intercept) == (pytest.approx(0.5, abs=0.03), pytest.approx(-1.0, abs=0.1))
    rare = fit_calibration(films.margins, films.positive, prevalence=0.02)
    assert rare.slope == pytest.approx(found.slope)
    assert rare.intercept - found.intercept == pytest.approx(logit(0.02), abs=1e-6)


def test_a_changed_threshold_decides_the_same():
    change, scores = Change(0.5, 0.4, -2.0), np.linspace(0.01, 0.99, 50)
    assert ((change.scores(to_margin(scores)) >= change.changed(0.3)) == (scores >= 0.3)).all()


@pytest.mark.parametrize(
    ("threshold", "slope", "intercept", "method"),
    [(0.5, 1.0, 0.0, "none"), (0.999, 1.0, 0.0, "threshold"), (0.5, 0.3, -3.0, "calibration")],
)
def test_the_simplest_change_that_is_not_clearly_worse_is_chosen(threshold, slope, intercept, method):
    films = draw(np.random.default_rng(3), 150, apart=3.0, slope=slope, intercept=intercept)
    aim = local_aim(0.9, None)
    tests = {name: out_of_fold(films, name, aim, Change(threshold)) for name in SENTENCES}
    assert choose(films, aim, tests)[0] == method


def test_no_film_of_a_group_is_in_what_tests_it(monkeypatch):
    groups = np.repeat(np.arange(20), 5)
    positive = (np.arange(20) < 10)[groups]
    films = Films(np.random.default_rng(4).normal(size=100), positive, groups.astype(str))
    learned = []
    known = selection.fit
    monkeypatch.setattr(selection, "fit", lambda part, *words: learned.append(part.groups) or known(part, *words))
    out_of_fold(films, "threshold", local_aim(0.9, None), Change(0.5))
    assert len(learned) == selection.FOLDS * selection.REPEATS
    for part in learned:
        assert set(np.unique(part, return_counts=True)[1]) == {5}
        assert len(part) < 100


def test_intervals_out_of_fold_hold_what_films_to_come_have():
    rng, inside, aim = np.random.default_rng(5), [], local_aim(0.9, None)
    for seed in range(25):
        films, others = draw(rng, 60), draw(rng, 4000)
        test = out_of_fold(films, "threshold", aim, Change(0.5), seed)
        threshold = fit_threshold(films.positive, expit(films.margins), aim)
        real = (expit(others.margins[~others.positive]) < threshold).mean()
        found = interval(1 - test.called[~films.positive], films.groups[~films.positive], test.wider, 1.0)
        inside.append(found["low"] <= real <= found["high"])
    assert np.mean(inside) >= 0.88


def test_a_population_adds_up():
    films = draw(np.random.default_rng(6), 100)
    rows = population(films, Change(0.5), 0.02)
    assert sum(row["chosen"] for row in rows) == 1
    assert all(row["found"] + row["missed"] == pytest.approx(20) for row in rows)
    assert rows[-1]["sensitivity"] == 1
    assert films_needed(0.9, 0.5) == {"0.05": 277, "0.10": 70}
    assert auroc(films)["low"] < auroc(films)["value"] < auroc(films)["high"]
