"""A run goes to the Hub in one commit and comes back by its id, by the real clients, in processes with a cold cache."""

import json
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml
from huggingface_hub import ModelCard

from tests.hub.server import TOKEN
from trainer.data.phantom import write_phantoms

LICENCE = ("--licence", "cc-by-nc-4.0")
STRANGER = """
import json, sys
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
name, image, revision = sys.argv[1:4]
known = {"trust_remote_code": True, "revision": revision}
answers = pipeline("image-classification", model=name, **known)(image, top_k=None)
model = AutoModelForImageClassification.from_pretrained(name, **known)
values = AutoImageProcessor.from_pretrained(name, **known)(image, return_tensors="pt")
scores = model(**values).logits.softmax(-1)[0].tolist()
print(json.dumps({"pipeline": {row["label"]: row["score"] for row in answers}, "model": dict(zip(model.config.id2label.values(), scores))}))
"""
NATIVE = """
import json, sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], subfolder="native")
processor = AutoImageProcessor.from_pretrained(sys.argv[1], subfolder="native")
logits = model(**processor(Image.open(sys.argv[2]), return_tensors="pt")).logits
print(json.dumps(dict(zip(model.config.id2label.values(), logits.softmax(-1)[0].tolist()))))
"""
KEYS = {
    "type": "object",
    "required": ["language", "license", "library_name", "pipeline_tag", "tags", "metrics", "model-index"],
    "additionalProperties": False,
    "properties": {
        "language": {"const": "en"},
        "license": {"type": "string", "minLength": 2},
        "library_name": {"const": "transformers"},
        "pipeline_tag": {"const": "image-classification"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3},
        "datasets": {"type": "array", "items": {"type": "string", "pattern": "^[^/]+/[^/]+$"}},
        "base_model": {"type": "string", "pattern": "^[^/]+/[^/]+$"},
        "base_model_relation": {"enum": ["finetune"]},
        "metrics": {"type": "array", "items": {"type": "string"}},
        "model-index": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "results"],
                "properties": {
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["task", "dataset", "metrics"],
                            "properties": {
                                "metrics": {"type": "array", "items": {"properties": {"value": {"type": "number"}}}}
                            },
                        },
                    }
                },
            },
        },
    },
}


@pytest.fixture
def finished(run, tmp_path):
    """A copy of a finished run, with what must never be published lying in it."""
    folder = tmp_path / "finished run"
    shutil.copytree(run, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "skipped.csv").write_text("file,error\nDoe_Jane.png,cut off\n")
    return folder


def told(done) -> dict:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_run_goes_in_one_commit_and_answers_by_its_id_as_it_did_at_home(hub, cxr, finished, film, tmp_path):
    dry = cxr("push", finished, "--repo-id", "org/tb", *LICENCE, "--dry-run", token=False)
    assert dry.returncode == 0, dry.stderr[-3000:]
    assert "nothing was sent" in dry.stdout
    assert not hub.commits
    pushed = cxr("push", finished, "--repo-id", "org/tb", *LICENCE)
    assert pushed.returncode == 0, pushed.stderr[-3000:]
    assert f"{hub.endpoint}/org/tb" in pushed.stdout
    assert len(hub.commits["models/org/tb"]) == 2  # the repository's own, and ours
    files = hub.files("models", "org/tb")
    assert set(files) == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json"),
        *(file.name for file in (Path(__file__).parents[2] / "trainer" / "cxr_model").glob("*_cxr.py")),
        *("recipe.json", "metrics.json", "history.csv", "predictions.csv", "manifest.csv", "environment.json"),
        *("native/config.json", "native/model.safetensors", "native/preprocessor_config.json"),
        *(f"figures/{name}.png" for name in ("curves", "example", "confusion-test", "confusion-validation")),
        *(f"figures/{kind}-{split}.png" for kind in ("thresholds", "reliability") for split in ("test", "validation")),
    }
    assert b"phantom-0" not in b"".join(files.values())  # no file name
    home = told(cxr("predict", finished, film, "--json", token=False))
    assert told(cxr("predict", "org/tb", film, "--json", token=False, home="cold"))["scores"] == pytest.approx(
        home["scores"], abs=1e-6
    )
    commit = hub.head("models", "org/tb")
    theirs = told(cxr("-c", STRANGER, "org/tb", film, commit, python=True, token=False, home="stranger"))
    assert theirs["pipeline"] == pytest.approx(home["scores"], abs=1e-5)
    assert theirs["model"] == pytest.approx(home["scores"], abs=1e-5)
    asked = len(hub.requests)
    offline = cxr("-c", STRANGER, "org/tb", film, commit, python=True, token=False, home="stranger", offline=True)
    assert told(offline) == theirs
    assert len(hub.requests) == asked
    native = told(cxr("-c", NATIVE, "org/tb", film, python=True, token=False, home="native"))
    assert native == pytest.approx(home["scores"], abs=0.01)  # another library's resize
    assert not [name for name in hub.requests if "modeling_cxr" in name][asked:]


