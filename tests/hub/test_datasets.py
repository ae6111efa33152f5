"""A prepared folder goes to the Hub as a dataset, trains from there, and its model goes there too, by the real clients."""

import csv
import json

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard, parse_eval_result_entries
from PIL import Image

from tests.conftest import QUICK
from tests.hub.test_models import LICENCE
from trainer.data.phantom import write_phantoms

LOAD = """
import json, sys
from datasets import load_dataset
films = load_dataset(sys.argv[1])
print(json.dumps({"splits": {name: len(part) for name, part in films.items()}, "names": films["train"].features["label"].names,
                  "mode": films["train"][0]["image"].mode, "columns": films["train"].column_names}))
"""

AGAIN = """
import sys
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
model.push_to_hub(sys.argv[2])
"""


@pytest.fixture(scope="module")
def films(tmp_path_factory, dicom_of):
    folder = tmp_path_factory.mktemp("films") / "films"
    write_phantoms(folder, "tb", 24, seed=1)
    pixels = np.random.default_rng(0).integers(0, 4095, (90, 90), dtype=np.uint16)
    dicom_of(pixels, 12, PatientName="Doe^Jane").save_as(folder / "Normal" / "film.dcm", enforce_file_format=True)
    assert b"Doe" in (folder / "Normal" / "film.dcm").read_bytes()
    return folder


def test_a_folder_is_published_in_one_commit_and_a_training_from_its_id_publishes_itself(hub, cxr, films, tmp_path):
    pushed = cxr("data", "push", films, "--repo-id", "org/films", "--licence", "cc-by-4.0")
    assert pushed.returncode == 0, pushed.stderr[-3000:]
    assert f"{hub.endpoint}/datasets/org/films" in pushed.stdout
    assert len(hub.commits["datasets/org/films"]) == 2  # the repository's own, and ours
    files = hub.files("datasets", "org/films")
    assert set(files) == {"README.md", "data/train-00000-of-00001.parquet"}
    everything = b"".join(files.values())
    assert b"Doe" not in everything
    assert b"phantom-0" not in everything  # no file name
    card = DatasetCard(files["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert "not a medical device" in card.text
    loaded = cxr("-c", LOAD, "org/films", python=True, home="stranger", token=False)
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    assert loaded.stdout.strip().splitlines()[-1] == (
        '{"splits": {"train": 25}, "names": ["Normal", "Tuberculosis"], "mode": "L", "columns": ["image", "label", "group", "collection"]}'
    )
    words = ("train", "tb-finetuned", "--data", "org/films", "--output", tmp_path / "run", *QUICK, "--set", "epochs=1")
    words += ("--push-to-hub", "org/trained")
    refused = cxr(*words)
    assert (refused.returncode, "--licence" in refused.stderr, (tmp_path / "run").exists()) == (2, True, False)
    trained = cxr(*words, *LICENCE)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert len(hub.commits["models/org/trained"]) == 2
    pushed = hub.files("models", "org/trained")
    assert "datasets:\n- org/films" in pushed["README.md"].decode()
    results = parse_eval_result_entries(yaml.safe_load(pushed[".eval_results/test.yaml"]))
    metrics = json.loads(pushed["metrics.json"])["splits"]["test"]["metrics"]
    assert {result.task_id: result.value for result in results} == {
        "accuracy": metrics["accuracy"]["value"],
        "f1": metrics["f1"]["value"],
        "roc_auc": metrics["auroc"]["value"],
    }
    assert all(result.dataset_id == "org/films" and "95 % interval" in result.notes for result in results)
    assert cxr("-c", AGAIN, "org/trained", "org/copy", python=True, home="friend").returncode == 0
    assert {"modeling_cxr.py", "configuration_cxr.py"} <= set(hub.files("models", "org/copy"))
    with (tmp_path / "run" / "manifest.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 25


def test_splits_and_groups_go_along_and_faults_are_told(hub, cxr, films, tmp_path):
    rows = [{"file": str(file), "label": file.parent.name} for file in sorted(films.rglob("*.png"))]
    rows = [
        {**row, "split": ("train", "validation", "test")[index % 3], "group": f"p{index // 6}"}
        for index, row in enumerate(rows)
    ]
    with (tmp_path / "films.csv").open("w") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    words = ("data", "push", tmp_path / "films.csv", "--repo-id", "org/split")
    refused = cxr(*words, "--licence", " ")
    assert (refused.returncode, "licence" in refused.stderr) == (2, True)
    assert "datasets/org/split" not in hub.commits
    nobody = cxr(*words, "--licence", "cc0-1.0", token=False)
    assert nobody.returncode == 1
    assert "HF_TOKEN" in nobody.stderr
    assert "Traceback" not in nobody.stderr
    hub.fail["/commit/main"] = [409]
    assert cxr(*words, "--licence", "cc0-1.0").returncode == 1
    hub.fail.clear()
    again = cxr(*words, "--licence", "cc0-1.0")
    assert again.returncode == 0, again.stderr[-2000:]
    assert {name for name in hub.files("datasets", "org/split") if name.endswith("parquet")} == {
        f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")
    }
    checked = cxr("data", "check", "org/split", "--strict", token=False)
    assert checked.returncode == 1  # p0 … p3 stand on three sides, and still do after the journey
    assert "patients across splits" in checked.stdout
    unknown = cxr("data", "check", "org/nosuch", token=False)
    assert unknown.returncode == 2
    assert "org/nosuch" in unknown.stderr


def test_published_pictures_are_grey(hub, cxr, tmp_path):
    folder = tmp_path / "colour"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        (folder / label / "cut.png").write_bytes(b"cut off")
        Image.new("RGB", (80, 80), (200, 10, 10)).save(
            folder / label / "film.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"
        )
    assert cxr("data", "push", folder, "--repo-id", "org/colour", "--licence", "mit").returncode == 0
    loaded = cxr("-c", LOAD, "org/colour", python=True, token=False)
    assert '"mode": "L"' in loaded.stdout
    card = hub.files("datasets", "org/colour")["README.md"].decode()
    assert "\n| a | 1 |\n| b | 1 |\n" in card  # what could not be read is not counted
