"""A Space that really runs: a copy of space/ alone, in a process of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SPACE = Path(__file__).parents[2] / "space"
FRONT_MATTER = {  # of a Space's README.md
    "type": "object",
    "required": [
        *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "license"),
        *("short_description", "models"),
    ],
    "properties": {
        "sdk": {"const": "gradio"},
        "sdk_version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "python_version": {"enum": ["3.10", "3.12"]},  # those that ZeroGPU has
        "short_description": {"type": "string", "maxLength": 60},
        "suggested_hardware": {"enum": ["cpu-basic", "zero-a10g"]},
        "models": {"type": "array", "items": {"type": "string", "pattern": "^[^/]+/[^/]+$"}, "minItems": 1},
        "preload_from_hub": {"type": "array", "items": {"type": "string", "pattern": r"^\S+/\S+ \S+ [0-9a-f]{40}$"}},
    },
}


@pytest.fixture(scope="session")
def space_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deployed") / "space"
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def run(marked_run) -> Path:
    """One that has learned something: an untrained network's familiarity is that of rounding."""
    return marked_run


@contextmanager
def serve(folder: Path, settings: dict[str, str], uploads: Path) -> Iterator[str]:
    """The address of the app in `folder`, which sees nothing of this repository."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        **settings,
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(uploads),
        "PYTHONPATH": "",
        "PYTHONSAFEPATH": "",
    }
    log = (uploads.parent / "space.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process, Path(log.name))
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


@pytest.fixture(scope="session")
def space_uploads(tmp_path_factory) -> Path:
    """Where the Space's folder of uploads lies."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def space(space_folder, run, covid_run, space_uploads, tmp_path_factory):
    """Its address: TB and COVID are served, the third model does not load. Only what the folder brings along is there,
    and its Hugging Face home cannot be written.
    """
    broken = tmp_path_factory.mktemp("broken")
    shutil.copyfile(run / "config.json", broken / "config.json")
    settings = {"CXR_TB": str(run), "CXR_COVID": str(covid_run), "CXR_THREE_CLASS": str(broken)}
    settings["HF_HOME"] = "/dev/null/home"
    with serve(space_folder, settings, space_uploads) as address:
        yield address


def _wait(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    pytest.fail(f"the Space did not start: {log.read_text()}")


@pytest.fixture(scope="session")
def films(film, tmp_path_factory, dicom_of) -> dict[str, Path]:
    """One film as 8-bit and 16-bit PNG, as DICOM; and a file that is none."""
    folder = tmp_path_factory.mktemp("films")
    grey = np.asarray(Image.open(film))
    paths = {"png": film, "deep": folder / "deep.png", "dicom": folder / "film.dcm", "text": folder / "text.png"}
    Image.fromarray(grey.astype(np.uint16) * 257).save(paths["deep"])
    dicom_of(grey, bits=8).save_as(paths["dicom"], enforce_file_format=True)
    paths["text"].write_text("not a film")
    return paths
