"""What a visitor sees: the answer in words, the film under its heat map.

Images travel inside the page, never as files.
"""

import base64
import html
import io
from typing import Any

import numpy as np
from answer import Answer
from facts import sensitivity_text
from PIL import Image

DISCLAIMER = "Research demonstration, not a medical device. Never use it for a diagnosis. No image is kept."
WARNINGS = {
    "multi-frame": "This file holds several images; only the first was read.",
    "lateral-view": "The file says it is a lateral view; the model knows frontal ones only.",
    "not-chest": "The file says it is not a chest radiograph.",
    "unfamiliar": "This image is unlike the radiographs that the model learned from: do not trust the answer.",
    "coloured": "This image is coloured; a radiograph is grey.",
    "implausible-header": "Values of the file's header cannot be true and were left out: check the image.",
    "tiny": "This image is very small.",
    "extreme-aspect": "This image is much longer than wide, or wider than long.",
    "blank": "This image is almost blank.",
    "inverted": "Black and white seem to be exchanged.",
    "rotated": "The image seems to be turned.",
}
UNTRUSTED = {"unfamiliar", "blank", "not-chest"}  # such an image gets no answer
# Dark violet, red, orange, pale yellow: brighter means more, in colour and in print; cold places stay clear.
STOPS = np.array([[40, 10, 84], [150, 38, 103], [229, 92, 48], [251, 180, 26], [252, 255, 164]])
HEAT_SIDE = 256  # pixels: many more than the grid that is shown has
LEVELS = np.linspace(0, 1, 256)
COLOURS = [np.interp(LEVELS, np.linspace(0, 1, len(STOPS)), STOPS[:, channel]) for channel in range(3)]
PALETTE = (
    np.stack([*COLOURS, 255 * ((LEVELS - 0.15) / 0.85).clip(0, 1)], axis=1).astype(np.uint8).tobytes()
)  # RGBA of 256 levels

# A pasted image goes to the upload of the tab that is open, in place of what lies there. For the head of the page:
# gradio runs
# a page's own `js` some time after the page is shown, and what is pasted before that would be lost.
PASTE = """
<script>
document.addEventListener("paste", async (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  const panel = [...document.querySelectorAll("[role=tabpanel]")].find((one) => one.offsetParent !== null);
  if (!files.length || !panel) return;
  event.preventDefault();
  for (let tries = 0; tries < 20; tries++) {
    const input = panel.querySelector("input[type=file]");
    if (input) {
      const data = new DataTransfer();
      files.forEach((file) => data.items.add(file));
      input.files = data.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
      return;
    }
    panel.querySelector("button[aria-label='Clear'], button[aria-label^='Remove']")?.click();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});
</script>
"""
CSS = """
.cxr-note {border-left: 4px solid var(--color-accent); border-radius: 4px; padding: .5rem .9rem}
.cxr-note {background: var(--background-fill-secondary)}
.cxr-warning {border-left-color: #d97706; font-weight: 600}
.cxr-answer {font-size: 1.5rem; font-weight: 650; margin: .2rem 0 .1rem}
.cxr-facts table {border-collapse: collapse; margin: .4rem 0; width: 100%}
.cxr-facts th, .cxr-facts td {text-align: left; padding: .25rem .9rem .25rem 0; border: 0}
.cxr-facts th, .cxr-facts td {border-bottom: 1px solid var(--border-color-primary)}
.cxr-facts caption {text-align: left; font-weight: 600}
.cxr-wide {overflow-x: auto}
.cxr-wide table {min-width: 60rem}
.cxr-figures {display: flex; flex-wrap: wrap; gap: 1rem}
.cxr-figures figure {flex: 1 1 20rem; max-width: 34rem; margin: 0}
.cxr-figures img {width: 100%; border-radius: 6px; background: #fff}
.cxr-button {display: inline-block; padding: .3rem .8rem; border-radius: 6px}
.cxr-button {border: 1px solid var(--border-color-accent)}
.cxr-film {position: relative; background: #000; border-radius: 8px; overflow: hidden; line-height: 0}
.cxr-film img {width: 100%; display: block}
.cxr-film img + img {position: absolute; inset: 0; height: 100%; opacity: var(--heat, .55)}
"""


def trusted(prediction: dict[str, Any]) -> bool:
    """Whether there is an answer, and nothing that forbids it."""
    return "scores" in prediction and not UNTRUSTED & set(prediction["warnings"])


