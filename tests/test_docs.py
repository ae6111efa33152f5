"""README and docs: every command is one that there is, every link leads somewhere, every field of a recipe is explained."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from trainer import __version__
from trainer.cli import build_parser
from trainer.recipes import Recipe

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{name}.md" for name in ("data", "training", "evaluation", "publishing", "limits"))]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def commands(page: str) -> list[str]:
    """The commands of a page, a line each, with their comments."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("cxr ")]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_there_is(page):
    for line in commands(page):
        build_parser().parse_args(shlex.split(line, comments=True)[1:])
    for text in blocks(page, "python"):
        compile(text, page, "exec")


def test_the_readme_is_read_in_three_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/models.md"])
def test_every_link_and_file_that_is_named_is_there(page):
    text = (ROOT / page).read_text()
    linked = [name for name in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in name]
    named = re.findall(r"`((?:docs|bench|tests|trainer|space|hub_cards)/[\w/.-]+)`", text)
    assert [name for name in linked if not (ROOT / page).parent.joinpath(name).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_field_of_a_recipe_is_explained_with_its_default():
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]*)\|", (ROOT / "docs/training.md").read_text(), flags=re.MULTILINE)
    told = {name: default.strip() for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    recipe = Recipe(name="x", task="tb", backbone="x", summary="x")
    described = {"name", "task", "backbone", "summary", "note", "source"}
    assert told == {
        item.name: "" if item.name in described else str(getattr(recipe, item.name)).lower() for item in fields(Recipe)
    }


def test_the_citation_has_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"


@pytest.mark.slow
def test_the_commands_of_the_pages_run_one_after_the_other(tmp_path, monkeypatch, film):
    """All but those that are marked with what they need, on phantoms that the first page draws."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(film, "film.dcm")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for page in PAGES[1:]:
        for line in commands(page):
            if "# needs: " not in line:
                words = [sys.executable, "-m", "trainer", *shlex.split(line, comments=True)[1:]]
                done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
                assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
        if page == "docs/data.md":
            shutil.copytree("phantoms/Normal", "healthy/Normal")
            shutil.copytree("phantoms/Normal", "unlabelled")


@pytest.mark.slow
def test_the_notebook_runs_whole(tmp_path):
    """As a reader would run it, without a network; what it says of its model is true."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs/quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    texts = [
        output.get("data", {}).get("text/plain", "") for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    assert any("sensitivity" in text and "Wilson" in text for text in texts)
    assert any("'decision'" in text for text in texts)
