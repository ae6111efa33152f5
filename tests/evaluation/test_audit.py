"""The audit tells a model that reads a mark in the corner from one that reads the lungs, and where a heat map points."""

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.conftest import LEARNING, SHARED
from trainer.cli import main
from trainer.data.annotations import load_lesion_masks, load_lung_masks
from trainer.data.phantom import write_phantoms
from trainer.errors import UsageError
from trainer.evaluation.audit.conditions import central_area, match_resolution, occlude, verdict, widen
from trainer.evaluation.audit.heat_maps import pointing, prior_maps


def test_a_planted_mark_is_found_out(marked_run, marked_phantoms, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(marked_run, run)
    asked = str(marked_phantoms(tmp_path / "asked", 2))
    assert main(["audit", str(run), "--data", asked]) == 0
    told = capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    audit = metrics["audit"]
    assert audit["verdict"]["code"] == "shortcut"
    assert audit["conditions"]["lungs hidden"]["auroc"]["low"] > 0.9
    assert "it reads the source, not the disease" in told
    assert audit["verdict"]["text"] in (run / "README.md").read_text()
    schema = json.loads((Path(__file__).parents[2] / "trainer" / "evaluation/metrics.schema.json").read_text())
    jsonschema.validate(metrics, schema)
    before = (run / "metrics.json").read_bytes()
    assert (
        main(["audit", str(run), "--data", asked, "--images", "40", "--output", str(tmp_path / "a.json"), "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "a.json").read_text())
    assert json.loads((tmp_path / "a.json").read_text())["n"] == 40
    assert (run / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_a_model_of_clean_phantoms_reads_their_lungs(tmp_path):
    write_phantoms(tmp_path / "train", "tb-finetuned", 900, 1)
    write_phantoms(tmp_path / "asked", "tb", 300, 2)
    run = tmp_path / "run"
    words = ["train", "tb-finetuned", "--data", str(tmp_path / "train"), "--output", str(run), "--set", "epochs=12"]
    assert main([*words, *LEARNING]) == 0
    assert main(["audit", str(run), "--data", str(tmp_path / "asked")]) == 0
    audit = json.loads((run / "metrics.json").read_text())["audit"]
    assert audit["verdict"]["code"] == "lungs"
    assert audit["conditions"]["only lungs"]["auroc"]["value"] > audit["conditions"]["lungs hidden"]["auroc"]["high"]
    heat = audit["heat_maps"]["maps"]
    assert heat["the model"]["hits"]["low"] > 2 * heat["centre"]["hits"]["value"]
    assert heat["the model"]["inside"]["low"] > heat["untrained network"]["inside"]["high"]


def conditions(whole, hidden, only):
    figure = {"whole": whole, "hidden": hidden, "only": only}
    shown = {
        key: {"value": sum(pair) / 2, "low": pair[0], "high": pair[1], "method": "x"} for key, pair in figure.items()
    }
    return {
        "as they are": {"auroc": shown["whole"]},
        "lungs hidden": {"auroc": shown["hidden"]},
        "only lungs": {"auroc": shown["only"]},
        "resolution matched": {"auroc": shown["whole"]},
    }


@pytest.mark.parametrize(
    ("whole", "hidden", "only", "code"),
    [
        ((0.9, 0.98), (0.85, 0.95), (0.9, 0.98), "shortcut"),
        ((0.9, 0.98), (0.62, 0.7), (0.5, 0.65), "shortcut"),  # the lungs alone tell it nothing
        ((0.9, 0.98), (0.62, 0.7), (0.9, 0.98), "doubtful"),
        ((0.9, 0.98), (0.4, 0.8), (0.9, 0.98), "doubtful"),
        ((0.9, 0.98), (0.42, 0.6), (0.9, 0.98), "lungs"),
        ((0.45, 0.7), (0.4, 0.6), (0.4, 0.6), "nothing"),
    ],
)
def test_the_verdict_follows_the_intervals(whole, hidden, only, code):
    told = [{"collection": "there", "among": "Normal", "auroc": 0.99, "low": 0.98}]
    found = verdict(conditions(whole, hidden, only), told)
    assert found["code"] == code
    assert ("a source's look" in found["text"]) == (code == "lungs")
    assert "a source's look" not in verdict(conditions(whole, hidden, only))["text"]


def test_hidden_is_what_lies_within_and_nothing_of_it_is_left():
    grey = torch.randint(0, 255, (2, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:20] = mask[12:30, 35:45] = True
    usual = torch.arange(40 * 60).reshape(40, 60).to(torch.uint8)
    hidden, shown = (occlude(grey, np.array([7, 3]), {7: mask}, keep, usual) for keep in (False, True))
    box, near, central = widen(mask, box=True), widen(mask, box=False), central_area(40, 60)
    assert box[mask].all()
    assert near[mask].all()
    assert box.sum() > near.sum() > mask.sum()
    for row, area in ((0, box), (1, central)):
        assert torch.equal(hidden[row][torch.from_numpy(area)], usual[torch.from_numpy(area)])
        assert torch.equal(hidden[row][torch.from_numpy(~area)], grey[row][torch.from_numpy(~area)])
    assert torch.equal(shown[0][torch.from_numpy(near)], grey[0][torch.from_numpy(near)])
    assert torch.equal(shown[0][torch.from_numpy(~near)], usual[torch.from_numpy(~near)])
    other = grey.clone()
    other[0][torch.from_numpy(mask)] = 0  # the lungs do not shine through
    assert torch.equal(occlude(other, np.array([7, 3]), {7: mask}, False, usual)[0], hidden[0])
    assert not central[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert central[20, 30]


def test_levelled_pictures_hold_no_finer_detail():
    stripes = torch.zeros(1, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 200
    levelled = match_resolution(stripes, 16)
    assert levelled.shape == stripes.shape
    assert levelled.unique().tolist() == [100]


def test_pointing_by_hand():
    marks = np.zeros((4, 10, 10), bool)
    marks[:, 2:4, 2:4] = True
    heat = np.zeros((4, 10, 10), np.float32)
    heat[0, 3, 3] = 1  # within
    heat[1, 8, 8] = 1  # elsewhere
    heat[2, 3, 3], heat[2, 8, 8] = 1, 3  # a quarter of it within
    found = pointing(heat, marks, np.arange(4))  # the last is all zero: a miss
    assert found["hits"]["value"] == pytest.approx(1 / 4)
    assert found["inside"]["value"] == pytest.approx((1 + 0 + 0.25 + 0) / 4)
    assert found["hits"]["method"] == "Wilson"
    assert found["inside"]["high"] <= 1
    assert pointing(heat[[0, 0, 1]], marks[:3], np.arange(3))["inside"]["high"] == 1
    priors = prior_maps(marks)
    assert pointing(priors["where findings usually lie"], marks, np.arange(4))["hits"]["value"] == 1
    assert pointing(priors["centre"], marks, np.arange(4))["hits"]["value"] == 0
    alone = prior_maps(marks[:1])["where findings usually lie"]
    assert (alone == 0).all()  # an image's own finding does not help to find it


def test_marks_come_from_tables_and_from_phantoms(tmp_path):
    for name in ("a", "b"):
        Image.new("L", (100, 50)).save(tmp_path / f"{name}.png")
    for name, box in (("left", (0, 0, 20, 50)), ("right", (80, 0, 100, 50))):
        mask = Image.new("L", (100, 50))
        mask.paste(255, box)
        mask.save(tmp_path / f"{name}.png")
    rows = pd.DataFrame({"file": [str(tmp_path / "x" / ".." / "a.png"), str(tmp_path / "b.png")]})
    table = tmp_path / "manifest.csv"
    pd.DataFrame({"file": ["a.png", "b.png"], "label": "x", "mask": ["left.png;right.png", ""]}).to_csv(
        table, index=False
    )
    lungs = load_lung_masks(str(table), rows, 10, 10)
    assert list(lungs) == [0]
    assert lungs[0].any(axis=0).tolist() == [True] * 2 + [False] * 6 + [True] * 2
    assert list(load_lung_masks(str(tmp_path), rows, 10, 10)) == [0]  # the folder's own manifest
    (tmp_path / "lung_masks.csv").write_text("file,mask\nb.png,left.png\n")
    assert sorted(load_lung_masks(str(table), rows, 10, 10)) == [0, 1]
    (tmp_path / "lesion_boxes.csv").write_text(
        "file,tb_type,x0,y0,x1,y1\nb.png,active,.5,0,1,.5\nb.png,active,0,.8,.2,1\nz.png,x,0,0,1,1\n"
    )
    boxes = load_lesion_masks(str(table), rows, 10, 10)
    assert list(boxes) == [1]
    assert boxes[1].sum() == 25 + 4
    assert boxes[1][:5, 5:].all()
    (tmp_path / "lesion_boxes.csv").write_text("file,x0,y0,x1\na.png,0,0,1\n")
    with pytest.raises(UsageError, match="y1"):
        load_lesion_masks(str(table), rows, 10, 10)
    for wrong in ("one", "nan", "", "60", "-1"):  # also pixels
        (tmp_path / "lesion_boxes.csv").write_text(f"file,x0,y0,x1,y1\na.png,0,0,{wrong},1\n")
        with pytest.raises(UsageError, match=r"fractions of the image, 0 to 1 \(first: a\.png\)"):
            load_lesion_masks(str(table), rows, 10, 10)
    (tmp_path / "left.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"left\.png"):
        load_lung_masks(str(table), rows, 10, 10)


def test_masks_of_a_table_written_on_windows_are_found(tmp_path):
    (tmp_path / "Normal").mkdir()
    for name in ("film", "lungs"):
        Image.new("L", (20, 20), 255).save(tmp_path / "Normal" / f"{name}.png")
    rows = pd.DataFrame({"file": [str(tmp_path / "Normal/film.png")]})
    table = tmp_path / "list.csv"
    table.write_text("file,label,mask\nNormal\\film.png,Normal,Normal\\lungs.png\n")
    assert load_lung_masks(str(table), rows, 4, 4)[0].all()


def test_marks_below_the_home_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "films").mkdir()
    for name in ("film", "lungs"):
        Image.new("L", (20, 20), 255).save(tmp_path / "films" / f"{name}.png")
    (tmp_path / "films" / "list.csv").write_text("Filename\tlabel\tmask\nfilm.png\tx\tlungs.png\n")
    (tmp_path / "films" / "lesion_boxes.csv").write_text("file,x0,y0,x1,y1\nfilm.png,0,0,1,1\n")
    rows = pd.DataFrame({"file": [str(tmp_path / "films" / "film.png")]})
    for marks in (load_lung_masks, load_lesion_masks):
        assert marks("~/films/list.csv", rows, 4, 4)[0].all()
        assert sorted(marks(str(tmp_path / "films" / "list.csv"), rows, 4, 4)) == [0]


def test_a_phantoms_mask_is_its_finding_unless_the_folder_was_fetched(phantoms, tmp_path):
    copy = tmp_path / "phantoms"
    shutil.copytree(phantoms, copy)
    shutil.copytree(phantoms.with_name("phantoms_masks"), tmp_path / "phantoms_masks")
    rows = pd.DataFrame({"file": sorted(map(str, copy.rglob("*.png")))})
    found = load_lesion_masks(str(copy), rows, 64, 64)
    assert sorted(found) == [place for place, file in enumerate(rows["file"]) if "Tuberculosis" in file]
    assert all(0 < mark.mean() < 0.5 for mark in found.values())
    (copy / "SOURCE.json").write_text("{}")
    assert load_lesion_masks(str(copy), rows, 64, 64) == {}


def test_wrong_use_is_told(run, phantoms, tmp_path, capsys):
    assert main(["audit", str(run), "--data", str(phantoms), "--images", "0"]) == 2
    assert main(["audit", str(tmp_path), "--data", str(phantoms)]) == 2
    assert "not a finished run" in capsys.readouterr().err


def test_real_lung_masks_and_boxes_fit_their_pictures():
    if not (SHARED / "radiographs").is_dir():
        pytest.skip("no ../shared/radiographs here")
    data = SHARED / "radiographs" / "tasks" / "tb.csv"
    rows = pd.read_csv(data, dtype=str)
    rows["file"] = [str(data.parent / file) for file in rows["file"]]
    lungs, boxes = load_lung_masks(str(data), rows, 64, 64), load_lesion_masks(str(data), rows, 64, 64)
    assert set(rows["collection"].iloc[list(lungs)]) == {"shenzhen", "montgomery"}
    assert set(rows["collection"].iloc[list(boxes)]) == {"tbx11k"}
    central = central_area(64, 64)
    assert np.mean([mark[central].sum() / mark.sum() for mark in lungs.values()]) > 0.99
    assert np.mean([mark[central].sum() / mark.sum() for mark in boxes.values()]) > 0.99
