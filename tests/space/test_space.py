"""The Space by its two doors: gradio_client and a real browser; and what it refuses."""

import ast
import asyncio
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import jsonschema
import numpy as np
import pytest
import yaml
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from hub_cards.formatting import format_metric
from tests.space.conftest import FRONT_MATTER
from trainer.commands.predict import predict
from trainer.run import Run

ROOT = Path(__file__).parents[2]


def test_the_api_answers_as_the_command_line_does(space, run, films):
    client = Client(space, verbose=False)
    for kind in ("png", "deep", "dicom"):
        theirs = client.predict(handle_file(films[kind]), api_name="/predict_tb")
        (ours,) = predict(Run(run), [str(films[kind])])
        assert theirs["file"] == films[kind].name
        close = {name: pytest.approx(ours[name], abs=1e-4) for name in ("scores", "familiarity")}
        assert {**theirs, "file": ""} == {**ours, "file": "", **close}


def test_a_bad_file_is_an_answer_without_a_path(space, films):
    answer = Client(space, verbose=False).predict(handle_file(films["text"]), api_name="/predict_tb")
    assert set(answer) == {"file", "error"}
    assert answer["file"] == "text.png"
    assert "/" not in answer["error"]


def test_no_file_is_an_answer_too(space):
    client = Client(space, verbose=False)
    assert client.predict(None, api_name="/predict_tb") == {"file": "", "error": "no file was given"}
    assert client.predict("Tuberculosis", None, api_name="/predict_batch") == []


def test_a_name_that_was_not_uploaded_is_told(space, films):
    client = Client(space, verbose=False)
    for words in ((str(films["png"]),), (7,), ("Tuberculosis", [None])):
        with pytest.raises(AppError, match="give data addresses"):
            client.predict(*words, api_name="/predict_tb" if len(words) == 1 else "/predict_batch")


def test_only_the_predictors_that_load_are_public(space):
    public = Client(space, verbose=False).view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(public) == ["/predict_tb", "/predict_covid", "/predict_batch"]


def test_the_heat_map_is_given_on_request(space, films):
    answer = Client(space, verbose=False).predict(handle_file(films["png"]), True, api_name="/predict_tb")
    kind, data = answer["heat_map"].split(",")
    assert kind == "data:image/png;base64"
    film = Image.open(films["png"])
    scale = min(1, 256 / max(film.size))
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (
        round(scale * film.width),
        round(scale * film.height),
    )


