"""From what the body absorbs to a film, which varies from image to image and never with the label."""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from trainer.data.phantom.shapes import SIZE, Array


def expose(attenuation: Array, mask: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Blur, exposure, contrast, grain, marker and collimation: pixels uint8 [320, 320] and the moved mask."""
    image = gaussian_filter(attenuation, rng.uniform(0.4, 1.1))
    low, high = np.percentile(image, [rng.uniform(0.5, 4), rng.uniform(98, 99.8)])
    image = np.clip((image - low) / (high - low), 0, 1.05) ** rng.uniform(0.75, 1.3)
    grain = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.4, 0.9)).astype(np.float32)
    image = image + rng.uniform(0.015, 0.045) * grain / max(float(grain.std()), 1e-6) * (1.1 - 0.6 * image)
    image = rng.uniform(0.0, 0.06) + image * rng.uniform(0.82, 0.98)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return _collimate(_mark(pixels, rng), mask, rng)


LETTERS = {"L": ("1000", "1000", "1000", "1000", "1111"), "R": ("1110", "1001", "1110", "1010", "1001")}


def _mark(pixels: Array, rng: np.random.Generator) -> Array:
    """A side marker in an upper corner: the patient's left is the image's right."""
    if rng.random() < 0.5:
        return pixels
    letter = rng.choice(list(LETTERS))
    scale = int(rng.integers(3, 5))
    glyph = np.kron(
        np.array([[int(bit) for bit in row] for row in LETTERS[letter]], bool), np.ones((scale, scale), bool)
    )
    top = int(rng.integers(8, 40))
    left = int(rng.integers(8, 24))
    left = SIZE - left - glyph.shape[1] if letter == "L" else left
    pixels[top : top + glyph.shape[0], left : left + glyph.shape[1]][glyph] = rng.integers(225, 256)
    return pixels


def _collimate(pixels: Array, mask: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Black borders, and now and then a film laid in a little turned."""
    top, bottom, left, right = (int(border) for border in rng.integers(1, 18, size=4) * (rng.random(4) < 0.4))
    frame = np.zeros_like(pixels)
    inner = (slice(top, SIZE - bottom), slice(left, SIZE - right))
    frame[inner] = pixels[inner]
    kept = np.zeros_like(mask)
    kept[inner] = mask[inner]
    if rng.random() < 0.3:
        frame, kept = _turn(frame, kept, rng.normal(0, 0.03))
    return frame, kept


def _turn(pixels: Array, mask: Array, angle: float) -> tuple[Array, Array]:
    center = (SIZE - 1) / 2
    y, x = np.mgrid[0:SIZE, 0:SIZE] - center
    where = np.stack([y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)]) + center
    turned = map_coordinates(pixels.astype(np.float32), where, order=1)
    return np.rint(turned).astype(np.uint8), map_coordinates(mask.astype(np.float32), where, order=1) > 0.5
