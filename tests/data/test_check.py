"""`cxr data check` and `cxr data split` on planted faults, through the command line."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trainer.cli import main
from trainer.data.phantom import write_phantoms


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "clean"
    write_phantoms(folder, "tb", 80, seed=11)
    return folder


def manifest(folder, target, **columns):
    files = sorted(folder.rglob("*.png"))
    rows = pd.DataFrame({"file": map(str, files), "label": [file.parent.name for file in files]})
    rows["split"] = ["train" if index % 4 else "test" for index in range(len(rows))]
    rows["group"] = [f"patient-{index}" for index in range(len(rows))]
    rows["collection"] = "drawn"
    for name, change in columns.items():
        change(rows, name)
    rows.to_csv(target, index=False)
    return target


def report(capsys, *words):
    code = main(["data", "check", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_clean_set_is_called_clean(clean, tmp_path, capsys):
    code, found = report(capsys, manifest(clean, tmp_path / "m.csv"), "--strict")
    assert code == 0
    assert found["images"] == 80
    for fault in (
        "unreadable",
        "exact_copies",
        "near_copies",
        "label_conflicts",
        "copies_across_splits",
        "patients_across_splits",
    ):
        assert found[fault] == [], fault
    assert not any(row["shortcut"] for parts in found["shortcuts"].values() for rows in parts.values() for row in rows)
    assert found["collections"] == {"drawn": {"Normal": 40, "Tuberculosis": 40}}


def test_planted_faults_are_each_reported(clean, tmp_path, capsys):
    folder = tmp_path / "faulty"
    for file in sorted(clean.rglob("*.png")):
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / file.parent.name / file.name).write_bytes(file.read_bytes())
    normal, ill = sorted((folder / "Normal").iterdir()), sorted((folder / "Tuberculosis").iterdir())
    (folder / "Tuberculosis" / "z-conflict.png").write_bytes(normal[0].read_bytes())
    Image.open(ill[0]).crop((6, 5, 312, 310)).save(folder / "Tuberculosis" / "z-near.png")
    (folder / "Normal" / "z-cut.png").write_bytes(normal[3].read_bytes()[:900])
    (folder / "Normal" / "z-empty.png").touch()
    (folder / "Normal" / "notes.txt").write_text("no image")
    Image.new("L", (400, 20), 90).save(folder / "Normal" / "z-strip.png")
    code, found = report(capsys, folder, "--output", tmp_path / "report")
    assert code == 0
    assert [sorted(pair["labels"]) for pair in found["label_conflicts"]] == [["Normal", "Tuberculosis"]]
    assert len(found["exact_copies"]) == 1
    (near,) = found["near_copies"]
    assert {file.rsplit("/", 1)[1] for file in near["files"]} == {ill[0].name, "z-near.png"}
    assert {row["file"].rsplit("/", 1)[1] for row in found["unreadable"]} == {"z-cut.png", "z-empty.png"}
    assert [file.rsplit("/", 1)[1] for file in found["not_images"]] == ["notes.txt"]
    strip = next(row["warnings"] for row in found["doubtful"] if row["file"].endswith("z-strip.png"))
    assert strip == "tiny,extreme-aspect,blank"
    assert any("1 no images (first: " in note for note in found["notes"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert ("stopped at its bound" in page) is not found["copy_search_complete"]
    assert page.count("data:image/jpeg;base64,") >= 4
    assert str(tmp_path) not in page
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == found


def test_a_patient_and_a_copy_on_two_sides_leak(clean, tmp_path, capsys):
    def same_patient(rows, name):
        rows.loc[[0, 1], name] = "patient-x"  # 0 tests, 1 trains

    code, found = report(capsys, manifest(clean, tmp_path / "m.csv", group=same_patient), "--strict")
    assert code == 1
    (leak,) = found["patients_across_splits"]
    assert (leak["group"], leak["splits"]) == ("patient-x", ["test", "train"])
    copy = tmp_path / "copy.png"
    first = sorted(clean.rglob("*.png"))[0]
    Image.open(first).resize((200, 200)).save(copy)
    table = pd.read_csv(manifest(clean, tmp_path / "m.csv"))
    row = {"file": str(copy), "label": "Normal", "split": "train", "group": "patient-y", "collection": "drawn"}
    pd.concat([table, pd.DataFrame([row])]).to_csv(tmp_path / "m.csv", index=False)
    code, found = report(capsys, tmp_path / "m.csv", "--strict")
    assert code == 1
    (leak,) = found["copies_across_splits"]
    assert dict(zip(leak["files"], leak["splits"], strict=True)) == {str(first): "test", str(copy): "train"}


def test_an_empty_split_cell_is_no_side(clean, tmp_path, capsys):
    """`cxr data split` fills it as the other images of its patient have it."""

    def same_patient(rows, name):
        rows.loc[[0, 1], name] = "patient-x" if name == "group" else ["train", ""]

    source = manifest(clean, tmp_path / "m.csv", group=same_patient, split=same_patient)
    code, found = report(capsys, source, "--strict")
    assert (code, found["leaks"]) == (0, 0)


def test_a_mark_on_one_class_is_called_a_shortcut(clean, tmp_path, capsys):
    folder = tmp_path / "marked"
    for file in sorted(clean.rglob("*.png")):
        pixels = np.asarray(Image.open(file)).copy()
        if file.parent.name == "Tuberculosis":
            pixels[:16, :24] = 255
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / file.parent.name / file.name)
    _, found = report(capsys, folder)
    (row,) = found["shortcuts"]["border pixels"]["all"]
    assert row["label"] == "Tuberculosis"
    assert row["auroc"] > 0.95
    assert row["shortcut"]


def test_split_writes_a_manifest_that_trains_and_does_not_leak(clean, tmp_path, capsys):
    target = tmp_path / "split.csv"
    assert main(["data", "split", str(clean), "--output", str(target)]) == 0
    assert "split by group" in capsys.readouterr().out
    rows = pd.read_csv(target)
    assert set(rows["split"]) == {"train", "validation", "test"}
    code, found = report(capsys, target, "--strict")
    assert (code, found["leaks"]) == (0, 0)


def test_split_keeps_the_other_columns_of_a_table(clean, tmp_path, capsys):
    def sexes(rows, name):
        rows[name] = ["F" if index % 2 else "M" for index in range(len(rows))]

    def masks(rows, name):
        rows[name] = ["left.png;right.png" if index % 2 else "" for index in range(len(rows))]

    (tmp_path / "new").mkdir()
    source = manifest(clean, tmp_path / "m.csv", sex=sexes, mask=masks)
    assert main(["data", "split", str(source), "--output", str(tmp_path / "new/split.csv")]) == 0
    old, new = (pd.read_csv(file, keep_default_na=False) for file in (source, tmp_path / "new/split.csv"))
    old, new = old.set_index("file"), new.set_index("file").loc[old["file"]]
    assert list(new["sex"]) == list(old["sex"])
    assert set(new["mask"]) == {"", f"{tmp_path / 'left.png'};{tmp_path / 'right.png'}"}
    assert list(new["mask"] == "") == list(old["mask"] == "")


def test_split_fills_empty_cells_and_moves_no_filled_one(clean, tmp_path, capsys):
    rows = pd.read_csv(manifest(clean, tmp_path / "m.csv"), keep_default_na=False)
    rows.loc[40:, "split"] = ""
    rows.loc[0, "split"] = "external"
    near = tmp_path / "near.jpg"
    Image.open(rows["file"][0]).save(near, quality=80)
    rows.loc[len(rows)] = {"file": str(near), "label": "Normal", "split": "", "group": "", "collection": ""}
    rows.to_csv(tmp_path / "m.csv", index=False)
    words = ["data", "split", str(tmp_path / "m.csv"), "--output", str(tmp_path / "new.csv")]
    assert main(words) == 0
    assert "40 images keep their split; of the others 1 follow" in capsys.readouterr().out
    new = pd.read_csv(tmp_path / "new.csv").set_index("file")["split"]
    filled = rows["file"][:40]
    assert list(new[filled]) == list(rows["split"][:40])
    assert new["near.jpg"] == "external"
    assert set(new) == {"train", "validation", "test", "external"}
    assert main([*words, "--anew"]) == 0
    anew = pd.read_csv(tmp_path / "new.csv").set_index("file")["split"]
    assert anew[filled[0]] == "external"
    assert list(anew[filled]) != list(rows["split"][:40])


def test_each_collection_is_held_out_in_turn(clean, tmp_path, capsys):
    def two(rows, name):
        rows[name] = ["here/A" if index % 2 else "there" for index in range(len(rows))]

    source = manifest(clean, tmp_path / "m.csv", collection=two)
    assert (
        main(
            ["data", "split", str(source), "--output", str(tmp_path / "out.csv"), "--split", "leave-one-collection-out"]
        )
        == 0
    )
    for name in ("here/A", "there"):
        rows = pd.read_csv(tmp_path / f"out-{name.replace('/', '-')}.csv")
        assert set(rows.loc[rows["split"] == "external", "collection"]) == {name}
    words = ["data", "split", str(source), "--output", str(tmp_path / "out.csv"), "--split", "leave-one-collection-out"]
    assert main([*words, "--hold-out", "nowhere"]) == 2
    assert "here/A, there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "out.parquet"], "ends in .csv"),
        (["--output", "out.csv", "--hold-out", "drawn"], "--hold-out is for"),
        (["--output", "out.csv", "--split", "source", "--anew"], "--anew is for"),
        (["--output", "out.csv", "--split", "leave-one-collection-out"], "two collections would have one file"),
    ],
)
def test_what_split_cannot_do_is_told_before_anything_is_written(clean, tmp_path, monkeypatch, capsys, words, said):
    def alike(rows, name):
        rows[name] = ["a/b" if index % 2 else "a-b" for index in range(len(rows))]

    source = manifest(clean, tmp_path / "m.csv", collection=alike)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "split", str(source), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_an_auroc_below_1_is_not_written_as_1(clean, tmp_path, monkeypatch, capsys):
    row = {"label": "Tuberculosis", "n": 48, "auroc": 0.99985, "low": 0.9, "high": 0.99999, "shortcut": True}
    monkeypatch.setattr("trainer.evaluation.probe.probe_auroc", lambda *_: [row])
    assert main(["data", "check", str(clean), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert ".9999 (" in page
    assert "1.000" not in page
    assert "1.000" not in capsys.readouterr().out
