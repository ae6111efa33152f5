"""Which models this Space serves: read from models.toml and the environment, never from a visitor."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TASKS = ("tb", "covid", "three-class")
COMMIT = re.compile(r"[0-9a-f]{40}")


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
    unknown = sorted(set(entries) - set(TASKS))
    if unknown:
        raise ModelError(f"{file.name}: unknown entry {', '.join(unknown)}; expected {', '.join(TASKS)}")
    sources = []
    for task in TASKS:
        variable = f"CXR_{task.upper().replace('-', '_')}"
        if environment.get(variable):
            model, _, revision = environment[variable].partition("@")
            sources.append(_checked(task, model, revision or None, Path.cwd(), variable))
        elif task in entries:
            sources.append(
                _checked(task, entries[task].get("model", ""), entries[task].get("revision"), file.parent, file.name)
            )
    if not sources:
        raise ModelError(
            f"no model is named: fill in {file.name}, or set CXR_TB, CXR_COVID or CXR_THREE_CLASS to a run's folder "
            "or to org/name@revision"
        )
    return sources


def _checked(task: str, model: str, revision: str | None, base: Path, where: str) -> ModelSource:
    folder = base / model
    if model and folder.is_dir():
        return ModelSource(task, str(folder))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ModelError(f"{where}: {model!r} is neither a folder nor org/name")
    if not COMMIT.fullmatch(revision or ""):
        raise ModelError(
            f"{where}: {model} is no folder here; a Hub id needs its revision, the 40 hexadecimal digits of a commit"
        )
    return ModelSource(task, model, revision)
