"""Images that are no chest radiographs, of many kinds: what a familiarity score is measured against.

Photographs and their crops (scikit-learn's and scikit-image's bundled ones), charts, documents, screenshots, noise,
textures, drawn hands, skulls and long bones as films. `make(seed, kind)` gives one, uint8 [H, W] or [H, W, 3].
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Array = np.ndarray
PHOTOGRAPHS = (
    "astronaut",
    "camera",
    "cat",
    "coffee",
    "coins",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
)
SURFACES = ("brick", "grass", "gravel")
WORDS = [
    "the",
    "of",
    "patient",
    "report",
    "total",
    "value",
    "error",
    "open",
    "file",
    "date",
    "left",
    "right",
    "name",
    "sum",
    "net",
    "table",
    "figure",
    "month",
    "per",
    "rate",
    "see",
    "page",
]


def make(seed: int, kind: str) -> Array:
    """One image of a kind."""
    return KINDS[kind](np.random.default_rng([seed, list(KINDS).index(kind)]))


@cache
def _photographs() -> list[Array]:
    import skimage.data
    from sklearn.datasets import load_sample_images

    return [*(getattr(skimage.data, name)() for name in PHOTOGRAPHS), *load_sample_images().images]


@cache
def _surfaces() -> list[Array]:
    import skimage.data

    return [getattr(skimage.data, name)() for name in SURFACES]


def _photograph(rng: np.random.Generator) -> Array:
    """A crop of a photograph, at times grey, mirrored or turned."""
    picture = _photographs()[rng.integers(len(_photographs()))]
    height, width = picture.shape[:2]
    side = int(min(height, width) * rng.uniform(0.25, 1))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    cut = np.rot90(picture[top : top + side, left : left + side], rng.integers(4) if rng.random() < 0.3 else 0)
    cut = cut[:, ::-1] if rng.random() < 0.5 else cut
    grey = rng.random() < 0.5 and cut.ndim == 3
    return np.asarray(Image.fromarray(np.ascontiguousarray(cut)).convert("L")) if grey else np.ascontiguousarray(cut)


def _texture(rng: np.random.Generator) -> Array:
    """A bundled surface, or stripes, rings or a chequered board."""
    if rng.random() < 0.5:
        surface = _surfaces()[rng.integers(len(_surfaces()))]
        side = rng.integers(100, 500)
        top, left = rng.integers(0, 512 - side, 2)
        return surface[top : top + side, left : left + side]
    y, x = np.mgrid[0:256, 0:256] / 256
    angle, count = rng.uniform(0, np.pi), rng.uniform(3, 40)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = (
        np.sin(2 * np.pi * count * along),
        np.sin(2 * np.pi * count * np.hypot(x - 0.5, y - 0.5)),
        np.sign(np.sin(np.pi * count * along) * np.sin(np.pi * count * across)),
    )[rng.integers(3)]
    return np.rint(127.5 + 127.5 * wave * rng.uniform(0.3, 1)).astype(np.uint8)


def _noise(rng: np.random.Generator) -> Array:
    """White or smooth noise, a gradient, or one grey."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.integers(0, 256, (224, 224), np.uint8)
    if kind == 1:
        cells = int(rng.integers(3, 60))
        return np.asarray(
            Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
        )
    if kind == 2:
        y, x = np.mgrid[0:256, 0:256] / 255
        angle = rng.uniform(0, 2 * np.pi)
        slope = x * np.cos(angle) + y * np.sin(angle)
        return np.rint(255 * (slope - slope.min()) / np.ptp(slope)).astype(np.uint8)
    return np.clip(rng.normal(rng.uniform(20, 235), rng.uniform(0, 4), (256, 256)), 0, 255).astype(np.uint8)


