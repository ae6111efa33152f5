"""What a visitor sees: the answer in words, the film under its heat map. Images travel in the page, never as files."""

import base64
import html
import io
from typing import Any

import numpy as np
import pandas as pd
from answer import Answer
from batch import to_table
from facts import counts_text, sensitivity_text
from PIL import Image, ImageFilter

DISCLAIMER = "Research demonstration, not a medical device. Never use it for a diagnosis. No image is kept."
WARNINGS = {
    "multi-frame": "This file holds several images; only the first was read.",
    "lateral-view": "The file says it is a lateral view; the model knows frontal ones only.",
    "not-chest": "The file says it is not a chest radiograph.",
    "unfamiliar": "This image is unlike the radiographs that the model learned from: do not trust the answer.",
    "child": "The file says that this is a child; the model learned from adults.",
    "no-lungs": "No two lungs were found: is this a whole frontal chest radiograph?",
    "coloured": "This image is coloured; a radiograph is grey.",
    "implausible-header": "Values of the file's header cannot be true and were left out: check the image.",
    "tiny": "This image is very small.",
    "extreme-aspect": "This image is much longer than wide, or wider than long.",
    "blank": "This image is almost blank.",
    "inverted": "Black and white seem to be exchanged.",
    "rotated": "The image seems to be turned.",
}
UNTRUSTED = {"unfamiliar", "blank", "not-chest", "no-lungs"}  # such an image gets no answer
# Dark violet, red, orange, pale yellow: brighter means more, in colour and in print; cold places stay clear.
STOPS = np.array([[40, 10, 84], [150, 38, 103], [229, 92, 48], [251, 180, 26], [252, 255, 164]])
OUTLINE_SIDE, LINE = 768, (94, 234, 212, 255)  # light green shows on black and on grey
HEAT_SIDE = 256  # pixels: many more than the grid that is shown has
LEVELS = np.linspace(0, 1, 256)
COLOURS = [np.interp(LEVELS, np.linspace(0, 1, len(STOPS)), STOPS[:, channel]) for channel in range(3)]
OPACITY = 255 * ((LEVELS - 0.15) / 0.85).clip(0, 1)
PALETTE = np.stack([*COLOURS, OPACITY], axis=1).astype(np.uint8).tobytes()  # RGBA of 256 levels

