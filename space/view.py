"""What a visitor sees: the answer in words, the film under its heat map. Pictures travel inside the page, never as files."""

import base64
import html
import io
from typing import Any

import numpy as np
from PIL import Image
from predictor import Answer

DISCLAIMER = "Research demonstration, not a medical device. Never use it for a diagnosis. No picture is kept."
WARNINGS = {
    "multi-frame": "This file holds several pictures; only the first was read.",
    "lateral-view": "The file says it is a lateral view; the model knows frontal ones only.",
    "not-chest": "The file says it is not a chest radiograph.",
    "unfamiliar": "This picture is unlike the radiographs that the model learned from: do not trust the answer.",
    "coloured": "This picture is coloured; a radiograph is grey.",
    "tiny": "This picture is very small.",
    "extreme-aspect": "This picture is much longer than wide, or wider than long.",
    "blank": "This picture is almost blank.",
    "inverted": "Black and white seem to be exchanged.",
    "rotated": "The picture seems to be turned by 90 degrees.",
}
# Dark violet, red, orange, pale yellow: brighter means more, in colour and in print.
STOPS = np.array([[40, 10, 84], [150, 38, 103], [229, 92, 48], [251, 180, 26], [252, 255, 164]])

CSS = """
.cxr-note {border-left: 4px solid var(--color-accent); border-radius: 4px; padding: .5rem .9rem}
.cxr-note {background: var(--background-fill-secondary)}
.cxr-warning {border-left-color: #d97706; font-weight: 600}
.cxr-answer {font-size: 1.5rem; font-weight: 650; margin: .2rem 0 .1rem}
.cxr-facts table {border-collapse: collapse; margin: .4rem 0; width: 100%}
.cxr-facts th, .cxr-facts td {text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--border-color-primary)}
.cxr-facts caption {text-align: left; font-weight: 600}
.cxr-film {position: relative; background: #000; border-radius: 8px; overflow: hidden; line-height: 0}
.cxr-film img {width: 100%; display: block}
.cxr-film img + img {position: absolute; inset: 0; height: 100%; opacity: var(--heat, .55)}
"""


def answer_html(answer: Answer, labels: list[str]) -> str:
    """The answer in words, after whatever speaks against trusting it."""
    prediction = answer.prediction
    if "error" in prediction:
        return f'<div class="cxr-note cxr-warning" role="alert">This file cannot be read: {html.escape(prediction["error"])}</div>'
    notes = "".join(f'<p class="cxr-note cxr-warning" role="alert">{WARNINGS.get(code, code)}</p>' for code in prediction["warnings"])
    score = f"{prediction['scores'][prediction['label']]:.2f}".removeprefix("0")
    detail = _threshold(prediction["decision"])
    return f'{notes}<p class="cxr-answer">Suggests {html.escape(prediction["label"])}: {score}</p><p>{detail}</p>'


def film_html(answer: Answer) -> str:
    """The film, and over it the heat map at the opacity of the slider."""
    if answer.film is None or answer.heat is None:
        return ""
    label = html.escape(answer.prediction["label"])
    film = _picture(Image.fromarray(answer.film), "the radiograph as the model's reader sees it")
    heat = _picture(_heat_image(answer.heat, answer.film.shape), f"heat map: where the picture speaks for {label}")
    return f'<div class="cxr-film">{film}{heat}</div>'


def _threshold(decision: dict[str, Any] | None) -> str:
    if decision is None or decision["threshold"] is None:
        return "The label with the highest score."
    side = "at or above" if decision["positive"] else "below"
    threshold = f"{decision['threshold']:.2f}".removeprefix("0")
    return f"The score for {html.escape(decision['label'])} is {side} the threshold {threshold}."


def _heat_image(heat: np.ndarray, shape: tuple[int, ...]) -> Image.Image:
    """Heat [h, w] in 0..1 as an RGBA picture of the film's shape: cold places stay clear."""
    smooth = Image.fromarray(heat.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    values = np.asarray(smooth).clip(0, 1)
    colour = np.stack([np.interp(values, np.linspace(0, 1, len(STOPS)), STOPS[:, channel]) for channel in range(3)], axis=-1)
    return Image.fromarray(np.dstack([colour, 255 * ((values - 0.15) / 0.85).clip(0, 1)]).astype(np.uint8))


def _picture(image: Image.Image, alt: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