def test_pushed_twice_it_is_one_commit_and_a_change_is_a_second(hub, cxr, finished, film, tmp_path):
    words = ("push", finished, "--repo-id", "org/tb", "--private")
    assert cxr(*words, *LICENCE).returncode == 0
    again = cxr(*words)  # the run keeps its licence
    assert again.returncode == 0, again.stderr[-2000:]
    assert "no commit was made" in again.stdout
    assert len(hub.commits["models/org/tb"]) == 2
    first = hub.head("models", "org/tb")
    (finished / "figures" / "confusion-validation.png").unlink()
    (finished / "history.csv").write_text((finished / "history.csv").read_text() + "\n")
    assert cxr(*words).returncode == 0
    assert len(hub.commits["models/org/tb"]) == 3
    assert "figures/confusion-validation.png" not in hub.files("models", "org/tb")
    assert "figures/confusion-validation.png" in hub.files("models", "org/tb", first)
    pinned = told(cxr("predict", f"org/tb@{first}", film, "--json", home="pinned"))  # with the token: it is private
    assert pinned["scores"] == pytest.approx(told(cxr("predict", finished, film, "--json"))["scores"], abs=1e-6)
    assert cxr(*words, "--revision", "candidate").returncode == 0
    assert hub.files("models", "org/tb", "candidate") == hub.files("models", "org/tb")
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_a_model_of_the_hub_is_adapted_published_and_adapted_from_its_original_again(hub, cxr, finished, tmp_path):
    write_phantoms(tmp_path / "films", "tb", 24, seed=300)
    films = ("--data", tmp_path / "films", "--prevalence", ".05", "--json")
    assert cxr("push", finished, "--repo-id", "org/tb", *LICENCE).returncode == 0
    done = cxr("adapt", "org/tb", *films, "--output", tmp_path / "here", home="adapting")
    assert done.returncode == 0, done.stderr[-3000:]
    assert cxr("push", tmp_path / "here", "--repo-id", "org/here", *LICENCE).returncode == 0
    assert "original/head.safetensors" in hub.files("models", "org/here")
    again = cxr("adapt", "org/here", *films, "--output", tmp_path / "again", home="adapting")
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(again.stdout) == json.loads(done.stdout)


def test_what_cannot_be_published_is_refused_before_anything_is_sent(hub, cxr, finished, tmp_path):
    refused = cxr("push", finished, "--repo-id", "org/tb")
    assert (refused.returncode, "--licence" in refused.stderr) == (2, True)
    assert (cxr("push", finished, "--repo-id", "org/tb", "--licence", "  ").returncode, hub.commits) == (2, {})
    assert cxr("push", tmp_path / "nowhere", "--repo-id", "org/tb", *LICENCE).returncode == 2
    bad = cxr("push", finished, "--repo-id", "not a name/x y", *LICENCE)
    assert (bad.returncode, "ORG/NAME" in bad.stderr) == (2, True)
    nobody = cxr("push", finished, "--repo-id", "org/tb", *LICENCE, token=False)
    assert (nobody.returncode, "HF_TOKEN" in nobody.stderr, "Traceback" in nobody.stderr) == (1, True, False)
    (finished / "metrics.json").unlink()
    unfinished = cxr("push", finished, "--repo-id", "org/tb", *LICENCE)
    assert (unfinished.returncode, "not a finished run" in unfinished.stderr, hub.commits) == (
        2,
        True,
        {},
    )


@pytest.mark.slow  # hub_cards/test_publish.py cuts the line in the process of the tests
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_push_cut_half_way_is_finished_by_the_next(cuts, line, hub, cxr, finished, tmp_path):
    size = (finished / "model.safetensors").stat().st_size
    words = ("push", finished, "--repo-id", "org/tb", *LICENCE)
    for _ in range(cuts):
        line.cut_after(size / 2)
        cut = cxr(*words)
        assert (cut.returncode, "Traceback" in cut.stderr) == (1, False), cut.stderr[-3000:]
        assert "run the command again" in cut.stderr
        line.mend()
    assert len(hub.commits.get("models/org/tb", ["its own"])) == 1
    done = cxr(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(hub.commits["models/org/tb"]) == 2
    files = hub.files("models", "org/tb")
    assert files["model.safetensors"] == (finished / "model.safetensors").read_bytes()
    assert files["native/model.safetensors"] == (finished / "native" / "model.safetensors").read_bytes()
    assert not {"notes.txt", "skipped.csv"} & set(files)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500])
def test_what_the_hub_refuses_is_told_and_the_next_push_goes_on(hub, cxr, finished, status):
    words = ("push", finished, "--repo-id", "org/tb", *LICENCE)
    hub.fail["/commit/"] = [status] * 50
    refused = cxr(*words)
    assert (refused.returncode, "Traceback" in refused.stderr, str(status) in refused.stderr) == (1, False, True), (
        refused.stderr[-3000:]
    )
    assert ("HF_TOKEN" in refused.stderr) == (status in (401, 403))
    assert len(hub.commits["models/org/tb"]) == 1
    hub.fail.clear()
    hub.requests.clear()
    assert cxr(*words).returncode == 0
    assert len(hub.commits["models/org/tb"]) == 2
    assert not [asked for asked in hub.requests if asked.startswith("PUT /lfs")]  # the large files had arrived


def test_the_front_matter_holds_the_documented_keys(hub, cxr, finished, film):
    assert cxr("push", finished, "--repo-id", "org/tb", *LICENCE).returncode == 0
    text = hub.files("models", "org/tb")["README.md"].decode()
    card = ModelCard(text)
    assert card.data.license == "cc-by-nc-4.0"
    front = yaml.safe_load(text.split("---")[1])
    jsonschema.validate(front, KEYS)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert told(cxr("predict", finished, finished / "figures" / "example.png", "--json"))["scores"] == pytest.approx(
        metrics["example"]["scores"], abs=1e-5
    )
    assert "THIS_REPOSITORY" not in text
    assert re.search(r'model="org/tb"', text)