# A pasted image goes to the upload of the tab that is open, in place of what lies there. For the head of the page:
# gradio runs a page's own `js` some time after the page is shown, and what is pasted before that would be lost.
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
.cxr-figures {display: flex; flex-wrap: wrap; gap: 1rem}
.cxr-figures figure {flex: 1 1 20rem; max-width: 34rem; margin: 0}
.cxr-figures img {width: 100%; border-radius: 6px; background: #fff}
.cxr-button {display: inline-block; padding: .3rem .8rem; border-radius: 6px}
.cxr-button {border: 1px solid var(--border-color-accent)}
.cxr-film {position: relative; background: #000; border-radius: 8px; overflow: hidden; line-height: 0}
.cxr-film img {width: 100%; display: block}
.file-preview .download {display: none} /* a file is deleted soon after its answer, and the visitor has it */
.cxr-film img + img {position: absolute; inset: 0; height: 100%; opacity: var(--heat, .55)}
.cxr-film img.cxr-lungs {opacity: 1}
"""


def trusted(prediction: dict[str, Any]) -> bool:
    """Whether there is an answer, and nothing that forbids it."""
    return "scores" in prediction and not UNTRUSTED & set(prediction["warnings"])


def warning_html(text: str) -> str:
    """Something that the visitor must not miss; `text` is HTML."""
    return f'<p class="cxr-note cxr-warning" role="alert">{text}</p>'


def answer_html(answer: Answer, facts: dict[str, Any], title: str = "") -> str:
    """The answer in words, after whatever speaks against trusting it; `facts` as facts.read_facts gives them."""
    heading = f"<h3>{html.escape(title)}</h3>" if title else ""
    return f'<div role="status">{heading}{_answer(answer.prediction, facts)}</div>'


def _answer(prediction: dict[str, Any], facts: dict[str, Any]) -> str:
    if "error" in prediction:
        return warning_html(f"No answer for this file: {html.escape(prediction['error'])}")
    notes = "".join(warning_html(WARNINGS.get(code, code)) for code in prediction["warnings"])
    if not trusted(prediction):
        return f'{notes}<p class="cxr-answer">No answer for this image.</p>'
    score = _short(prediction["scores"][prediction["label"]])
    detail = html.escape(_threshold(prediction["decision"], prediction["scores"], facts))
    sought = (prediction["decision"] or {}).get("label") or prediction["label"]
    trust = html.escape(counts_text(facts, sought))
    answer = f'<p class="cxr-answer">Suggests {html.escape(prediction["label"])}: {score}</p><p>{detail}</p>'
    return f"{notes}{answer}<p>{trust}</p>" if trust else f"{notes}{answer}"


def film_html(answer: Answer) -> str:
    """The film, and over it the heat map at the opacity of the slider."""
    if answer.film is None:
        return ""
    film = _png_address(Image.fromarray(answer.film))
    if not trusted(answer.prediction):
        return f'<div class="cxr-film"><img alt="the image as the reader sees it" src="{film}"></div>'
    label = html.escape(answer.prediction["label"])
    under = f'<img alt="the radiograph as the model\'s reader sees it" src="{film}">'
    over = f'<img alt="heat map: where the image speaks for {label}" src="{heat_address(answer)}">'
    outline = '<img class="cxr-lungs" alt="outline of the lungs that the model sees" src="{}">'
    lungs = "" if answer.lungs is None else outline.format(_outline_address(answer.lungs, answer.size))
    return f'<div class="cxr-film">{under}{over}{lungs}</div>'


def _threshold(decision: dict[str, Any] | None, scores: dict[str, float], facts: dict[str, Any]) -> str:
    if decision is None or decision["threshold"] is None:
        return "The label with the highest score."
    side = "at or above" if decision["positive"] else "below"
    name = "" if decision["name"] == "argmax" else f"{decision['name']} "
    label, score, threshold = decision["label"], scores[decision["label"]], decision["threshold"]
    sensitivity = sensitivity_text(facts, decision)
    text = f"The score for {label}, {_short(score)}, is {side} the {name}threshold {_short(threshold)}"
    return f"{text}, {sensitivity}." if sensitivity else f"{text}."


def _short(value: float) -> str:
    """Two digits; a score is never quite 0 or 1, and is not called so."""
    if not 0.005 <= value < 0.995:
        return "above .99" if value > 0.5 else "below .01"
    return f"{value:.2f}".removeprefix("0")


def heat_address(answer: Answer) -> str:
    """The heat map in the shape of the film, no side over HEAT_SIDE pixels: PNG with a palette, a data address."""
    assert answer.heat is not None
    assert answer.size is not None
    scale = min(1.0, HEAT_SIDE / max(answer.size))
    width, height = (max(1, round(scale * side)) for side in answer.size)
    smooth = Image.fromarray(answer.heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    image = Image.fromarray((255 * np.asarray(smooth)).clip(0, 255).astype(np.uint8))
    image.putpalette(PALETTE, "RGBA")
    return _png_address(image)


def _outline_address(lungs: np.ndarray, size: tuple[int, int] | None) -> str:
    """The edge of the lungs uint8 [h, w] in the shape of the film, its longer side OUTLINE_SIDE pixels: PNG, clear but
    for a line, a data address.
    """
    assert size is not None
    width, height = (max(1, round(OUTLINE_SIDE / max(size) * side)) for side in size)
    large = Image.fromarray(lungs).resize((width, height), Image.Resampling.BICUBIC)
    inside = large.point(lambda value: 255 * (value > 127))
    line = np.asarray(inside) - np.asarray(inside.filter(ImageFilter.MinFilter(5)))
    image = Image.fromarray(line).convert("P")
    image.putpalette(np.array([[0, 0, 0, 0], *[LINE] * 255], np.uint8).tobytes(), "RGBA")
    return _png_address(image)


def data_address(content: bytes, kind: str = "image/png") -> str:
    """Content as an address inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _png_address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)  # to wait costs more than a few bytes
    return data_address(buffer.getvalue())


def remarks_table(predictions: list[dict[str, Any]], labels: list[str]) -> pd.DataFrame:
    """Columns file, answer, each label, familiarity, and remarks in words: the table of the page."""
    table = to_table(predictions, labels).drop(columns=["decision", "warnings", "error"]).round(3)
    table["label"] = [row["label"] if trusted(row) else "–" for row in predictions]
    table["remarks"] = [
        row.get("error") or " ".join(WARNINGS.get(code, code) for code in row["warnings"]) for row in predictions
    ]
    return table.rename(columns=lambda name: "answer" if name == "label" else name.removeprefix("p:"))
