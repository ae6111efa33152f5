"""Who may import whom, and how large a file may grow: docs/architecture.md as a test."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Imports go down only: a room imports rooms that stand before its own layer, and no room of its own layer.
LAYERS = (
    ("errors", "hardware"),
    ("tasks", "recipes", "files", "cxr_model"),
    ("shipped",),
    ("data", "run"),
    ("export", "inference"),
    ("training", "evaluation"),
    ("finish", "adaptation"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
LAYER = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
LONGEST_FILE, LONGEST_FUNCTION = 300, 45


def source_files(*folders: str) -> list[Path]:
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")) if ".venv" not in file.parts]
    assert files, f"{folders} are empty"
    return files


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    """Modules and names that a file imports, inside of functions too."""
    names: set[str] = set()
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def room(module: str) -> str:
    """`trainer.data.split` -> `data`; the package itself is the API, which stands above all."""
    return module.split(".")[1] if "." in module else "api"


@pytest.mark.parametrize("file", source_files("trainer"), ids=lambda file: str(file.relative_to(ROOT / "trainer")))
def test_imports_go_down_only(file):
    own = room(module_name(file))
    if own == "api":
        return
    for name in imports(file):
        if name.startswith("trainer.") and (other := room(name)) in LAYER and other != own:
            assert LAYER[other] < LAYER[own], f"{own} imports {name}"


def test_no_circle_between_files():
    files = {module_name(file): file for file in source_files("trainer", "hub_cards")}
    graph = {
        name: {found for found in imports(file) if found in files and found != name} for name, file in files.items()
    }
    del graph["trainer"]  # the API names its modules lazily
    list(TopologicalSorter({name: needs - {"trainer"} for name, needs in graph.items()}).static_order())


def test_hub_cards_and_space_meet_the_trainer_only_through_a_run():
    for folder, others in (("hub_cards", ("trainer", "space")), ("space", ("trainer", "hub_cards"))):
        wrong = [
            (file.name, name) for file in source_files(folder) for name in imports(file) if name.split(".")[0] in others
        ]
        assert wrong == []


def test_trainer_never_imports_the_space():
    space = {file.stem for file in source_files("space")} | {"space"}
    assert [name for file in source_files("trainer") for name in imports(file) if name.split(".")[0] in space] == []


def test_the_code_that_travels_imports_nothing_of_the_rest():
    for file in source_files("trainer/cxr_model"):
        outside = {name for name in imports(file) if name.split(".")[0] in ("trainer", "hub_cards", "space")}
        assert all(name.startswith("trainer.cxr_model") for name in outside), file


def test_the_code_that_travels_stays_small():
    """Who loads a model can read what runs."""
    assert sum(len(file.read_text().splitlines()) for file in source_files("trainer/cxr_model")) < 1910


def test_hub_cards_writes_nothing():
    for file in source_files("hub_cards"):
        assert not {"write_text", "write_bytes", "replace_file"} & {
            node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)
        }, file


def test_the_trainer_never_runs_remote_code():
    for file in source_files("trainer"):
        words = re.findall(r"trust_remote_code(?!=False)", file.read_text())  # a ban keeps transformers from asking
        assert not words or file.name == "modeling_cxr.py", file


@pytest.mark.parametrize(
    "file", source_files("trainer", "hub_cards", "space"), ids=lambda file: str(file.relative_to(ROOT))
)
def test_files_and_functions_stay_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_an_import_of_another_room_would_be_seen():
    assert "trainer.inference" in imports(ROOT / "trainer/finish.py")
    assert "trainer.cxr_model.configuration_cxr" in imports(ROOT / "trainer/cxr_model/modeling_cxr.py")