def test_the_documented_ways_to_ask_a_space(space, films, run, tmp_path):
    """The snippets of docs/publishing.md, as they stand there, with the address of this Space."""
    (ours,) = predict(Run(run), [str(films["dicom"])])
    shutil.copyfile(films["dicom"], tmp_path / "film.dcm")
    blocks = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "docs/publishing.md").read_text(), flags=re.DOTALL)
    (python,) = (text for kind, text in blocks if kind == "python" and "gradio_client" in text)
    (shell,) = (text for kind, text in blocks if kind == "sh" and "$SPACE" in text)
    words = [sys.executable, "-c", python.replace("org/app", space)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, many = map(ast.literal_eval, done.stdout.strip().splitlines()[-2:])
    for answer in (one, *many):
        assert answer["scores"] == pytest.approx(ours["scores"], abs=1e-4)
    if shutil.which("curl"):
        environment = {**os.environ, "SPACE": space}
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        told = next(line.removeprefix("data: ") for line in done.stdout.splitlines() if line.startswith("data: ["))
        assert json.loads(told)[0]["scores"] == pytest.approx(ours["scores"], abs=1e-4)


REFUSED = ("/etc/hostname", "http://127.0.0.1/x.png", "data:image/png;base64,x")


def test_an_mcp_client_follows_every_schema_and_calls_every_tool(space, films, phantoms, tmp_path):
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamablehttp_client

    film = f"data:image/png;base64,{base64.b64encode(films['png'].read_bytes()).decode()}"
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.write(films["png"], "PAT1/IM0001")
    with (tmp_path / "films.zip").open("rb") as content:
        (uploaded,) = httpx.post(f"{space}/gradio_api/upload", files={"files": content}).json()
    several = [film, f"data:;base64,{base64.b64encode(b'no film').decode()}", f"{space}/gradio_api/file={uploaded}"]
    words = {
        "predict_tb": {"path": film},
        "predict_covid": {"path": film, "heat_map": True},
        "predict_batch": {"title": "Tuberculosis", "paths": several},
    }
    refused = [{"title": "Gout", "paths": several}]
    refused += [{"title": "Tuberculosis", "paths": [item]} for item in REFUSED]

    async def talk():
        async with (
            streamablehttp_client(f"{space}/gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            results = {name: await session.call_tool(name, words[name]) for name in tools}
            errors = [await session.call_tool("predict_batch", wrong) for wrong in refused]
            errors += [await session.call_tool("predict_tb", {"path": item}) for item in REFUSED]
            return tools, results, errors

    tools, results, errors = asyncio.run(talk())
    assert set(tools) == set(words)
    for name, tool in tools.items():
        assert "not a medical device" in tool.description
        jsonschema.Draft202012Validator.check_schema(tool.inputSchema)
        jsonschema.validate(words[name], tool.inputSchema)
        assert not results[name].isError, results[name].content
    answers = {name: ast.literal_eval(result.content[0].text) for name, result in results.items()}
    rows = answers["predict_batch"]
    assert [list(row) == ["file", "error"] for row in rows] == [False, True, False]
    assert rows[2]["file"] == "PAT1/IM0001"
    assert rows[0]["scores"] == rows[2]["scores"] == pytest.approx(answers["predict_tb"]["scores"], abs=1e-5)
    assert answers["predict_covid"]["heat_map"].startswith("data:image/png")
    assert all(error.isError for error in errors)
    assert "Tuberculosis" in errors[0].content[0].text
    assert all("give data addresses" in error.content[0].text for error in errors[1:])


def test_four_classes(space, covid_run, films):
    theirs = Client(space, verbose=False).predict(handle_file(films["png"]), api_name="/predict_covid")
    (ours,) = predict(Run(covid_run), [str(films["png"])])
    assert list(theirs["scores"]) == ["COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"]
    assert theirs["scores"] == pytest.approx(ours["scores"], abs=1e-4)


@pytest.fixture
def parts(monkeypatch):
    """space/facts.py and space/results.py, imported by their bare names as the Space does."""
    monkeypatch.syspath_prepend(str(ROOT / "space"))
    import facts
    import results

    return facts, results


def served(facts, folder: Path) -> SimpleNamespace:
    source = SimpleNamespace(task="tb", model=str(folder), revision=None)
    return SimpleNamespace(task="tb", source=source, facts=facts.read_facts(source))


def test_an_answer_tells_how_often_the_model_was_right_and_wrong(parts):
    facts, _ = parts
    collection = {"trained": False, "confusion": [[53, 6], [8, 31]]}
    splits = {"test": {"confusion": [[90, 10], [5, 45]]}, "external": {"collections": {"there": collection}}}
    known = {"recipe": {"labels": ["Normal", "Tuberculosis"]}, "metrics": {"splits": splits}}
    lines = facts.trust_lines(known, "Tuberculosis")
    assert "in its own test it found 45 of 50 films of Tuberculosis and took 10 of 100 others for it" in lines
    assert (
        "in hospitals it had never seen it found 31 of 39 films of Tuberculosis and took 6 of 59 others for it" in lines
    )
    assert lines[-1] == "it was not adapted to your hospital"
    collection["trained"] = True
    assert "never seen" not in " ".join(facts.trust_lines(known, "Tuberculosis"))
    splits["external"]["collections"]["elsewhere"] = {"trained": False, "confusion": [[0, 0], [1, 3]]}
    lines = facts.trust_lines(known, "Tuberculosis")
    assert "in hospitals it had never seen it found 3 of 4 films of Tuberculosis" in lines
    assert facts.trust_lines({}, "Tuberculosis") == facts.trust_lines(known, "Covid") == []


def test_a_deep_film_has_windows_and_lungs_bound_the_heat_map(parts):
    import images
    import view
    from answer import Answer

    deep = np.add.outer(np.arange(400), np.arange(300)).astype(np.uint16) * 90
    heat, lungs = np.zeros((7, 7), np.float32), np.zeros((56, 56), np.uint8)
    heat[0, 0], heat[3, 3], lungs[20:36, 20:36] = 1, 0.2, 255
    answer = Answer({}, (300, 400), heat, (deep >> 8).astype(np.uint8), lungs, deep)
    windows = images.window_addresses(answer)
    assert list(windows) == ["all values", "lungs", "heart and bones"]
    whole, dark, bright = (np.asarray(opened(address).convert("L"), float) for address in windows.values())
    assert bright.mean() < whole.mean() < dark.mean()
    assert all(name in view.film_html(answer) for name in windows)
    shallow = replace(answer, deep=None)
    assert images.window_addresses(shallow) == {}
    assert "softer" in view.film_html(shallow)
    within = np.asarray(opened(images.heat_address(answer, within_lungs=True)).convert("RGBA"))[..., 3]
    everywhere = np.asarray(opened(images.heat_address(answer)).convert("RGBA"))[..., 3]
    assert within[:40, :40].max() == 0 < within[128, 96] == everywhere[128, 96] < everywhere.max()
    assert images.proportion_within(answer) < 0.5


def test_the_heat_map_is_of_what_is_decided_and_as_faint_as_its_score(parts):
    import view
    from answer import Answer

    decision = {"name": "WHO triage", "label": "Tuberculosis", "threshold": 0.25, "positive": False}
    scores = {"Normal": 0.95, "Tuberculosis": 0.05}
    answer = Answer(
        {"label": "Normal", "scores": scores, "decision": decision, "warnings": []},
        (96, 96), np.ones((7, 7), np.float32), np.zeros((96, 96), np.uint8),
    )  # fmt: skip
    html = view.answer_html(answer, {})
    assert "Suggests Normal: .95" in html
    assert "speaks for Tuberculosis" in html
    assert "--strength: 0.2" in html
    scores |= {"Normal": 0.4, "Tuberculosis": 0.6}
    assert "--strength: 1.0" in view.answer_html(answer, {})


def opened(address: str) -> Image.Image:
    """The image of a data address."""
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_a_classifier_of_own_classes_has_a_tab_of_its_own_name(parts, run, tmp_path):
    from config import ModelSource
    from worker import Served

    assert Served(ModelSource("tb", str(run)), ["Normal", "Tuberculosis"], None).title == "Tuberculosis"
    shutil.copytree(run, tmp_path / "own", ignore=shutil.ignore_patterns("checkpoints"))
    recipe = json.loads((run / "recipe.json").read_text())
    (tmp_path / "own/recipe.json").write_text(json.dumps({**recipe, "task": "own"}))
    assert Served(ModelSource("tb", str(tmp_path / "own")), ["Cat", "Dog"], None).title == "Cat, Dog"


@pytest.mark.parametrize("content", ["{", "[]", "3"])
def test_a_model_with_a_damaged_file_is_refused_alone(parts, run, tmp_path, monkeypatch, content):
    from config import ModelError, ModelSource
    from predictor import Predictor

    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    (copy / "metrics.json").write_text(content)
    with pytest.raises(ModelError, match=r"the tb model .* cannot be loaded"):
        Predictor(ModelSource("tb", str(copy)))


def test_results_of_a_model_without_a_recipe_are_shown(parts, run, tmp_path):
    facts, results = parts
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    (copy / "recipe.json").unlink()
    assert "AUROC" in results.results_html(served(facts, copy))


def test_a_tab_tells_figures_licence_and_citation(parts, run, tmp_path):
    facts, results = parts
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    environment = json.loads((copy / "environment.json").read_text())
    terms = {
        "name": "set",
        "title": "A set <b>",
        "page": "https://example.org/set",
        "licence": "CC BY 4.0",
        "citation": "Doe J. 2020.",
    }
    (copy / "environment.json").write_text(json.dumps({**environment, "data_sources": [terms]}))
    shown = results.facts_html(served(facts, copy))
    test = json.loads((copy / "metrics.json").read_text())["splits"]["test"]
    assert f"test, n = {test['n']}" in shown
    assert all(f"{test['metrics']['auroc'][key]:.3f}".removeprefix("0") in shown for key in ("value", "low", "high"))
    assert "Licence: CC BY 4.0. Doe J. 2020." in shown
    assert "A set &lt;b&gt;" in shown


@pytest.mark.parametrize("value", [0.0, 4e-12, 0.0004, 0.5, 0.9994, 0.99985, 0.9999996, 1.0])
def test_a_metric_reads_here_as_on_its_card(parts, value):
    facts, _ = parts
    metric = {"value": value, "low": value / 2, "high": 1.0}
    assert facts.metric_text(metric) == format_metric(metric)
    assert (facts.number_text(value) == "1.000") == (value == 1)
    assert (facts.number_text(value) == ".000") == (value == 0)


def test_a_model_without_figures_says_so(parts, tmp_path):
    facts, results = parts
    assert "carries no figures" in results.facts_html(served(facts, tmp_path))
    (tmp_path / "metrics.json").write_text('{"splits": {"validation": {}}}')
    assert "carries no figures" in results.facts_html(served(facts, tmp_path))


def start(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CXR_")}
    words = [sys.executable, "app.py"]
    return subprocess.run(
        words, cwd=folder, env={**environment, **settings}, capture_output=True, text=True, timeout=120, check=False
    )


def test_it_refuses_to_start_without_a_model(space_folder):
    done = start(space_folder)
    assert done.returncode == 2
    assert "models.toml" in done.stderr
    assert "CXR_TB" in done.stderr


def test_it_refuses_weights_that_do_not_load(space_folder, run, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken, ignore=shutil.ignore_patterns("checkpoints"))
    (broken / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:100_000])
    done = start(space_folder, CXR_TB=str(broken))
    assert done.returncode == 2
    assert "cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('[tb]\nmodel = "org/name"', "40 hexadecimal digits"),
        ('[tb]\nmodel = "org/name"\nrevision = "main"', "40 hexadecimal digits"),
        ('[tb]\nmodel = "../../nowhere/at/all"', "neither a folder nor org/name"),
        ("[tb", "not TOML"),
        ('[flu]\nmodel = "org/name"', "unknown entry flu"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(entry, said, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    from config import ModelError, read_sources

    (tmp_path / "models.toml").write_text(entry)
    with pytest.raises(ModelError, match=said):
        read_sources(tmp_path / "models.toml", {})


def test_the_environment_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    from config import ModelSource, read_sources

    (tmp_path / "models.toml").write_text('[tb]\nmodel = "org/name"\nrevision = "' + "a" * 40 + '"')
    assert read_sources(tmp_path / "models.toml", {}) == [ModelSource("tb", "org/name", "a" * 40)]
    chosen = read_sources(tmp_path / "models.toml", {"CXR_TB": "other/name@" + "b" * 40})
    assert chosen == [ModelSource("tb", "other/name", "b" * 40)]


def test_a_cache_that_cannot_be_written_is_replaced_and_keeps_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "space"))
    import config
    from huggingface_hub import constants, get_token, hf_hub_download

    hub, commit = tmp_path / "hub", "a" * 40
    snapshot = hub / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setenv("HF_MODULES_CACHE", "/dev/null/modules")
    for name, path in (("HF_HUB_CACHE", hub), ("HF_XET_CACHE", hub), ("HF_TOKEN_PATH", "/dev/null/token")):
        monkeypatch.setenv(name, "")
        monkeypatch.setattr(constants, name, str(path))
    monkeypatch.setattr(constants, "HF_MODULES_CACHE", "", raising=False)
    config.ensure_writable_cache([config.ModelSource("tb", "org/name", commit), config.ModelSource("covid", "runs/x")])
    assert constants.HF_HUB_CACHE == os.environ["HF_HUB_CACHE"] != str(hub)
    Path(os.environ["HF_MODULES_CACHE"]).mkdir()
    file = hf_hub_download("org/name", "config.json", revision=commit)
    assert Path(file).is_relative_to(os.environ["HF_HUB_CACHE"])
    assert get_token() is None
    before = dict(os.environ)
    config.ensure_writable_cache([])
    assert dict(os.environ) == before


def test_front_matter_and_pins():
    space = Path(__file__).parents[2] / "space"
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    jsonschema.validate({**front, "models": ["org/tb"]}, FRONT_MATTER)
    pins = read_pins(space / "requirements.txt")
    tested = read_pins(space.parent / "requirements.txt")
    assert front["sdk_version"] == pins["gradio"]
    assert {name: pin.rpartition("<=")[2] for name, pin in pins.items()} == {name: tested[name] for name in pins}
    assert json.dumps(front["license"]) == '"apache-2.0"'


def read_pins(file: Path) -> dict[str, str]:
    """Package: its exact version, or from which to which it may be."""
    pins = re.findall(r"^([\w.-]+)(?:\[\w+\])?(?:==|>=)(\S+)$", file.read_text(), flags=re.MULTILINE)
    return {name.lower().replace("_", "-"): pin for name, pin in pins}


def test_zerogpu_can_build_it():
    """It adds its own upper bound of torch to these requirements: 2.13.0 in September 2026."""
    pins = read_pins(ROOT / "space" / "requirements.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name in ("torch", "torchvision"):  # each torchvision wants one torch: an exact pin of either binds both
        lowest, highest = pins[name].split(",<=")
        assert lowest < "2.13" < highest or name == "torchvision"
        assert any(line.startswith(f"{name}>={lowest},") for line in project)


STUB = """
import pickle
def GPU(function):
    def lent(*words):
        print("lent")
        return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(words)))))
    return lent
"""
ASK = """
import os, sys
sys.path.append(sys.argv[3])
os.environ["SPACES_ZERO_GPU"] = sys.argv[4]
from config import ModelSource
from predictor import Predictor
answer = Predictor(ModelSource("tb", sys.argv[1]))(sys.argv[2], "film.png")
print(answer.prediction["scores"], answer.heat.shape, "spaces" in sys.modules)
"""


def test_where_zerogpu_is_there_each_call_borrows_it(space_folder, run, film, loaded_python, tmp_path):
    """Every Gradio Space on the Hub has the package `spaces`; the variable says that there is a GPU to borrow."""
    (tmp_path / "spaces.py").write_text(STUB)
    told = []
    for there in ("false", "true"):
        done = loaded_python.run(["-c", ASK, run, film, space_folder, there], tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        told.append(done.stdout.splitlines())
    assert told[1][0] == "lent"
    assert told[0][0].endswith("False")
    assert told[1][1] == told[0][0].replace("False", "True")


def test_no_image_of_a_visitor_comes_into_the_log(space, film, space_uploads):
    image = f"data:image/png;base64,{base64.b64encode(film.read_bytes()).decode()}"
    address = f"{space}/gradio_api/call/predict_tb"
    asked = httpx.post(address, json={"data": [{"path": image, "meta": {"_type": "gradio.FileData"}}]}).json()
    assert "error" in httpx.get(f"{address}/{asked['event_id']}", timeout=60).text
    log = (space_uploads.parent / "space.log").read_text()
    assert "base64" in log  # gradio's own traceback
    assert image[100:300] not in log


def test_hostile_files_are_answered_in_a_sentence_and_good_ones_beside_them(space, films, tmp_path):
    from tests.hostile.files import KINDS

    client = Client(space, verbose=False)
    for name in (
        "dicom-jpeg-ls-claims-65500",
        "jpeg2000-lies",
        "tiff-strips",
        "dicom-deep-sequence",
        "gif-claims-65535",
    ):
        (tmp_path / f"{name}.png").write_bytes(KINDS[name]())
        answer = client.predict(handle_file(tmp_path / f"{name}.png"), api_name="/predict_tb")
        assert set(answer) == {"file", "error"}
        assert "fault is ours" not in answer["error"]
        assert str(tmp_path.parent) not in answer["error"]
        assert "scores" in client.predict(handle_file(films["png"]), api_name="/predict_tb")
