"""The command line: speed of the light commands, exit codes, messages that name the cure."""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
from PIL import Image

import trainer
from tests.conftest import QUICK
from trainer import evaluate, load_run, predict
from trainer.cli import build_parser, main
from trainer.cxr_model import CxrImageProcessor
from trainer.data.labelled import load_for_training
from trainer.data.manifest import read_columns, read_manifest
from trainer.data.phantom import write_phantoms
from trainer.errors import UsageError
from trainer.tasks import TASKS


def training(data: Path, output: Path, *more: str) -> list[str]:
    return ["train", "tb-finetuned", "--data", str(data), "--output", str(output), *QUICK, *more]


def test_the_light_commands_import_nothing_heavy():
    heavy = "[name for name in ('torch', 'transformers', 'numpy', 'pandas') if name in sys.modules]"
    code = f"import sys; from trainer.cli import main; main(['recipes']); print({heavy})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


def _commands(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[str, ...]]:
    """Every command of a parser and of the commands below it, as the words one types."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield (*words, name)
                yield from _commands(below, *words, name)


COMMANDS = list(_commands(build_parser()))


def test_the_commands_are_found():
    assert {("train",), ("push-space",), ("data",), ("data", "split")} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_names_every_command_and_each_has_its_own(words, capsys):
    for asked in (words[:-1], words):
        with pytest.raises(SystemExit) as stop:
            main([*asked, "--help"])
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert "not a medical device" in shown
        if asked != words:  # a line of its own that says what it is for
            assert re.search(rf"^ +{words[-1]}\s+\w", shown, re.MULTILINE)
    assert shown.startswith(f"usage: cxr {' '.join(words)} ")


def test_recipes_as_json(capsys):
    assert main(["recipes", "--json"]) == 0
    recipes = {recipe["name"]: recipe for recipe in json.loads(capsys.readouterr().out)}
    assert recipes["tb"]["backbone"] == "google/mobilenet_v2_1.0_224"
    assert (recipes["tb"]["unfreeze"], recipes["tb-finetuned"]["unfreeze"]) == ("none", "all")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "nope", "--data", "x", "--output", "y"], "no recipe 'nope'"),
        (["train", "tb-finetuned", "--data", "nowhere", "--output", "y", "--no-pretrained"], "nowhere"),
        (["train", "tb-finetuned", "--data", "x", "--output", "y", "--set", "epochs=many"], "epochs=many"),
        (["train", "tb-finetuned", "--data", "x", "--output", "y", "--set", "pooling=sum"], "avg, max"),
        (["train", "tb-finetuned", "--data", "x", "--output", "y", "--set", "nothing=1"], "key one of"),
        (["train", "tb-finetuned", "--data", "x", "--output", "y", "--set", "dropout=1.5"], "between 0 and 1"),
        (["data", "phantom", "--output", "z", "--count", "1"], "at least 2"),
        (["predict", "no/such", "film.png"], "no such folder"),
        (["predict", ".", "film.png"], "no model can be loaded"),
    ],
)
def test_wrong_use_is_exit_2_and_says_why(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_backbone_stops_with_the_cure(phantoms, tmp_path, capsys):
    assert main(["train", "tb-finetuned", "--data", str(phantoms), "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "google/mobilenet_v2_1.0_224" in said
    assert "--backbone" in said
    assert "--no-pretrained" in said
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_written_over(run, phantoms, tmp_path, capsys):
    assert main(training(phantoms, run)) == 2
    assert "finished run" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main(training(phantoms, tmp_path / "mine")) == 2
    assert "not a run" in capsys.readouterr().err


def test_a_finished_run_resumes_to_nothing(run, phantoms, capsys):
    before = (run / "metrics.json").read_bytes()
    assert main(training(phantoms, run, "--resume")) == 0
    assert "finished already" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == before


def test_a_kill_between_the_figures_and_the_card_loses_nothing(run, phantoms, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    card = (copy / "README.md").read_text()
    (copy / "README.md").unlink()
    assert main(training(phantoms, copy, "--resume")) == 0
    assert (copy / "README.md").read_text() == card


@pytest.fixture(params=["finished", "stopped"])
def begun(request, run, tmp_path) -> Path:
    """A run to go on with."""
    copy = tmp_path / "begun"
    shutil.copytree(run, copy)
    if request.param == "stopped":
        (copy / "metrics.json").unlink()
    return copy


@pytest.mark.parametrize("changed", [["--set", "epochs=5"], ["--set", "learning_rate=0.01"], ["--set", "seed=3"]])
def test_resume_with_another_recipe_is_refused(changed, begun, phantoms, capsys):
    assert main(training(phantoms, begun, "--resume", *changed)) == 2
    assert f"{changed[1].partition('=')[0]} differ" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["files", "labels", "splits"])
def test_resume_with_other_data_is_refused(changed, begun, phantoms, tmp_path, capsys):
    rows = read_manifest(phantoms).rows
    rows["split"] = rows["sha256"].map(pd.read_csv(begun / "manifest.csv").set_index("sha256")["split"])
    before = (begun / "manifest.csv").read_bytes()
    row = rows.index[rows["split"] == "train"][0]
    if changed == "files":
        rows = rows.drop(index=row)
    elif changed == "labels":
        rows.loc[row, "label"] = "Normal" if rows["label"][row] == "Tuberculosis" else "Tuberculosis"
    else:
        rows.loc[row, "split"] = "validation"
    rows.to_csv(tmp_path / "data.csv", index=False)
    assert main(training(tmp_path / "data.csv", begun, "--resume")) == 2
    said = capsys.readouterr().err
    assert "the data is not that" in said
    assert f"({changed} differ)" in said
    assert (begun / "manifest.csv").read_bytes() == before


def test_predict_goes_on_past_a_bad_file(run, film, tmp_path, capsys):
    bad = tmp_path / "cut.png"
    bad.write_bytes(film.read_bytes()[:3000])
    assert main(["predict", str(run), str(bad), str(film), "--json"]) == 1
    shown = capsys.readouterr()
    first, second = (json.loads(line) for line in shown.out.splitlines())
    assert set(first) == {"file", "error"}
    assert str(bad) in first["error"]
    assert set(second) == {"file", "label", "scores", "decision", "familiarity", "warnings"}
    assert set(second["scores"]) == {"Normal", "Tuberculosis"}
    assert sum(second["scores"].values()) == pytest.approx(1)
    assert set(second["decision"]) == {"name", "label", "threshold", "positive"}
    assert "not a medical device" in shown.err
    assert main(["predict", str(run), str(film)]) == 0
    assert "Tuberculosis" in capsys.readouterr().out


def test_predict_answers_every_image_below_a_folder(run, film, tmp_path, capsys):
    (tmp_path / "films/deep").mkdir(parents=True)
    shutil.copyfile(film, tmp_path / "films/a.png")
    shutil.copyfile(film, tmp_path / "films/deep/b.png")
    (tmp_path / "films/notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(run), str(tmp_path / "films"), str(tmp_path / "empty"), "--json"]) == 1
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert [first["file"], second["file"]] == [str(tmp_path / "films/a.png"), str(tmp_path / "films/deep/b.png")]
    assert "empty: no image in this folder" in third["error"]


def test_a_result_takes_the_place_of_no_table_and_of_no_folder(run, tmp_path, capsys):
    table = tmp_path / "films.csv"
    table.write_text("file,label\n")
    for output in (table, tmp_path):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(run), "--data", str(table), "--output", str(output)])
        assert ended.value.code == 2
    assert table.read_text() == "file,label\n"
    assert "is no .json file" in capsys.readouterr().err


def test_a_look_at_films_without_labels_takes_no_aim(run, phantoms, capsys):
    words = ["adapt", str(run), "--data", str(phantoms), "--report-only", "--sensitivity", ".9", "--by", "sex"]
    assert main(words) == 2
    assert "it takes no --by, --sensitivity" in capsys.readouterr().err


def test_python_takes_paths_and_one_file(run, film):
    (one,) = predict(load_run(Path(run)), str(film))
    (other,) = predict(load_run(str(run)), [Path(film)])
    assert one == other
    assert one["file"] == str(film)
    with pytest.raises(UsageError, match="split 'tset': expected one of"):
        evaluate(load_run(run), str(film.parents[1]), split="tset")


def test_names_that_are_no_utf_8_are_printed_and_a_run_has_none(run, film, tmp_path, capsys, monkeypatch):
    name = os.fsdecode(b"film-\xe9.png")
    shutil.copyfile(film, tmp_path / name)
    for errors, encoding in (("strict", "utf-8"), ("strict", "ascii")):
        terminal = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding, errors))
        assert main(["predict", str(run), str(tmp_path / name)]) == 0
        sys.stdout.flush()
        assert rb"film-\udce9.png: " in terminal.getvalue()
    monkeypatch.undo()
    output = str(tmp_path / os.fsdecode(b"run-\xe9"))
    assert main(["train", "tb-finetuned", "--data", "nowhere", "--output", output]) == 2
    assert r"run-\xe9': the name is not UTF-8; rename it" in capsys.readouterr().err


def test_evaluate_other_data_leaves_the_run_alone(run, phantoms, tmp_path, capsys):
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    target = tmp_path / "figures.json"
    assert (
        main(["evaluate", str(run), "--data", str(phantoms), "--split", "external", "--output", str(target), "--json"])
        == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads(target.read_text())
    assert shown["splits"]["external"]["n"] + shown["left_out"] == 48
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}


def file_sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def learned(run, phantoms):
    """The files of the phantoms by the side on which the run had them."""
    sides = pd.read_csv(run / "manifest.csv").set_index("sha256")["split"]
    found = {}
    for file in sorted(phantoms.rglob("*.png")):
        found.setdefault(sides[file_sha256(file)], []).append(file)
    return found


def evaluated(capsys, *words):
    code = main(["evaluate", *map(str, words), "--json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if code == 0 else None, shown.err


def test_films_that_a_model_learned_from_are_left_out_of_its_evaluation(run, phantoms, learned, capsys):
    known = len(learned["train"]) + len(learned["validation"])
    code, report, said = evaluated(capsys, run, "--data", phantoms, "--split", "external")
    assert (code, report["left_out"], report["splits"]["external"]["n"]) == (0, known, 48 - known)
    first = min(learned["train"] + learned["validation"], key=file_sha256)  # rows are read in this order
    assert f"{known} of 48 films trained or tuned this model (first: {first}) and are left out" in said


def test_a_split_that_is_asked_for_by_name_is_kept(run, phantoms, learned, capsys):
    for split, other, said in (("train", "validation", "learned from"), ("validation", "train", "was tuned on")):
        code, report, err = evaluated(capsys, run, "--data", phantoms, "--split", split)
        assert (code, report["left_out"], report["splits"][split]["n"]) == (
            0,
            len(learned[other]),
            48 - len(learned[other]),
        )
        assert f"the model {said} {len(learned[split])} of these films" in err


def test_metrics_by_columns_of_the_csv(run, phantoms, tmp_path, capsys):
    files = sorted(phantoms.rglob("*.png"))
    table = pd.DataFrame({"file": files, "label": [file.parent.name for file in files], "index": range(len(files))})
    table["sex"] = ["F" if index % 2 else "M" for index in range(len(files))]
    data = tmp_path / "films.csv"
    table.to_csv(data, index=False)
    code, report, _ = evaluated(capsys, run, "--data", data, "--split", "external", "--by", "sex, label")
    subgroups = report["subgroups"]["columns"]
    assert (code, list(subgroups)) == (0, ["sex", "label"])
    assert sum(row["n"] for row in subgroups["sex"]) == report["splits"]["external"]["n"]
    assert main(["evaluate", str(run), "--data", str(data), "--split", "external", "--by", "sex"]) == 0
    assert re.search(r"by sex:\n  F \(n = \d+\): (.+\n)+  M \(n = \d+\): ", capsys.readouterr().out)
    for words, said in (
        ([data, "--by", "age"], "no column age; it has file, label, index, sex"),
        ([phantoms, "--by", "sex"], "no table, so it has no column sex"),
    ):
        code, _, err = evaluated(capsys, run, "--split", "external", "--data", *words)
        assert code == 2
        assert said in err
    with pytest.raises(UsageError, match="index has 48 values here, 20 are the most: group them"):
        read_columns(str(data), read_manifest(data).rows["file"], ["index"])


def test_where_nothing_is_new_nothing_is_evaluated_and_without_a_manifest_it_is_said(run, learned, tmp_path, capsys):
    table = tmp_path / "seen.csv"
    table.write_text("file,label\n" + "".join(f"{file},{file.parent.name}\n" for file in learned["train"]))
    assert main(["evaluate", str(run), "--data", str(table)]) == 2
    assert "none is left to test it on" in capsys.readouterr().err
    assert main(["audit", str(run), "--data", str(table), "--output", str(tmp_path / "a.json")]) == 2
    assert "none is left to test it on" in capsys.readouterr().err
    old = tmp_path / "old"
    shutil.copytree(run, old, ignore=shutil.ignore_patterns("checkpoints", "manifest.csv"))
    code, report, said = evaluated(capsys, old, "--data", table)
    assert (code, report["left_out"], report["splits"]["test"]["n"]) == (0, None, len(learned["train"]))
    assert "cannot be told" in said


def test_films_of_other_diseases_are_told_by_disease_and_collection(run, phantoms, tmp_path, capsys):
    others = tmp_path / "others"
    write_phantoms(others, "covid", 24, 5)
    words = [str(run), "--data", str(phantoms), "--other-diseases", str(others)]
    assert main(["evaluate", *words, "--split", "external", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["other_diseases"]
    assert [row["label"] for row in told] == ["COVID", "Lung_Opacity", "Viral Pneumonia"]  # Normal is no other disease
    assert all(row["n"] > 0 for row in told)
    assert all(sum(part["value"] for part in row["called"].values()) == pytest.approx(1) for row in told)
    own = tmp_path / "run"
    shutil.copytree(run, own)
    assert main(["audit", str(own), *words[1:], "--split", "external"]) == 0
    assert "other diseases, and what they are called:\n  COVID (n = " in capsys.readouterr().out
    metrics = json.loads((own / "metrics.json").read_text())
    schema = json.loads((Path(__file__).parents[1] / "trainer" / "evaluation/metrics.schema.json").read_text())
    jsonschema.validate(metrics, schema)
    assert metrics["audit"]["other_diseases"] == told
    assert f"| COVID | {told[0]['n']} |" in (own / "README.md").read_text()
    assert main(["evaluate", *words[:3], "--split", "external", "--other-diseases", str(phantoms)]) == 2
    assert "no film of another disease" in capsys.readouterr().err


def test_evaluate_refuses_classes_the_model_does_not_know(run, phantoms, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(phantoms / "Normal", other / "Fracture")
    assert main(["evaluate", str(run), "--data", str(other)]) == 2
    assert "Fracture" in capsys.readouterr().err


def test_a_folder_of_five_classes_of_ones_own_trains(phantoms, tmp_path, capsys):
    films = sorted(phantoms.rglob("*.png"))
    for index, film in enumerate(films):
        folder = tmp_path / "own" / ["Edema", "Effusion", "Mass", "No finding", "Nodule"][index % 5]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(film, folder / f"{film.parent.name}-{film.name}")
    assert main(training(tmp_path / "own", tmp_path / "run", "--set", "epochs=1")) == 0
    shown = capsys.readouterr().out
    assert "the recipe trains a classifier of your classes" in shown
    assert main(["predict", str(tmp_path / "run"), str(films[0]), "--json"]) == 0
    (answer,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert list(answer["scores"]) == ["Edema", "Effusion", "Mass", "No finding", "Nodule"]
    assert answer["decision"]["name"] == "argmax"
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Edema, Effusion, Mass, No finding, Nodule" in card


def test_a_positive_class_that_is_none_is_refused(phantoms, tmp_path, capsys):
    shutil.copytree(phantoms / "Tuberculosis", tmp_path / "own" / "ill")
    shutil.copytree(phantoms / "Normal", tmp_path / "own" / "well")
    assert main(training(tmp_path / "own", tmp_path / "run", "--positive", "healthy")) == 2
    assert "one of them this" in capsys.readouterr().err


def test_what_is_looked_for_among_two_of_ones_own_is_told_and_written_on_the_card(phantoms, tmp_path, capsys):
    shutil.copytree(phantoms / "Tuberculosis", tmp_path / "own" / "COVID")
    shutil.copytree(phantoms / "Normal", tmp_path / "own" / "Normal")
    assert main(training(tmp_path / "own", tmp_path / "run", "--set", "epochs=1")) == 0
    assert "COVID is the positive class, Normal the negative one" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["id2label"] == {"0": "Normal", "1": "COVID"}
    points = json.loads((tmp_path / "run" / "metrics.json").read_text())["operating_points"]
    assert {point["label"] for point in points} == {"COVID"}
    assert (
        "| positive | COVID: what is looked for; Normal is negative |" in (tmp_path / "run" / "README.md").read_text()
    )
    (tmp_path / "own" / "Normal").rename(tmp_path / "own" / "Effusion")
    assert main(training(tmp_path / "own", tmp_path / "other")) == 2
    assert "--positive: say which of the two classes is looked for, COVID or Effusion" in capsys.readouterr().err
    (tmp_path / "own" / "Effusion").rename(tmp_path / "own" / "clear")
    data, task, processor = str(tmp_path / "own"), TASKS["tb"], CxrImageProcessor(size={"height": 64, "width": 64})
    labelled, _ = load_for_training(data, task, processor, "clear", False, print)
    assert labelled.task.labels == ("COVID", "clear")
    assert "clear is the positive class, COVID the negative one, though by its name" in capsys.readouterr().out


def test_near_copies_across_a_given_split_are_counted_on_the_card_and_strict_stops_there(phantoms, tmp_path, capsys):
    """Every film that tests trains also, as a JPEG."""
    files = sorted(phantoms.rglob("*.png"))
    rows = [
        (str(file), file.parent.name, ("train", "train", "validation", "test")[index % 4])
        for index, file in enumerate(files)
    ]
    for number, (file, label, _) in enumerate([row for row in rows if row[2] == "test"]):
        Image.open(file).save(tmp_path / f"{number}.jpg", quality=80)
        rows.append((str(tmp_path / f"{number}.jpg"), label, "train"))
    table = tmp_path / "films.csv"
    table.write_text("file,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
    words = training(table, tmp_path / "run", "--set", "epochs=1")
    assert main([*words, "--strict"]) == 1
    said = capsys.readouterr().err
    assert "12 pairs of near copies and 12 groups stand on two sides of the split" in said
    assert "cxr data split" in said
    assert ".jpg (train)" in said
    assert ".png (test)" in said
    assert not (tmp_path / "run").exists()
    assert main(words) == 0
    assert "12 pairs of near copies" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["split"]["near_copies_across_splits"], metrics["split"]["groups_across_splits"]) == (12, 12)
    jsonschema.validate(
        metrics, json.loads((Path(trainer.__file__).parent / "evaluation/metrics.schema.json").read_text())
    )
    card = (tmp_path / "run" / "README.md").read_text()
    assert "**12 pairs stand on two sides of the split**" in card
    assert "No group stands in more than one split" not in card


def test_a_folder_that_holds_only_test_is_evaluated_and_not_trained_on(run, phantoms, tmp_path, capsys):
    write_phantoms(tmp_path / "drawn", "tb", 8, seed=9)
    shutil.copytree(tmp_path / "drawn", tmp_path / "data" / "test")
    code, report, _ = evaluated(capsys, run, "--data", tmp_path / "data")
    assert (code, report["splits"]["test"]["n"]) == (0, 8)
    assert main(training(tmp_path / "data", tmp_path / "run")) == 2
    assert "has no train split, only test" in capsys.readouterr().err


def test_a_missing_class_is_named(phantoms, tmp_path, capsys):
    shutil.copytree(phantoms / "Normal", tmp_path / "data" / "Normal")
    assert main(training(tmp_path / "data", tmp_path / "run")) == 2
    assert "no image of Tuberculosis" in capsys.readouterr().err


def test_a_tracker_gets_the_curves(marked_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = next(file for file in (marked_run / "checkpoints").rglob("events.out.*") if file.parent.name == "cxr-hub")
    log = EventAccumulator(str(events.parent)).Reload()
    assert {"train_loss", "validation_loss", "validation_accuracy", "lr"} <= set(log.Tags()["scalars"])
    assert [point.step for point in log.Scalars("validation_loss")] == list(range(1, 9))


def test_a_tracker_that_is_not_installed_is_named(phantoms, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainer.training.environment.find_spec", lambda name: None)
    assert main(training(phantoms, tmp_path / "run", "--report-to", "trackio")) == 2
    assert "pip install trackio" in capsys.readouterr().err


def test_compare_puts_runs_beside_their_sources(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("checkpoints"))
    recipe = json.loads((other / "recipe.json").read_text())
    source = {"name": "a paper", "n": 840, "figures": {"accuracy": 0.9952}, "url": None}
    (other / "recipe.json").write_text(json.dumps({**recipe, "source": source}))
    assert main(["compare", str(run), str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    tested = load_run(run).manifest().query("split == 'test'")
    images, groups = len(tested), tested["group"].nunique()
    assert lines[5] == f"run and other on the same {images} test images in {groups} groups:"
    assert all(
        line.endswith("p = 1 (" + method + "): not distinguishable")
        for line, method in zip(lines[6:], ("McNemar, exact", "DeLong, paired"), strict=True)
    )
    assert lines[0].endswith(" | accuracy (argmax) |")
    assert "| screening, Tuberculosis from " in lines[2]
    assert lines[4].startswith("| – its source – | a paper | argmax | 840 |")
    assert lines[4].endswith("| .995 |")
    (other / "metrics.json").unlink()
    assert main(["compare", str(other)]) == 2
    assert "not a finished run" in capsys.readouterr().err
