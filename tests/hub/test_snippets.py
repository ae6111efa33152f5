"""What the card says to copy, copied: in environments that hold only the packages that it names, from a Hub, by its id."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.hub.test_models import LICENCE

pytestmark = pytest.mark.slow


@pytest.fixture
def published(hub, cxr, marked_run, marked_phantoms, tmp_path):
    """The card of a run on the Hub, a folder with the image that it speaks of, and our own scores for that."""
    run = tmp_path / "run"
    shutil.copytree(marked_run, run)
    pushed = cxr("push", run, "--repo-id", "org/tb", *LICENCE)
    assert pushed.returncode == 0, pushed.stderr[-2000:]
    work = tmp_path / "stranger"
    work.mkdir()
    films = sorted((marked_phantoms(tmp_path / "asked", 5) / "Tuberculosis").glob("*.png"))[:8]
    answers = [json.loads(line) for line in cxr("predict", run, *films, "--json").stdout.splitlines()]
    surest = max(range(8), key=lambda index: max(answers[index]["scores"].values()))
    shutil.copyfile(films[surest], work / "radiograph.png")
    return hub.files("models", "org/tb")["README.md"].decode(), work, answers[surest]["scores"]


def install(*words: str, folder) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(words[:4])} …: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def answer(words, hub, folder) -> str:
    """What a program prints last that sees no package of ours and a cold cache."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "PYTHON", "VIRTUAL"))
    }
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env={**kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_the_python_snippets_run_with_the_packages_that_the_card_names(hub, published):
    card, work, ours = published
    (names,) = (shlex.split(words) for words in re.findall(r"`pip install ([^`]+)`", card))
    environment = work / "environment"
    install(sys.executable, "-m", "venv", str(environment), folder=work)
    install(str(environment / "bin" / "pip"), "install", "-q", *names, folder=work)
    first, native = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    said = eval(answer([environment / "bin" / "python", "-c", first], hub, work))
    assert {row["label"]: row["score"] for row in said} == pytest.approx(ours, abs=1e-4)
    scores = eval(answer([environment / "bin" / "python", "-c", native], hub, work))
    assert scores == pytest.approx(ours, abs=0.01)  # another library's resize
