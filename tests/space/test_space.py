"""The Space by its two doors: gradio_client and a real browser; and what it refuses."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from gradio_client import Client, handle_file
from PIL import Image

from hub_cards.formatting import format_metric
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


def test_the_readmes_ways_to_ask_a_space(space, films, run, tmp_path):
    """The snippets of the README, as they stand there, with the address of this Space."""
    (ours,) = predict(Run(run), [str(films["dicom"])])
    shutil.copyfile(films["dicom"], tmp_path / "film.dcm")
    blocks = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (python,) = (text for kind, text in blocks if kind == "python" and "gradio_client" in text)
    (shell,) = (text for kind, text in blocks if kind == "sh" and "$SPACE" in text)
    words = [sys.executable, "-c", python.replace("org/app", space)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert eval(done.stdout.strip().splitlines()[-1])["scores"] == pytest.approx(ours["scores"], abs=1e-4)
    if shutil.which("curl"):
        environment = {**os.environ, "SPACE": space}
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        told = next(line.removeprefix("data: ") for line in done.stdout.splitlines() if line.startswith("data: ["))
        assert json.loads(told)[0]["scores"] == pytest.approx(ours["scores"], abs=1e-4)


def test_an_mcp_client_finds_and_uses_the_tools(space, films):
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamablehttp_client

    film = f"data:image/png;base64,{base64.b64encode(films['png'].read_bytes()).decode()}"  # or a public address, which Gradio fetches

    async def talk():
        async with (
            streamablehttp_client(f"{space}/gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            return tools, await session.call_tool("predict_tb", {"path": film})

    tools, result = asyncio.run(talk())
    assert set(tools) == {"predict_tb", "predict_covid", "predict_batch"}
    assert all("not a medical device" in tool.description for tool in tools.values())
    assert not result.isError
    assert "Tuberculosis" in result.content[0].text


def test_four_classes(space, covid_run, films):
    theirs = Client(space, verbose=False).predict(handle_file(films["png"]), api_name="/predict_covid")
    (ours,) = predict(Run(covid_run), [str(films["png"])])
    assert list(theirs["scores"]) == ["COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"]
    assert theirs["scores"] == pytest.approx(ours["scores"], abs=1e-4)


@pytest.fixture
def facts(monkeypatch):
    """space/facts.py, imported by its bare name as the Space does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    import facts

    return facts


def test_a_tab_tells_figures_licence_and_citation(facts, run, tmp_path):
    from config import ModelSource

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
    source = ModelSource("tb", str(copy))
    shown = facts.facts_html(facts.read_facts(source), source)
    test = json.loads((copy / "metrics.json").read_text())["splits"]["test"]
    assert f"test, n = {test['n']}" in shown
    assert all(f"{test['metrics']['auroc'][key]:.3f}".removeprefix("0") in shown for key in ("value", "low", "high"))
    assert "Licence: CC BY 4.0. Doe J. 2020." in shown
    assert "A set &lt;b&gt;" in shown


@pytest.mark.parametrize("value", [0.0, 4e-12, 0.0004, 0.5, 0.9994, 0.99985, 0.9999996, 1.0])
def test_a_figure_reads_here_as_on_its_card(facts, value):
    figure = {"value": value, "low": value / 2, "high": 1.0}
    assert facts.figure_text(figure) == format_metric(figure)
    assert (facts.number_text(value) == "1.000") == (value == 1)
    assert (facts.number_text(value) == ".000") == (value == 0)


def test_a_model_without_figures_says_so(facts, tmp_path):
    from config import ModelSource

    source = ModelSource("tb", str(tmp_path))
    assert "carries no figures" in facts.facts_html(facts.read_facts(source), source)


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


def test_front_matter_and_pins():
    space = Path(__file__).parents[2] / "space"
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert {
        "title",
        "emoji",
        "colorFrom",
        "colorTo",
        "sdk",
        "sdk_version",
        "app_file",
        "license",
        "short_description",
    } <= set(front)
    assert len(front["short_description"]) <= 60
    pins = dict(
        re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)$", (space / "requirements.txt").read_text(), flags=re.MULTILINE)
    )
    tested = {
        name.lower().replace("_", "-"): pin
        for name, pin in re.findall(
            r"^([\w.-]+)==(\S+)$", (space.parent / "requirements.txt").read_text(), flags=re.MULTILINE
        )
    }
    assert front["sdk_version"] == pins["gradio"]
    assert pins == {name: tested[name] for name in pins}
    assert json.dumps(front["license"]) == '"apache-2.0"'


STUB = """
import pickle
def GPU(function):
    def lent(*words):
        print("lent")
        return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(words)))))
    return lent
"""
ASK = """
import sys
from config import ModelSource
from predictor import Predictor
answer = Predictor(ModelSource("tb", sys.argv[1]))(sys.argv[2])
print(answer.prediction["scores"], answer.heat.shape, "spaces" in sys.modules)
"""


def test_where_zerogpu_is_there_each_call_borrows_it(space_folder, run, film, tmp_path):
    told = []
    for place in (None, tmp_path):
        if place:
            (place / "spaces.py").write_text(STUB)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(space_folder), *([str(place)] if place else [])]),
        }
        words = [sys.executable, "-c", ASK, str(run), str(film)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        told.append(done.stdout.splitlines())
    assert told[1][0] == "lent"
    assert told[1][1] == told[0][0].replace("False", "True")
