"""A finished run: every file of the contract, nothing that must not be published, and the same model for everybody."""

import json
import os
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trainer.errors import WorkError
from trainer.run import Run

FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "configuration_cxr.py",
    "modeling_cxr.py",
    "bounds_cxr.py",
    "dicom_cxr.py",
    "display_cxr.py",
    "folding_cxr.py",
    "grey_cxr.py",
    "image_processing_cxr.py",
    "lesions_cxr.py",
    "lungs_cxr.py",
    "process_cxr.py",
    "reader_cxr.py",
    "versions_cxr.py",
    "weights_cxr.py",
    "pipeline_cxr.py",
    "recipe.json",
    "metrics.json",
    "history.csv",
    "predictions.csv",
    "manifest.csv",
    "environment.json",
}


def test_a_run_holds_the_files_of_the_contract(run):
    assert {file.name for file in run.iterdir() if file.is_file()} == FILES
    assert {file.name for file in run.iterdir() if file.is_dir()} == {"figures", "checkpoints", "native"}
    drawn = {
        f"{kind}-{split}.png" for kind in ("confusion", "thresholds", "reliability") for split in ("validation", "test")
    }
    assert {file.name for file in (run / "figures").iterdir()} == {"curves.png", "example.png", *drawn}
    assert Run(run).finished


def test_no_path_and_no_file_name_is_published(run, phantoms):
    for name in FILES:
        content = (run / name).read_bytes()
        for secret in (str(phantoms), str(run), "phantom-000", os.path.expanduser("~")):
            assert secret.encode() not in content, f"{secret} in {name}"


def test_tables_have_the_columns_of_the_contract(run):
    assert list(pd.read_csv(run / "manifest.csv")) == ["sha256", "label", "split", "group", "collection"]
    columns = ["sha256", "split", "label", "prediction", "decision", "p:Normal", "p:Tuberculosis"]
    assert list(pd.read_csv(run / "predictions.csv")) == columns
    history = pd.read_csv(run / "history.csv")
    assert list(history) == ["epoch", "train_loss", "validation_loss", "validation_accuracy", "lr", "seconds"]
    assert history["epoch"].tolist() == [1, 2]


def test_metrics_follow_the_schema_and_the_predictions(run):
    metrics = json.loads((run / "metrics.json").read_text())
    schema = json.loads((Path(__file__).parents[1] / "trainer/evaluation/metrics.schema.json").read_text())
    jsonschema.validate(metrics, schema)
    assert metrics["split"]["near_copies_across_splits"] == metrics["split"]["groups_across_splits"] == 0
    assert "none that was found stands on two sides" in (run / "README.md").read_text()
    rows = pd.read_csv(run / "predictions.csv")
    for split, report in metrics["splits"].items():
        part = rows[rows["split"] == split]
        right = (part["label"] == part["prediction"]).sum()
        assert report["n"] == len(part)
        assert report["metrics"]["accuracy"]["value"] == pytest.approx(right / len(part), abs=1e-12)
        assert np.trace(report["confusion"]) == (part["label"] == part["decision"]).sum()
        pairs = [
            (a, b)
            for a in part.loc[part.label == "Tuberculosis", "p:Tuberculosis"]
            for b in part.loc[part.label == "Normal", "p:Tuberculosis"]
        ]
        area = np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
        assert report["metrics"]["auroc"]["value"] == pytest.approx(area, abs=1e-12)


STRANGER = """
import json, sys
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
run, files = sys.argv[1], sys.argv[2:]
model = AutoModelForImageClassification.from_pretrained(run, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(run, trust_remote_code=True)
ask = pipeline("image-classification", model=run, trust_remote_code=True)
plain = model(**processor(files, return_tensors="pt")).logits.softmax(-1).tolist()
piped = [{row["label"]: row["score"] for row in answer} for answer in ask(files, batch_size=2)]
assert not any(name == "trainer" or name.startswith("trainer.") for name in sys.modules)
print(json.dumps([plain, piped]))
"""


def test_a_stranger_loads_it_in_a_clean_process(run, film, loaded_python, tmp_path, dicom_of):
    """AutoModel, the pipeline and `cxr predict` agree to 1e-4 on an 8-bit PNG, a 16-bit PNG, a JPEG and a DICOM file."""
    from trainer.commands.predict import predict

    grey = np.asarray(Image.open(film))
    files = [film, tmp_path / "deep.png", tmp_path / "film.jpg", tmp_path / "film.dcm"]
    Image.fromarray(grey.astype(np.uint16) * 257).save(files[1])
    Image.fromarray(grey).save(files[2], quality=95)
    dicom_of(grey.astype(np.uint16) * 16, bits=12).save_as(files[3], enforce_file_format=True)
    shown = loaded_python.run(["-c", STRANGER, run, *files], tmp_path)
    assert shown.returncode == 0, shown.stderr
    plain, piped = json.loads(shown.stdout.splitlines()[-1])
    ours = [answer["scores"]["Tuberculosis"] for answer in predict(Run(run), list(map(str, files)))]
    assert [row[1] for row in plain] == pytest.approx(ours, abs=1e-4)
    assert [row["Tuberculosis"] for row in piped] == pytest.approx(ours, abs=1e-4)
    assert ours[1] == pytest.approx(ours[0], abs=1e-6)
    assert ours[3] == pytest.approx(ours[0], abs=2e-2)  # 12 bits of a film of 8: the last grey level differs
    assert ours[2] == pytest.approx(ours[0], abs=5e-2)  # JPEG loses a little


def test_files_are_replaced_whole(tmp_path):
    run = Run(tmp_path)
    run.write_json("metrics.json", {"splits": {}})
    with pytest.raises(TypeError):
        run.write_json("metrics.json", {"splits": {"test": object()}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"splits": {}}
    assert not run.finished
    with pytest.raises(ValueError, match="JSON"):
        run.write_json("metrics.json", {"value": float("nan")})
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_a_damaged_run_is_named(tmp_path):
    (tmp_path / "metrics.json").write_text('{"splits": ')
    with pytest.raises(WorkError, match=r"metrics\.json is damaged"):
        Run(tmp_path).read_json("metrics.json")


def test_a_full_disk_is_an_error_that_says_so():
    """/dev/full refuses every write, as a full disk does."""
    run = Run("/dev/full/run")
    with pytest.raises(WorkError, match="cannot be written"):
        run.write_json("recipe.json", {})
