"""One hostile file of each kind: refused in a sentence that names it, or read; `make hostile` has all, timed."""

import json
import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import QUICK
from tests.hostile import more_files  # noqa: F401  it names more kinds
from tests.hostile.files import FILM, KINDS, VALID, jpeg_header, saved
from trainer.cli import main
from trainer.cxr_model import RadiographError, read_radiograph, reader_cxr
from trainer.cxr_model.bounds_cxr import jpeg_size

READ = {  # odd, but films
    *("one-pixel", "one-row", "png-animated", "jpeg-exif-bomb", "gif-frames", "dicom-deflated", "tiff-lab"),
    *("dicom-many-frames", "dicom-lut-lies", "dicom-huge-numbers", "exif-directory-that-is-its-own-next"),
    *("exif-counts-that-lie", "exif-turned-nine-ways", "exif-in-png-that-is-cut-off", "icc-of-255-parts"),
    *("icc-that-lies", "jpeg-comment-of-html", "jpeg-of-60000-tables", "jpeg-of-many-images"),
    *("png-without-its-palette", "png-frames-that-lie", "png-chunk-longer-than-the-file", "webp-animated"),
    *("gif-and-archive", "gif-frame-outside-its-screen", "tiff-fax-bomb", "dicom-and-tiff", "dicom-and-program"),
    *("dicom-of-64-bits", "dicom-in-dicom", "dicom-text-of-a-megabyte", "dicom-of-the-wrong-codec"),
}
HEAVY = {  # seconds to make or to read: in `make hostile`
    *(
        "png-bomb",
        "png-large",
        "png-large-16",
        "png-many-chunks",
        "jpeg-large",
        "jpeg-cmyk-large",
        "jpeg-scans",
        "jpeg-scans-large",
    ),
    *("webp-large", "jpeg2000-large", "tiff-deflate-bomb", "dicom-rle-bomb", "dicom-large-rgb", "dicom-large-16"),
    *("dicom-deflate-bomb", "dicom-jpeg-scans", "tiff-pages", "tiff-long-entry", "png-text-bomb", "png-icc-bomb"),
}
SAID = re.compile(r"^the bytes given: .{5,200}$")


def is_read_or_refused(content: bytes) -> bool:
    """Whether bytes are an image, or refused in a sentence."""
    try:
        return read_radiograph(content).pixels.ndim == 2
    except RadiographError as error:
        return bool(SAID.match(str(error)))


@pytest.mark.parametrize("name", sorted(set(KINDS) - HEAVY))
def test_one_of_each_kind(name):
    content = KINDS[name]()
    if name in READ:
        assert read_radiograph(content).pixels.dtype == np.uint8
        return
    with pytest.raises(RadiographError, match=SAID):
        read_radiograph(content)


@pytest.mark.parametrize("name", sorted(VALID))
def test_the_valid_files_that_they_are_made_of_are_read(name):
    assert read_radiograph(VALID[name]()).pixels.shape == (64, 48)


@pytest.mark.parametrize("file_format", ["JPEG", "JPEG2000"])
def test_what_is_larger_than_any_model_needs_is_read_at_half_its_sides(file_format, monkeypatch):
    film = Image.fromarray(np.linspace(20, 230, 64 * 48).reshape(64, 48).astype(np.uint8))
    whole = read_radiograph(saved(film, file_format)).pixels
    monkeypatch.setattr(reader_cxr, "LARGE", 64 * 48 - 1)
    small = read_radiograph(saved(film, file_format)).pixels
    assert small.shape == (32, 24)
    assert np.abs(small.astype(int) - whole.reshape(32, 2, 24, 2).mean(axis=(1, 3))).max() < 12


def test_a_thumbnail_in_the_exif_of_a_jpeg_is_not_its_size():
    inner = jpeg_header(9, 9)
    whole = saved(Image.fromarray(FILM), "JPEG", exif=b"Exif\0\0" + inner)
    assert jpeg_size(whole) == (48, 64)
    assert read_radiograph(whole).pixels.shape == (64, 48)


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(content):
    assert is_read_or_refused(content)


@given(st.data())
def test_any_mutated_file_is_read_or_refused(data):
    content = bytearray(VALID[data.draw(st.sampled_from(sorted(VALID)))]())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert is_read_or_refused(bytes(content))


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "socket.png"))
        for name in (tmp_path / "pipe.png", tmp_path / "socket.png", "/dev/zero"):
            with pytest.raises(RadiographError, match="not a regular file"):
                read_radiograph(name)


@pytest.fixture
def among_films(phantoms, tmp_path):
    """The phantoms, and beside them a file of each kind that is not heavy; all called radiographs."""
    folder = tmp_path / "films"
    shutil.copytree(phantoms, folder)
    for name in set(KINDS) - HEAVY:
        (folder / "Normal" / f"{name}.png").write_bytes(KINDS[name]())
    return folder


def test_check_names_each_that_cannot_be_read_and_finds_the_films(among_films, capsys):
    assert main(["data", "check", str(among_films), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    refused = {Path(case["file"]).stem for case in report["unreadable"]}
    without_image = {Path(file).stem for file in report["not_images"]}  # as a report or an index is
    assert refused | without_image == set(KINDS) - HEAVY - READ
    assert report["images"] == 48 + len(set(KINDS) - HEAVY) - len(without_image)
    assert not any("Traceback" in case["error"] or "\n" in case["error"] for case in report["unreadable"])


def test_training_and_evaluation_set_a_few_aside(phantoms, tmp_path, capsys):
    films = tmp_path / "films"
    shutil.copytree(phantoms, films)
    for name in ("dicom-jpeg-ls-claims-65500", "tiff-strips", "jpeg2000-lies"):
        (films / "Normal" / f"{name}.png").write_bytes(KINDS[name]())
    assert main(["train", "tb-finetuned", "--data", str(films), "--output", str(tmp_path / "run"), *QUICK]) == 0
    assert "3 files cannot be read and are set aside" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(films), "--split", "external"]) == 0


def test_too_many_end_a_training_with_their_names(phantoms, tmp_path, capsys):
    films = tmp_path / "films"
    shutil.copytree(phantoms, films)
    for name in ("tiff-strips", "jpeg2000-lies", "text", "one-byte"):
        (films / "Normal" / f"{name}.png").write_bytes(KINDS[name]())
    assert main(["train", "tb-finetuned", "--data", str(films), "--output", str(tmp_path / "run"), *QUICK]) == 1
    assert "files cannot be read (at most 5% or 3 files may be)" in capsys.readouterr().err


def test_predict_answers_the_films_between_hostile_ones(run, film, tmp_path, capsys):
    files = []
    for name in ("dicom-name-length-lies", "dicom-many-items", "tiff-strips", "jpeg2000-lies", "pgm-plain", "empty"):
        (tmp_path / name).write_bytes(KINDS[name]())
        files += [str(tmp_path / name), str(film)]
    os.mkfifo(tmp_path / "pipe.dcm")
    assert main(["predict", str(run), *files, str(tmp_path / "pipe.dcm"), str(film)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(str(film)) for line in lines) == 7