def _chart(rng: np.random.Generator) -> Array:
    """Lines, bars, a scatter or a pie with axes and a title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=rng.uniform(3, 6, 2), dpi=80)
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    kind = rng.integers(4)
    if kind == 0:
        for _ in range(rng.integers(1, 5)):
            axes.plot(rng.standard_normal(50).cumsum())
    elif kind == 1:
        axes.bar(range(8), rng.random(8), color=rng.random(3))
    elif kind == 2:
        axes.scatter(*rng.standard_normal((2, 100)))
    else:
        axes.pie(rng.random(5), labels=list(rng.choice(WORDS, 5)))
    axes.set_title(" ".join(rng.choice(WORDS, 3)))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _document(rng: np.random.Generator) -> Array:
    """A page of text, at times with a table or letters on black."""
    dark = rng.random() < 0.2
    page = Image.new("L", (360, int(rng.integers(300, 520))), 15 if dark else int(rng.integers(225, 256)))
    pen = ImageDraw.Draw(page)
    size = int(rng.integers(9, 22))
    font = ImageFont.load_default(size)
    for top in range(20, page.height - 20, int(size * 1.5)):
        if rng.random() < 0.1:
            pen.line((20, top, 340, top), fill=128)
            continue
        pen.text(
            (20, top),
            " ".join(rng.choice(WORDS, int(rng.integers(2, 9)))),
            fill=240 if dark else int(rng.integers(0, 90)),
            font=font,
        )
    return np.asarray(page)


def _screenshot(rng: np.random.Generator) -> Array:
    """Windows with title bars, buttons and text."""
    screen = Image.new("RGB", (480, 320), tuple(int(value) for value in rng.integers(0, 256, 3)))
    pen = ImageDraw.Draw(screen)
    font = ImageFont.load_default(11)
    for _ in range(rng.integers(2, 5)):
        left, top = rng.integers(0, 250), rng.integers(0, 160)
        right, bottom = left + rng.integers(120, 230), top + rng.integers(80, 160)
        pen.rectangle((left, top, right, bottom), fill=(250, 250, 250), outline=(90, 90, 90))
        pen.rectangle((left, top, right, top + 18), fill=tuple(int(value) for value in rng.integers(40, 200, 3)))
        for line in range(int(top) + 26, int(bottom) - 12, 14):
            pen.text((left + 8, line), " ".join(rng.choice(WORDS, 4)), fill=(20, 20, 20), font=font)
    return np.asarray(screen)


def _film(bones: Image.Image, rng: np.random.Generator) -> Array:
    """From a drawing of thickness to a film with blur and grain."""
    soft = np.asarray(bones.filter(ImageFilter.GaussianBlur(rng.uniform(1, 3))), np.float32)
    return np.clip(soft * rng.uniform(0.8, 1.1) + rng.normal(0, rng.uniform(2, 8), soft.shape), 0, 255).astype(np.uint8)


def _hand(rng: np.random.Generator) -> Array:
    """Fingers of phalanges over a wrist, as on a film."""
    film = Image.new("L", (280, 360), int(rng.integers(5, 25)))
    pen = ImageDraw.Draw(film)
    for finger, angle in enumerate(np.linspace(-0.75, 0.45, 5) + rng.normal(0, 0.06, 5)):
        x, y, length = (
            140 + 60 * np.sin(angle),
            230 - 40 * np.cos(angle),
            rng.uniform(38, 56) * (0.7 if finger == 0 else 1),
        )
        for bone in range(4 if finger else 3):
            end = x + length * np.sin(angle), y - length * np.cos(angle)
            width = int(20 - 3 * bone)
            pen.line((x, y, *end), fill=95, width=width + 16)
            pen.line((x, y, *end), fill=205, width=width - 6)
            x, y, length = end[0] + 5 * np.sin(angle), end[1] - 5 * np.cos(angle), length * 0.72
    pen.ellipse((95, 225, 185, 290), fill=190)
    for left in (105, 145):
        pen.rectangle((left, 285, left + 28, 360), fill=200)
    return _film(film.rotate(float(rng.uniform(-40, 40))), rng)


def _skull(rng: np.random.Generator) -> Array:
    """A vault, orbits, a nose and teeth."""
    film = Image.new("L", (300, 360), int(rng.integers(5, 25)))
    pen = ImageDraw.Draw(film)
    wide = int(rng.integers(95, 125))
    pen.ellipse((150 - wide, 20, 150 + wide, 270), fill=120, outline=225, width=int(rng.integers(8, 16)))
    pen.rounded_rectangle((150 - wide * 0.6, 210, 150 + wide * 0.6, 335), 40, fill=150, outline=215, width=8)
    for side in (-1, 1):
        pen.ellipse((150 + side * 45 - 28, 140, 150 + side * 45 + 28, 190), fill=45, outline=200, width=4)
    pen.polygon([(150, 185), (132, 235), (168, 235)], fill=50)
    for tooth in range(8):
        pen.rectangle((104 + tooth * 12, 262, 113 + tooth * 12, 296), fill=235)
    return _film(film.rotate(float(rng.uniform(-15, 15))), rng)


def _long_bone(rng: np.random.Generator) -> Array:
    """A limb with one or two shafts."""
    film = Image.new("L", (260, 360), int(rng.integers(5, 25)))
    pen = ImageDraw.Draw(film)
    pen.rectangle((60, 0, 200, 360), fill=90)
    for left in (90,) if rng.random() < 0.5 else (80, 140):
        pen.rectangle((left, 0, left + 40, 360), fill=215)
        pen.rectangle((left + 13, 40, left + 27, 320), fill=150)
        pen.ellipse((left - 12, 300, left + 52, 365), fill=220)
    return _film(film.rotate(float(rng.uniform(-25, 25))), rng)


KINDS: dict[str, Callable[[np.random.Generator], Array]] = {
    "photograph": _photograph,
    "texture": _texture,
    "noise": _noise,
    "chart": _chart,
    "document": _document,
    "screenshot": _screenshot,
    "hand": _hand,
    "skull": _skull,
    "long bone": _long_bone,
}
