"""Many files at once: archives and their tricks, one bad file among good ones, tables that no spreadsheet runs."""

import csv
import io
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch
from gradio_client import Client, handle_file
from hypothesis import given
from hypothesis import strategies as st

from trainer.commands.predict import predict
from trainer.run import Run


@pytest.fixture
def parts(monkeypatch):
    """space/batch.py and space/predictor.py, imported by their bare names as the Space does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    monkeypatch.delitem(sys.modules, "predictor", raising=False)  # that of another test
    import batch
    import predictor

    return batch, predictor


class Echo:
    """Stands in for a predictor: says what it was given, in how many bytes."""

    def __call__(self, source, name):
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        prediction = {
            "file": name,
            "label": "Normal",
            "scores": {"Normal": len(content)},
            "warnings": [],
            "decision": None,
        }
        return type("Answer", (), {"prediction": prediction})


def test_files_and_archives_over_the_api(space, run, phantoms, tmp_path):
    films = sorted((phantoms / "Normal").glob("*.png"))[:3]
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.write(films[0], "ward 3/one.png")
        archive.writestr("ward 3/notes.txt", "not a film")
        archive.write(films[1], "../../two.png")
        archive.writestr("__MACOSX/._one.png", "x")
    files = [handle_file(tmp_path / "films.zip"), handle_file(films[2])]
    answers = Client(space, verbose=False).predict("Tuberculosis", files, api_name="/predict_batch")
    assert [row["file"] for row in answers] == ["ward 3/one.png", "ward 3/notes.txt", "two.png", films[2].name]
    assert ["error" in row for row in answers] == [False, True, False, False]
    for row, expected in zip(
        (answers[0], answers[2], answers[3]), predict(Run(run), list(map(str, films))), strict=True
    ):
        assert row["scores"] == pytest.approx(expected["scores"], abs=1e-4)


def test_tricks_of_archives_are_told_and_stop_nothing(parts, tmp_path):
    batch, _ = parts
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep.png", b"deep")
    with zipfile.ZipFile(tmp_path / "tricks.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", b"good")
        archive.writestr("bomb.png", b"\0" * 30_000_000)
        archive.writestr("inner.zip", inner.getvalue())
        archive.writestr("damaged.png", bytes(range(256)) * 40)
        archive.writestr("last.png", b"last!")
    content = bytearray((tmp_path / "tricks.zip").read_bytes())
    place = content.index(b"damaged.png") + len("damaged.png")
    content[place : place + 40] = b"\xff" * 40
    (tmp_path / "tricks.zip").write_bytes(content)
    (tmp_path / "empty.zip").write_bytes(b"PK\x05\x06" + b"\0" * 18)
    told = []
    answers = batch.predict_files(Echo(), [str(tmp_path / "tricks.zip"), str(tmp_path / "empty.zip")], told.append)
    assert [row["file"] for row in answers] == [
        *(f"tricks.zip/{name}" for name in ("good.png", "bomb.png", "inner.zip", "damaged.png", "last.png")),
        "empty.zip",
    ]
    assert ["error" in row for row in answers] == [False, True, True, True, False, True]
    assert "too large" in answers[1]["error"]
    assert "archive within an archive" in answers[2]["error"]
    assert told[-1] == (6, 6)
    assert not list(tmp_path.glob("**/good.png"))  # nothing was unpacked


def test_what_a_computer_leaves_in_archives_is_left_out_and_counted(parts, tmp_path):
    batch, _ = parts
    litter = ("__MACOSX/._one.png", "ward/Thumbs.db", "ward\\desktop.ini", ".DS_Store", "@eaDir/one.png/thumb.jpg")
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for name in ("ward/one.png", "two.png", *litter):
            archive.writestr(name, b"film")
    with zipfile.ZipFile(tmp_path / "litter.zip", "w") as archive:
        archive.writestr("Thumbs.db", b"")
    paths = [str(tmp_path / name) for name in ("films.zip", "litter.zip")]
    answers = batch.predict_files(Echo(), paths)
    assert [row["file"] for row in answers] == ["films.zip/ward/one.png", "films.zip/two.png", "litter.zip"]
    assert "holds no file" in answers[-1]["error"]
    assert batch.count_litter(paths) == 6


def test_a_member_that_no_memory_holds_is_told_and_stops_nothing(parts, tmp_path, monkeypatch):
    batch, _ = parts
    read = zipfile.ZipExtFile.read

    def short_of_memory(stream, size=-1):
        if stream.name == "huge.png":
            raise MemoryError
        return read(stream, size)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", short_of_memory)
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for name in ("one.png", "huge.png", "two.png"):
            archive.writestr(name, b"film")
    answers = batch.predict_files(Echo(), [str(tmp_path / "films.zip")])
    assert ["error" in row for row in answers] == [False, True, False]
    assert "memory" in answers[1]["error"]


def test_each_film_has_a_name_of_its_own(parts, tmp_path):
    """PACS exports name the files of every patient alike."""
    batch, _ = parts
    members = ("PAT1/IM0001", "PAT2\\IM0001", "PAT2/IM0001", "../PAT3/./IM0001", "IM0001 (2)", "PAT4/.hidden", "/")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "IM0001").write_bytes(b"film")
        with zipfile.ZipFile(tmp_path / folder / "export.zip", "w") as archive:
            for number, member in enumerate(members):
                archive.writestr(member, b"x" * number)
    one, two, first, second = (
        str(tmp_path / name) for name in ("a/IM0001", "b/IM0001", "a/export.zip", "b/export.zip")
    )
    named = ["PAT1/IM0001", "PAT2/IM0001", "PAT2/IM0001 (2)", "PAT3/IM0001", "IM0001 (2)"]
    answers = batch.predict_files(Echo(), [first, one, two])
    assert [row["file"] for row in answers] == [*named, "IM0001", "IM0001 (3)"]
    assert [row["scores"]["Normal"] for row in answers] == [0, 1, 2, 3, 4, 4, 4]
    rows = csv.DictReader(io.StringIO(batch.to_csv(answers, ["Normal"])))
    assert [row["file"] for row in rows] == [row["file"] for row in answers]
    both = [row["file"] for row in batch.predict_files(Echo(), [first, second])]
    assert both[:5] == [f"export.zip/{name}" for name in named]
    assert len(set(both)) == 10


def test_no_more_than_so_many(parts, tmp_path, monkeypatch):
    batch, _ = parts
    monkeypatch.setattr(batch, "MOST_FILES", 3)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(9):
            archive.writestr(f"{number}.png", b"film")
    answers = batch.predict_files(Echo(), [str(tmp_path / "many.zip")])
    assert ["error" in row for row in answers] == [False, False, False, True]
    assert "no more than 3 files" in answers[3]["error"]


@given(st.text(), st.text())
def test_no_cell_is_a_formula(name, error):
    sys.path.insert(0, str(Path(__file__).parents[2] / "space"))
    try:
        from batch import FORMULA, to_csv
    finally:
        sys.path.pop(0)
    text = to_csv(
        [{"file": name, "error": error}, {"file": "=1+1", "label": "Normal", "scores": {"Normal": 0.5}}], ["Normal"]
    )
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[1]["file"] == "'=1+1"
    assert float(rows[1]["p:Normal"]) == 0.5
    assert not any(cell.startswith(FORMULA) for row in rows for cell in row.values())


def test_those_that_wait_share_a_pass_and_an_error_is_theirs_alone(parts):
    _, predictor = parts
    passes, gate = [], threading.Event()

    def run(pictures):
        gate.wait(5)
        passes.append(len(pictures))
        if pictures.min() < 0 or (pictures.max() > 90 and len(pictures) > 1):  # a bad one; one more than memory holds
            raise RuntimeError("no")
        return [int(picture.sum()) for picture in pictures]

    together = predictor.SharedPass(run, most=8)
    found: dict[int, object] = {}

    def ask(number):
        try:
            found[number] = together(torch.full((2, 2), number))
        except RuntimeError as error:
            found[number] = str(error)

    def ask_together(numbers):
        gate.clear()
        threads = [threading.Thread(target=ask, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        gate.set()
        for thread in threads:
            thread.join()

    ask_together(range(20))
    assert found == {number: 4 * number for number in range(20)}
    assert sum(passes) == 20
    assert len(passes) <= 4
    assert max(passes) <= 8
    ask_together((30, 31, -1, 99))
    assert [found[number] for number in (30, 31, -1, 99)] == [120, 124, "no", 396]
    ask(-1)
    assert found[-1] == "no"
    ask(5)
    assert found[5] == 20


def test_names_within_archives_show_what_they_are(parts, tmp_path):
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for name in ("a\x1b[2J\u202egnp.exe.png", "a[2Jgnp.exe.png", "two\nlines.png"):
            archive.writestr(name, b"film")
    answers = parts[0].predict_files(Echo(), [str(tmp_path / "films.zip")])
    assert [row["file"] for row in answers] == ["a[2Jgnp.exe.png", "a[2Jgnp.exe.png (2)", "twolines.png"]


def test_a_cut_off_archive_is_called_incomplete(parts, tmp_path, film):
    batch, _ = parts
    whole, cut = tmp_path / "whole.zip", tmp_path / "cut.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.write(film, "film.png")
    cut.write_bytes(whole.read_bytes()[:-60])
    (answer,) = batch.predict_files(None, [str(cut)])
    assert answer == {"file": "cut.zip", "error": "this archive is damaged or incomplete: send it again"}
