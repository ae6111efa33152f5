"""The Space goes to the Hub with its models pinned, and what was pushed serves them."""

import json
import tomllib

import jsonschema
import pytest
import yaml
from gradio_client import Client, handle_file

from tests.hub.test_models import LICENCE, finished  # noqa: F401  a fixture
from tests.space.conftest import FRONT_MATTER, serve
from trainer.commands.predict import predict
from trainer.run import Run, load_run
from trainer.tasks import TASKS


def test_a_pushed_space_is_pinned_and_answers(hub, cxr, finished, film, tmp_path):  # noqa: F811
    environment = json.loads((finished / "environment.json").read_text())
    (finished / "environment.json").write_text(json.dumps({**environment, "dataset": "org/films"}))
    assert cxr("push", finished, "--repo-id", "org/tb", *LICENCE).returncode == 0
    commit = hub.head("models", "org/tb")
    words = ("push-space", "--repo-id", "org/app", "--tb", "org/tb@main")
    dry = cxr(*words, "--dry-run")
    assert (dry.returncode, "nothing was sent" in dry.stdout, "spaces/org/app" in hub.commits) == (0, True, False)
    pushed = cxr(*words)
    assert pushed.returncode == 0, pushed.stderr[-3000:]
    assert len(hub.commits["spaces/org/app"]) == 2
    assert cxr(*words).returncode == 0
    assert len(hub.commits["spaces/org/app"]) == 2  # nothing had changed
    files = hub.files("spaces", "org/app")
    assert tomllib.loads(files["models.toml"].decode()) == {"tb": {"model": "org/tb", "revision": commit}}
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    jsonschema.validate(front, FRONT_MATTER)
    assert {"page.css", "page.js", "templates/answer.html"} <= set(files)
    assert front["models"] == ["org/tb"]
    assert front["datasets"] == ["org/films"]
    assert all("==" in line or "<=" in line for line in files["requirements.txt"].decode().split())
    (preloaded,) = front["preload_from_hub"]
    assert {"model.safetensors", "modeling_cxr.py", "config.json"} <= set(preloaded.split()[1].split(","))
    folder = tmp_path / "space"
    (tmp_path / "uploads").mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    cold = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "visitor"), "HF_HUB_OFFLINE": "0"}
    with serve(folder, cold, tmp_path / "uploads") as address:
        answer = Client(address, verbose=False).predict(handle_file(film), api_name="/predict_tb")
    (home,) = predict(Run(finished), [str(film)])
    assert answer["scores"] == pytest.approx(home["scores"], abs=1e-5)


def test_a_space_without_a_model_is_refused(hub, cxr):
    none = cxr("push-space", "--repo-id", "org/app")
    assert (none.returncode, "--tb" in none.stderr) == (2, True)
    unknown = cxr("push-space", "--repo-id", "org/app", "--tb", "org/nothing")
    assert (unknown.returncode, "Traceback" in unknown.stderr, hub.commits) == (1, False, {})


@pytest.mark.slow  # its halves are above and in tests/test_shipped.py
def test_the_models_that_ship_go_to_the_hub_and_are_served_from_there(hub, cxr, film, tmp_path):
    words = ["push-space", "--repo-id", "org/app"]
    for task in TASKS:
        pushed = cxr("push", task, "--repo-id", f"org/{task}")  # the licence ships with them
        assert pushed.returncode == 0, pushed.stderr[-3000:]
        words += [f"--{task}", f"org/{task}"]
    assert cxr(*words).returncode == 0
    folder = tmp_path / "space"
    folder.mkdir()
    (tmp_path / "uploads").mkdir()
    for name, content in hub.files("spaces", "org/app").items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    cold = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "visitor"), "HF_HUB_OFFLINE": "0"}
    with serve(folder, cold, tmp_path / "uploads") as address:
        client = Client(address, verbose=False)
        for task in TASKS:
            answer = client.predict(handle_file(film), api_name=f"/predict_{task.replace('-', '_')}")
            (home,) = predict(load_run(task), [str(film)])
            assert answer["scores"] == pytest.approx(home["scores"], abs=1e-4)
