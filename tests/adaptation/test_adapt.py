"""`cxr adapt`: a complete run comes out, its scores and threshold are those it says, and wrong use is told."""

import json
import shutil

import numpy as np
import pytest
from scipy.special import expit, logit
from transformers import pipeline

from trainer import adapt, load_run, predict
from trainer.cli import main
from trainer.data.phantom import write_phantoms


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Films of another hospital: phantoms of other seeds."""
    folder = tmp_path_factory.mktemp("hospital") / "films"
    write_phantoms(folder, "tb", 48, seed=300)
    return folder


@pytest.fixture(scope="module")
def adapted(marked_run, hospital, tmp_path_factory):
    """A run that is adapted for a prevalence, and its report."""
    output = tmp_path_factory.mktemp("adapted") / "new"
    return adapt(load_run(str(marked_run)), str(hospital), str(output), sensitivity=0.8, prevalence=0.05)


def test_it_is_a_complete_run_whose_scores_and_decision_are_the_reported_ones(adapted, marked_run, hospital):
    run, report = adapted
    assert run.finished
    films = sorted(map(str, (hospital / "Tuberculosis").glob("*.png")))[:4]
    old, new = (list(predict(which, films)) for which in (load_run(str(marked_run)), run))
    for before, after in zip(old, new, strict=True):
        moved = expit(report["slope"] * logit(before["scores"]["Tuberculosis"]) + report["intercept"])
        assert after["scores"]["Tuberculosis"] == pytest.approx(moved, abs=1e-4)
        decision = after["decision"]
        assert (decision["name"], decision["threshold"]) == ("local", pytest.approx(report["threshold"]["after"]))
    loaded = pipeline("image-classification", model=str(run.path), trust_remote_code=True)
    answers = {one["label"]: one["score"] for one in loaded(films[0])}
    assert answers["Tuberculosis"] == pytest.approx(new[0]["scores"]["Tuberculosis"], abs=1e-4)


def test_its_metrics_are_computed_anew_and_the_old_ones_kept(adapted, marked_run):
    run, report = adapted
    old, new = (json.loads((path / "metrics.json").read_text()) for path in (marked_run, run.path))
    assert new["before"]["decision"] == old["decision"]
    aurocs = [metrics["splits"]["test"]["metrics"]["auroc"]["value"] for metrics in (old, new)]
    assert aurocs[0] == pytest.approx(aurocs[1])
    table = run.predictions()
    test = table[table["split"] == "test"]
    positive = test["p:Tuberculosis"] >= report["threshold"]["after"]
    assert (positive == (test["decision"] == "Tuberculosis")).all()
    sensitivity = positive[test["label"] == "Tuberculosis"].mean()
    assert new["splits"]["test"]["metrics"]["sensitivity"]["value"] == pytest.approx(sensitivity)
    card = (run.path / "README.md").read_text()
    assert "### Adapted to a hospital" in card
    assert report["from"]["weights"] in card


def test_an_adapted_run_is_adapted_from_its_original_again(adapted, hospital, marked_run, tmp_path):
    run, _ = adapted
    once, first = adapt(load_run(str(marked_run)), str(hospital), str(tmp_path / "once"), prevalence=0.3)
    twice, second = adapt(run, str(hospital), str(tmp_path / "twice"), prevalence=0.3)
    assert second["from"] == first["from"]
    assert (second["slope"], second["threshold"]["before"]) == (
        pytest.approx(first["slope"], rel=1e-3),
        pytest.approx(first["threshold"]["before"]),
    )
    scores = [each.predictions()["p:Tuberculosis"].to_numpy() for each in (once, twice)]
    assert np.allclose(*scores, atol=1e-4)


def test_healthy_films_alone_set_a_threshold(marked_run, hospital, tmp_path, capsys):
    healthy = tmp_path / "films"
    shutil.copytree(hospital / "Normal", healthy / "Normal")
    words = ["adapt", str(marked_run), "--data", str(healthy), "--output", str(tmp_path / "new")]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["aim"].endswith("specificity >= 0.7")
    assert (report["slope"], report["intercept"]) == (1, 0)
    assert report["after"]["specificity"]["low"] < 0.7 < report["after"]["specificity"]["high"]
    assert main([*words[:-1], str(tmp_path / "other"), "--prevalence", ".1"]) == 2
    assert "healthy films alone" in capsys.readouterr().err


def few(hospital, folder, normal, ill):
    for label, count in (("Normal", normal), ("Tuberculosis", ill)):
        (folder / label).mkdir(parents=True)
        for film in sorted((hospital / label).glob("*.png"))[:count]:
            shutil.copy(film, folder / label)
    return folder


@pytest.mark.parametrize(
    ("normal", "ill", "more", "said"),
    [
        (9, 3, [], "3 of Tuberculosis; at least 5"),
        (9, 0, [], "9 healthy films and no others: 20 are needed"),
        (0, 9, [], "0 of Normal; at least 5"),
        (9, 9, ["--sensitivity", "1.5"], "proportions between 0 and 1"),
    ],
)
def test_too_few_films_and_wrong_words_are_told(normal, ill, more, said, marked_run, hospital, tmp_path, capsys):
    data = few(hospital, tmp_path / "films", normal, ill)
    words = ["adapt", str(marked_run), "--data", str(data), "--output", str(tmp_path / "new"), *more]
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*new*"))


def test_what_cannot_be_adapted_is_told(covid_run, marked_run, hospital, tmp_path, capsys):
    assert main(["adapt", str(covid_run), "--data", str(hospital), "--output", str(tmp_path / "new")]) == 2
    assert "models of two labels" in capsys.readouterr().err
    assert main(["adapt", str(marked_run), "--data", str(hospital), "--output", str(tmp_path)]) == 2
    assert "give a new folder" in capsys.readouterr().err


def test_a_threshold_changes_no_score(marked_run, hospital, tmp_path):
    run, report = adapt(load_run(str(marked_run)), str(hospital), str(tmp_path / "new"), specificity=0.99)
    assert report["method"] == "threshold"
    assert report["after"]["brier"] == report["before"]["brier"]
    scores = [load_run(str(path)).predictions()["p:Tuberculosis"].to_numpy() for path in (marked_run, run.path)]
    assert np.allclose(*scores)
