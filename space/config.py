"""Which models this Space serves: read from models.toml and the environment, never from a visitor."""

import atexit
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

TASKS = {"tb": "Tuberculosis", "covid": "COVID-19, four classes", "three-class": "COVID-19 or pneumonia"}
# As the package `spaces` reads it; that package alone says nothing: every Gradio Space on the Hub has it.
ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


class ModelError(Exception):
    """A model that cannot be served; the message says what to do."""


@dataclass(frozen=True)
class ModelSource:
    """A folder, or a Hub id with its commit."""

    task: str
    model: str
    revision: str | None = None


def read_sources(file: Path, environment: Mapping[str, str]) -> list[ModelSource]:
    """The models of models.toml, each replaced by CXR_<TASK> where that is set.

    Raises:
        ModelError: no model at all, an entry that cannot be read, or a Hub id without a commit.
    """
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"{file.name} is not TOML: {error}") from error
    if unknown := sorted(set(entries) - set(TASKS)):
        raise ModelError(f"{file.name}: unknown entry {', '.join(unknown)}; expected {', '.join(TASKS)}")
    sources = []
    for task in TASKS:
        variable = f"CXR_{task.upper().replace('-', '_')}"
        if environment.get(variable):
            model, _, revision = environment[variable].partition("@")
            sources.append(_checked(ModelSource(task, model, revision), Path.cwd(), variable))
        elif entry := entries.get(task):
            source = ModelSource(task, entry.get("model", ""), entry.get("revision"))
            sources.append(_checked(source, file.parent, file.name))
    if not sources:
        raise ModelError(
            f"no model is named: fill in {file.name}, or set CXR_TB, CXR_COVID or CXR_THREE_CLASS to a run's folder "
            "or to org/name@revision"
        )
    return sources


def _checked(source: ModelSource, base: Path, where: str) -> ModelSource:
    if source.model and (folder := base / source.model).is_dir():
        return ModelSource(source.task, str(folder))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source.model):
        raise ModelError(f"{where}: {source.model!r} is neither a folder nor org/name")
    if not re.fullmatch("[0-9a-f]{40}", source.revision or ""):
        raise ModelError(
            f"{where}: {source.model} is no folder here; a Hub id needs its revision, the 40 hexadecimal digits of a "
            "commit"
        )
    return source


def ensure_writable_cache(sources: list[ModelSource]) -> None:
    """Where the Hugging Face cache cannot be written, use a temporary one; what it holds of these models is copied.

    Call it before transformers is imported.
    """
    hub = Path(constants.HF_HUB_CACHE)
    try:
        for folder in (hub, Path(os.environ.get("HF_MODULES_CACHE") or Path(constants.HF_HOME, "modules"))):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        return
    except OSError as error:
        print(f"no Hugging Face cache, and a temporary one instead: {error}", file=sys.stderr)
    cache = Path(tempfile.mkdtemp(prefix="cxr-space-cache-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    for name in (f"models--{source.model.replace('/', '--')}" for source in sources if source.revision):
        if os.access(hub / name, os.R_OK):
            shutil.copytree(hub / name, cache / "hub" / name, symlinks=True)
    paths = {f"HF_{name.upper()}_CACHE": str(cache / name) for name in ("hub", "xet", "modules")}
    if not os.access(constants.HF_TOKEN_PATH, os.R_OK):
        paths["HF_TOKEN_PATH"] = str(cache / "token")  # no token, rather than an error of whatever looks for one
    os.environ.update(paths)  # of the models' process
    for name in paths:
        setattr(constants, name, paths[name])  # of this process, which imported them already
