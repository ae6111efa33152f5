"""Who may enter whom: the arrows of the design."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("data", "training", "evaluation")


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def enters(folder: str, *forbidden: str) -> list[str]:
    files = [file for file in (ROOT / folder).rglob("*.py") if ".venv" not in file.parts]
    assert files, f"{folder} is empty"
    return [
        f"{file.name} -> {name}"
        for file in files
        for name in imports(file)
        if name.split(".")[0] in forbidden or name.startswith(forbidden)
    ]


def test_space_meets_the_others_only_through_a_run():
    assert enters("space", "trainer", "hub_cards") == []


def test_hub_cards_reads_a_run_and_imports_nothing_of_the_trainer():
    assert enters("hub_cards", "trainer", "space") == []


def test_trainer_never_enters_the_space():
    assert enters("trainer", "space") == []


def test_the_code_that_travels_imports_nothing_of_the_rest():
    outside = {"trainer.cxr_model"}
    wrong = [
        name
        for file in (ROOT / "trainer/cxr_model").glob("*.py")
        for name in imports(file)
        if name.split(".")[0] in ("trainer", "hub_cards", "space") and not any(name.startswith(ok) for ok in outside)
    ]
    assert wrong == []


def test_the_code_that_travels_stays_small():
    assert sum(len(file.read_text().splitlines()) for file in (ROOT / "trainer/cxr_model").glob("*.py")) <= 1000


@pytest.mark.parametrize("place", range(len(ORDER)))
def test_data_flows_one_way(place):
    later = [f"trainer.{room}" for room in ORDER[place + 1 :]] + ["trainer.workflow", "trainer.cli", "trainer.run"]
    assert enters(f"trainer/{ORDER[place]}", *later) == []


def test_the_trainer_never_runs_remote_code():
    for file in (ROOT / "trainer").rglob("*.py"):
        assert "trust_remote_code" not in file.read_text() or file.name == "modeling_cxr.py", file


def test_an_import_of_another_room_would_be_seen(tmp_path):
    assert "trainer.run" in imports(ROOT / "trainer/workflow.py")
    assert "trainer.cxr_model.configuration_cxr" in imports(ROOT / "trainer/cxr_model/modeling_cxr.py")
