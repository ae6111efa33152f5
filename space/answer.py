"""What a model says of one file, and what the page needs to show it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

SHOWN = 768  # longest side of what is shown, in pixels


def printable(name: str) -> str:
    """The name of a file without characters that nobody sees, or that turn the direction of what follows."""
    return "".join(character for character in name if character.isprintable())


@dataclass(frozen=True)
class Answer:
    """`prediction` as the command line and the API give it; the others are None where the file could not be read.

    `size` is the width and height of what is shown, no side longer than SHOWN; `heat` float [h, w] in 0..1 has the
    coarse grid of the network's last feature map, over the whole film; `lungs` uint8 [h, w] in 0..255 is where
    the model sees lungs, None of a model that does not look; `film` is uint8 [H, W], or None where nobody asked for it;
    `deep` uint16 [h, w] the values of a film deeper than 8 bits, black low.
    """

    prediction: dict[str, Any]
    size: tuple[int, int] | None = None
    heat: np.ndarray | None = None
    film: np.ndarray | None = None
    lungs: np.ndarray | None = None
    deep: np.ndarray | None = None
