"""Near copies are found whatever was done to them, and other images are not called copies."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer.data.copies import NEIGHBOURS, find_copies
from trainer.data.phantom import draw_phantom

ORIGINALS = 24


def jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


def marked(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((12, 12), "PORTABLE 2020-01-31", fill=255)
    return image


CHANGES = {
    "re-encoded": jpeg,
    "scaled": lambda image: image.resize((130, 130)),
    "squashed": lambda image: image.resize((300, 220)),
    "cropped": lambda image: image.crop((10, 6, 308, 312)),
    "framed": lambda image: Image.fromarray(np.pad(np.asarray(image), ((0, 14), (9, 3)))),
    "darker": lambda image: image.point(lambda value: 255 * (value / 255) ** 1.6),
    "flatter": lambda image: image.point(lambda value: 60 + 0.5 * value),
    "marked": marked,
}


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    rng = np.random.default_rng(4)
    return [
        Image.fromarray(draw_phantom(("Normal", "Tuberculosis")[index % 2], rng).pixels) for index in range(ORIGINALS)
    ]


def small(images) -> np.ndarray:
    return np.stack([np.asarray(image.resize((96, 96), Image.Resampling.BILINEAR)) for image in images])


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(originals, change):
    changed = [CHANGES[change](originals[index]) for index in range(3)]
    found = find_copies(small([*originals, *changed]))
    assert set(found.index_pairs) == {(index, ORIGINALS + index) for index in range(3)}
    assert all(0.9 <= score <= 1.001 for _, _, score in found.pairs)


def test_empty_pictures_are_copies_of_nothing(originals):
    blank = Image.new("L", (96, 96), 0)
    assert find_copies(small([*originals[:4], blank, blank])) == ([], True)


def test_one_picture_alone():
    assert find_copies(np.zeros((1, 96, 96), np.uint8)) == ([], True)


def test_a_search_that_stops_at_its_bound_says_so(originals):
    many = small([originals[0].crop((shift, 0, 310, 315)) for shift in range(NEIGHBOURS + 2)])
    found = find_copies(many)
    assert not found.complete
    assert "may be more" in found.note[0]
    assert find_copies(many[:2]).note == []
