"""Images of an answer as addresses inside the page: PNG, never a file."""

import base64
import io

import numpy as np
from answer import Answer
from PIL import Image, ImageFilter

# Dark violet, red, orange, pale yellow: brighter means more, in colour and in print; cold places stay clear.
STOPS = np.array([[40, 10, 84], [150, 38, 103], [229, 92, 48], [251, 180, 26], [252, 255, 164]])
WINDOWS = {"all values": (0, 100), "lungs": (1, 60), "heart and bones": (40, 99.9)}  # percentiles of a deep film
OUTLINE_SIDE, SMOOTH = 768, 6  # pixels
LINE = (94, 234, 212, 255)  # light green shows on black and on grey
HEAT_SIDE = 256  # pixels: many more than the grid that is shown has
LEVELS = np.linspace(0, 1, 256)
COLOURS = [np.interp(LEVELS, np.linspace(0, 1, len(STOPS)), STOPS[:, channel]) for channel in range(3)]
OPACITY = 255 * ((LEVELS - 0.15) / 0.85).clip(0, 1)
PALETTE = np.stack([*COLOURS, OPACITY], axis=1).astype(np.uint8).tobytes()  # RGBA of 256 levels


def film_address(answer: Answer) -> str:
    """The film as the model's reader sees it."""
    assert answer.film is not None
    return _image_address(Image.fromarray(answer.film))


def window_addresses(answer: Answer) -> dict[str, str]:
    """The film by each of WINDOWS, by their names; none of a film of 8 bits."""
    if answer.deep is None:
        return {}
    inside = answer.deep[(answer.deep > 0) & (answer.deep < 65535)]  # without what was painted over, and padding
    addresses = {}
    for name, limits in WINDOWS.items():
        low, high = np.percentile(inside if inside.size else answer.deep, limits)
        grey = np.rint((255 / max(high - low, 1) * (answer.deep - low)).clip(0, 255)).astype(np.uint8)
        addresses[name] = _image_address(Image.fromarray(grey), "jpeg")
    return addresses


def heat_address(answer: Answer, within_lungs: bool = False) -> str:
    """The heat map in the shape of the film, no side over HEAT_SIDE pixels: PNG with a palette, a data address.

    `within_lungs`: clear where the model sees no lungs.
    """
    assert answer.heat is not None
    assert answer.size is not None
    scale = min(1.0, HEAT_SIDE / max(answer.size))
    width, height = (max(1, round(scale * side)) for side in answer.size)
    heat = _resized(answer.heat.astype(np.float32), width, height)
    if within_lungs and answer.lungs is not None:
        heat = heat * _resized(answer.lungs, width, height) / 255
    image = Image.fromarray((255 * heat).clip(0, 255).astype(np.uint8))
    image.putpalette(PALETTE, "RGBA")
    return _image_address(image)


def proportion_within(answer: Answer) -> float | None:
    """How much of the heat map lies where the model sees lungs, 0 to 1; None where it does not look for them."""
    if answer.heat is None or answer.lungs is None:
        return None
    heat = _resized(answer.heat.astype(np.float32), *answer.lungs.shape[::-1]).clip(0)
    return float((heat * (answer.lungs > 127)).sum() / max(float(heat.sum()), 1e-9))


def outline_address(answer: Answer) -> str:
    """The edge of the lungs in the shape of the film, its longer side OUTLINE_SIDE pixels: PNG, clear but for a line, a
    data address.
    """
    assert answer.lungs is not None
    assert answer.size is not None
    width, height = (max(1, round(OUTLINE_SIDE / max(answer.size) * side)) for side in answer.size)
    large = Image.fromarray(answer.lungs).resize((width, height), Image.Resampling.BICUBIC)
    inside = large.filter(ImageFilter.GaussianBlur(SMOOTH)).point(lambda value: 255 * (value > 127))
    line = np.asarray(inside) - np.asarray(inside.filter(ImageFilter.MinFilter(5)))
    image = Image.fromarray(line).convert("P")
    image.putpalette(np.array([[0, 0, 0, 0], *[LINE] * 255], np.uint8).tobytes(), "RGBA")
    return _image_address(image)


def data_address(content: bytes, kind: str = "image/png") -> str:
    """Content as an address inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _resized(values: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))


def _image_address(image: Image.Image, kind: str = "png") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, compress_level=1, quality=90)  # of PNG, where waiting costs more than bytes; of JPEG
    return data_address(buffer.getvalue(), f"image/{kind}")
