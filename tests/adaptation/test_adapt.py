"""`cxr adapt`: a complete run comes out, its scores and threshold are those it says, and wrong use is told."""

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit
from transformers import pipeline

from trainer import adapt, load_run, predict
from trainer.adaptation.films import score_films
from trainer.adaptation.first_look import first_look, verdict
from trainer.adaptation.fits import local_aim
from trainer.adaptation.selection import fit
from trainer.cli import main
from trainer.data.phantom import write_phantoms

SCHEMA = Path(__file__).parents[2] / "trainer/evaluation/metrics.schema.json"


@pytest.fixture(scope="module", autouse=True)
def few_repeats():
    """Two partitions into folds, not ten: what is tested here does not depend on how steady the choice is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.adaptation.selection.REPEATS", 2)
        yield


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
        moved = expit(report["slope"] * logit(before["scores"]["Tuberculosis"]) + report["intercepts"]["Tuberculosis"])
        assert after["scores"]["Tuberculosis"] == pytest.approx(moved, abs=1e-4)
        decision = after["decision"]
        assert (decision["name"], decision["threshold"]) == ("local", pytest.approx(report["threshold"]["after"]))
    loaded = pipeline("image-classification", model=str(run.path), trust_remote_code=True)
    answers = {one["label"]: one["score"] for one in loaded(films[0])}
    assert answers["Tuberculosis"] == pytest.approx(new[0]["scores"]["Tuberculosis"], abs=1e-4)


def test_its_metrics_are_computed_anew_and_the_old_ones_kept(adapted, marked_run):
    run, report = adapted
    old, new = (json.loads((path / "metrics.json").read_text()) for path in (marked_run, run.path))
    jsonschema.validate(new, json.loads(SCHEMA.read_text()))
    assert new["before"]["decision"] == old["decision"]
    config = json.loads((run.path / "config.json").read_text())["calibration"]
    changed = report["method"] in ("calibration", "head")
    assert (config["temperature"] == 1) == changed  # the scores before are not those without the old temperature
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
    assert "(figures/local-roc.png)" in card
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
    assert (report["slope"], report["intercepts"]) == (1, {"Normal": 0, "Tuberculosis": 0})
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


def test_films_of_a_label_that_are_all_of_one_patient_are_told(marked_run, hospital, tmp_path, capsys):
    files = [file for label in ("Normal", "Tuberculosis") for file in sorted((hospital / label).glob("*.png"))[:9]]
    rows = pd.DataFrame({"file": map(str, files), "label": [file.parent.name for file in files]})
    rows["patient_id"] = ["somebody" if label == "Normal" else f"p{row}" for row, label in enumerate(rows["label"])]
    rows.to_csv(tmp_path / "films.csv", index=False)
    words = ["adapt", str(marked_run), "--data", str(tmp_path / "films.csv"), "--output", str(tmp_path / "new")]
    assert main(words) == 2
    assert "all films of Normal are of one group (patient)" in capsys.readouterr().err


def test_what_cannot_be_adapted_is_told(covid_run, marked_run, hospital, tmp_path, capsys):
    words = ["adapt", str(covid_run), "--data", str(hospital), "--output", str(tmp_path / "new"), "--sensitivity", ".9"]
    assert main(words) == 2
    assert "models of two labels" in capsys.readouterr().err
    assert main(["adapt", str(marked_run), "--data", str(hospital), "--output", str(tmp_path)]) == 2
    assert "give a new folder" in capsys.readouterr().err


def test_a_threshold_changes_no_score(marked_run, hospital, tmp_path):
    healthy = tmp_path / "films"
    shutil.copytree(hospital / "Normal", healthy / "Normal")
    run, report = adapt(load_run(str(marked_run)), str(healthy), str(tmp_path / "new"), specificity=0.9)
    assert report["method"] == "threshold"
    scores = [load_run(str(path)).predictions()["p:Tuberculosis"].to_numpy() for path in (marked_run, run.path)]
    assert np.allclose(*scores)


def test_an_original_that_is_damaged_is_told(adapted, hospital, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(adapted[0].path, run)
    file = run / "original" / "head.safetensors"
    whole = load_file(file)
    for wrong in (torch.full((1,), float("nan")), torch.zeros(7), None):
        if wrong is None:
            file.write_bytes(file.read_bytes()[:100])
        else:
            save_file({**whole, "classifier.bias": wrong}, file)
        assert main(["adapt", str(run), "--data", str(hospital), "--output", str(tmp_path / "new")]) == 2
        assert "original/head.safetensors" in capsys.readouterr().err


def test_a_threshold_of_other_weights_is_said(adapted, marked_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(adapted[0].path, run)
    words = ["compare", str(run), str(marked_run)]
    assert main(words) == 0
    assert "adapted for other weights" not in capsys.readouterr().err
    shutil.copy(marked_run / "model.safetensors", run)  # a new version of the model
    assert main(words) == 0
    assert "its threshold and scores were adapted for other weights" in capsys.readouterr().err
    assert main(["push", str(run), "--repo-id", "me/model", "--licence", "mit", "--dry-run"]) == 0
    assert "its threshold and scores were adapted for other weights" in capsys.readouterr().err


def test_films_that_chose_a_change_are_no_test_of_it(adapted, hospital, capsys):
    assert main(["evaluate", str(adapted[0].path), "--data", str(hospital), "--split", "external"]) == 2
    assert "48 of 48 films trained or tuned this model" in capsys.readouterr().err


@pytest.fixture(scope="module", params=["tb", "covid"])
def new_head(request, marked_run, covid_run, tmp_path_factory):
    """A run of two labels and one of four with another last layer: the original, the run, its report and the films."""
    original = load_run(str({"tb": marked_run, "covid": covid_run}[request.param]))
    folder = tmp_path_factory.mktemp("head")
    write_phantoms(folder / "films", request.param, 48, seed=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.adaptation.selection.choose", lambda *_: ("head", "a test asks for it"))
        run, report = adapt(original, str(folder / "films"), str(folder / "new"))
        again, second = adapt(run, str(folder / "films"), str(folder / "again"))
    assert report == second
    weights = [load_file(each.path / "model.safetensors") for each in (run, again)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    return original, run, report, folder / "films"


def test_a_new_last_layer_is_the_one_that_was_fitted(new_head):
    original, run, report, films = new_head
    local = score_films(original, str(films), print)
    change = fit(local.films, "head", local_aim(None, None), local.known)
    expected = change.scores(local.films)
    loaded = pipeline("image-classification", model=str(run.path), trust_remote_code=True)
    for file, scores in list(zip(local.rows["file"], expected, strict=True))[:6]:
        answers = {one["label"]: one["score"] for one in loaded(file, top_k=None)}
        assert [answers[label] for label in report["labels"]] == pytest.approx(scores.tolist(), abs=2e-3)


def test_its_metrics_are_of_the_local_films_out_of_fold_and_the_old_ones_are_kept(new_head):
    original, run, report, _ = new_head
    old, new = (each.read_json("metrics.json") for each in (original, run))
    assert run.finished
    assert list(new["splits"]) == ["test"]
    assert new["splits"]["test"]["n"] == report["n"] == 48
    assert "cross-validated" in new["splits"]["test"]["metrics"]["accuracy"]["method"]
    assert new["before"]["splits"]["test"]["n"] == old["splits"]["test"]["n"]
    assert set(report["gain"]) == ({"Tuberculosis"} if len(report["labels"]) == 2 else set(report["labels"]))
    manifest = run.manifest()
    learned = set(manifest["sha256"][manifest["split"] == "train"])
    assert set(run.predictions()["sha256"]) <= learned
    assert not {point["name"] for point in new["operating_points"]} - {"local"}
    card = (run.path / "README.md").read_text()
    assert "Its last layer was changed" in card
    assert "out of fold" in card


def test_a_label_without_films_is_left_as_it_is_and_one_alone_is_told(covid_run, tmp_path, capsys):
    write_phantoms(tmp_path / "films", "covid", 48, seed=300)
    for label in ("COVID", "Lung_Opacity"):
        shutil.rmtree(tmp_path / "films" / label)
    words = ["adapt", str(covid_run), "--data", str(tmp_path / "films"), "--output", str(tmp_path / "new")]
    assert main(words) == 0
    assert "0 COVID, 0 Lung_Opacity" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "films" / "Normal")
    assert main([*words[:-1], str(tmp_path / "other")]) == 2
    assert "films of Viral Pneumonia alone" in capsys.readouterr().err


def test_a_first_look_needs_no_labels_and_changes_nothing(marked_run, hospital, tmp_path, capsys):
    films = tmp_path / "films"
    (films / "deep").mkdir(parents=True)
    for film in sorted(hospital.rglob("*.png"))[:6]:
        shutil.copy(film, films / "deep")
    (films / "broken.png").write_bytes(b"no image")
    words = ["adapt", str(marked_run), "--data", str(films), "--report-only"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n"], len(report["skipped"]), report["learned"]) == (6, 1, 0)
    assert sum(report["decisions"].values()) == 6
    assert set(report["scores"]) == {"Normal", "Tuberculosis"}
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("6 films, 1 files that cannot be read; ")
    assert "score of Tuberculosis: " in said
    (tmp_path / "none").mkdir()
    assert main([*words[:3], str(tmp_path / "none"), "--report-only"]) == 2
    assert "no images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(words[:4])


def test_a_first_look_says_where_films_are_unlike(marked_run, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (300, 300), np.uint8)).save(tmp_path / f"{index}.png")
    report = first_look(load_run(str(marked_run)), [str(file) for file in sorted(tmp_path.glob("*.png"))])
    assert report["unfamiliar"]["value"] == 1
    assert verdict(report).startswith("UNLIKE")
