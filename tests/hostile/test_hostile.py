"""One hostile file of each kind: refused in a sentence that names it, or read; `make hostile` has all, timed."""

import os
import re
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.hostile.files import FILM, KINDS, VALID, jpeg_header, saved
from trainer.cli import main
from trainer.cxr_model import RadiographError, read_radiograph, reader_cxr
from trainer.cxr_model.bounds_cxr import jpeg_size

READ = {  # odd, but films
    *("one-pixel", "one-row", "png-animated", "jpeg-exif-bomb", "gif-frames", "dicom-deflated", "tiff-lab"),
    *("dicom-many-frames", "dicom-lut-lies", "dicom-huge-numbers"),
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


def test_predict_answers_the_films_between_hostile_ones(run, film, tmp_path, capsys):
    files = []
    for name in ("dicom-name-length-lies", "dicom-many-items", "tiff-strips", "jpeg2000-lies", "pgm-plain", "empty"):
        (tmp_path / name).write_bytes(KINDS[name]())
        files += [str(tmp_path / name), str(film)]
    os.mkfifo(tmp_path / "pipe.dcm")
    assert main(["predict", str(run), *files, str(tmp_path / "pipe.dcm"), str(film)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(str(film)) for line in lines) == 7