def answer_html(answer: Answer, facts: dict[str, Any], title: str = "") -> str:
    """The answer in words, after whatever speaks against trusting it; `facts` as facts.read_facts gives them."""
    heading = f"<h3>{html.escape(title)}</h3>" if title else ""
    return f'<div role="status">{heading}{_answer(answer.prediction, facts)}</div>'


def _answer(prediction: dict[str, Any], facts: dict[str, Any]) -> str:
    if "error" in prediction:
        error = f"No answer for this file: {html.escape(prediction['error'])}"
        return f'<div class="cxr-note cxr-warning" role="alert">{error}</div>'
    notes = "".join(
        f'<p class="cxr-note cxr-warning" role="alert">{WARNINGS.get(code, code)}</p>'
        for code in prediction["warnings"]
    )
    if not trusted(prediction):
        return f'{notes}<p class="cxr-answer">No answer for this image.</p>'
    score = _short(prediction["scores"][prediction["label"]])
    detail = _threshold(prediction["decision"], prediction["scores"], facts)
    return f'{notes}<p class="cxr-answer">Suggests {html.escape(prediction["label"])}: {score}</p><p>{detail}</p>'


def film_html(answer: Answer) -> str:
    """The film, and over it the heat map at the opacity of the slider."""
    if answer.film is None or answer.heat is None:
        return ""
    film = Image.fromarray(answer.film)
    if not trusted(answer.prediction):
        return f'<div class="cxr-film">{_picture(film, "the picture as the reader sees it")}</div>'
    label = html.escape(answer.prediction["label"])
    under = _picture(film, "the radiograph as the model's reader sees it")
    over = _picture(_heat_image(answer.heat, film.size), f"heat map: where the image speaks for {label}")
    return f'<div class="cxr-film">{under}{over}</div>'


def _threshold(decision: dict[str, Any] | None, scores: dict[str, float], facts: dict[str, Any]) -> str:
    if decision is None or decision["threshold"] is None:
        return "The label with the highest score."
    side = "at or above" if decision["positive"] else "below"
    name = "" if decision["name"] == "argmax" else f"{html.escape(decision['name'])} "
    label, score, threshold = (
        html.escape(decision["label"]),
        _short(scores[decision["label"]]),
        _short(decision["threshold"]),
    )
    told = f"The score for {label}, {score}, is {side} the {name}threshold {threshold}"
    if known := sensitivity_text(facts, decision):
        told += f", {html.escape(known)}"
    return f"{told}."


def _short(value: float) -> str:
    """Two digits; a score is never quite 0 or 1, and is not called so."""
    if not 0.005 <= value < 0.995:
        return "above .99" if value > 0.5 else "below .01"
    return f"{value:.2f}".removeprefix("0")


def _heat_image(heat: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Heat [h, w] in 0..1 as an image with a palette, in the shape of a film of this width and height, no side over
    HEAT_SIDE.
    """
    scale = min(1.0, HEAT_SIDE / max(size))
    width, height = (max(1, round(scale * side)) for side in size)
    smooth = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    image = Image.fromarray((255 * np.asarray(smooth)).clip(0, 255).astype(np.uint8))
    image.putpalette(PALETTE, "RGBA")
    return image


def _picture(image: Image.Image, alt: str) -> str:
    return f'<img alt="{alt}" src="{_address(image)}">'


def _address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)  # to wait costs more than a few bytes
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heat_address(answer: Answer) -> str:
    """The heat map of the film's whole area, as a data address."""
    assert answer.heat is not None
    assert answer.size is not None
    return _address(_heat_image(answer.heat, answer.size))


def table_rows(predictions: list[dict[str, Any]], labels: list[str]) -> dict[str, Any]:
    """Predictions as a table for gr.Dataframe."""
    headers = ["file", "answer", *labels, "familiarity", "remarks"]
    rows = []
    for row in predictions:
        known = "scores" in row
        answer = row["label"] if trusted(row) else "–"
        scores = [round(row["scores"][label], 3) if known else None for label in labels]
        remarks = row.get("error") or " ".join(WARNINGS.get(code, code) for code in row["warnings"])
        rows.append(
            [
                row["file"],
                answer,
                *scores,
                row["familiarity"] and round(row["familiarity"], 2) if known else None,
                remarks,
            ]
        )
    return {"headers": headers, "data": rows}
