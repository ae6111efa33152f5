"""A file that needs more memory than there is: its own error, and its neighbours are read, wherever many are read at once."""

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from trainer.cli import main
from trainer.cxr_model import CxrImageProcessor, RadiographError, read_radiograph
from trainer.data.pixels import decode

HUGE = (67, 71)  # stands in for an image that no memory holds


@pytest.fixture
def huge(monkeypatch, tmp_path) -> Path:
    """A file on which the decoder runs out of memory."""
    load = ImageFile.ImageFile.load

    def short_of_memory(image):
        if image.size == HUGE:
            raise MemoryError
        return load(image)

    file = tmp_path / "huge.png"
    Image.new("L", HUGE).save(file)
    monkeypatch.setattr(ImageFile.ImageFile, "load", short_of_memory)
    return file


def test_the_reader_says_what_is_short_and_of_which_file(huge):
    with pytest.raises(RadiographError, match=r"huge\.png: .*more memory than there is"):
        read_radiograph(huge)


def test_predict_answers_the_files_before_and_after_it(huge, run, film, capsys):
    assert main(["predict", str(run), str(film), str(huge), str(film), "--json"]) == 1
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert set(second) == {"file", "error"}
    assert "memory" in second["error"]
    assert first["scores"] == third["scores"]


def test_training_and_evaluation_set_it_aside(huge, film):
    files = [str(film)] * 60 + [str(huge)] + [str(film)] * 60
    rows = pd.DataFrame({"file": files, "sha256": [f"{number:064x}" for number in range(len(files))]})
    kept, images, skipped = decode(rows, CxrImageProcessor(size={"height": 16, "width": 16}))
    assert len(kept) == len(images) == 120
    assert skipped["file"].tolist() == [str(huge)]
    assert "memory" in skipped["error"].item()


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="its workers would not know this stand-in for a huge file"
)
def test_the_check_of_data_lists_it(huge, phantoms, tmp_path, capsys):
    shutil.copytree(phantoms, tmp_path / "data")
    shutil.copyfile(huge, tmp_path / "data" / "Normal" / "z-huge.png")
    main(["data", "check", str(tmp_path / "data"), "--json"])
    (found,) = json.loads(capsys.readouterr().out)["unreadable"]
    assert "z-huge.png" in found["file"]
    assert "memory" in found["error"]


def test_the_space_answers_its_neighbours(huge, run, film, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    from batch import predict_files
    from config import ModelSource
    from predictor import LOADED, Predictor

    found = predict_files(Predictor(ModelSource("tb", str(run))), [str(film), str(huge), str(film)])
    LOADED.clear()
    assert [row["file"] for row in found] == [film.name, "huge.png", f"{film.name} (2)"]
    assert "memory" in found[1]["error"]
    assert str(huge) not in found[1]["error"]
    assert found[0]["scores"] == pytest.approx(found[2]["scores"], abs=1e-5)
    assert np.isfinite(list(found[0]["scores"].values())).all()
