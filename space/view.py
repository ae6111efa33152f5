"""What a visitor reads: an answer in words and bars. Templates escape whatever is filled in."""

from pathlib import Path
from typing import Any

import pandas as pd
from answer import Answer
from batch import to_table
from facts import score_text, sensitivity_text, trust_lines
from images import film_address, heat_address, outline_address, proportion_within, window_addresses
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
CSS = (FOLDER / "page.css").read_text(encoding="utf-8")
SCRIPT = f"<script>{(FOLDER / 'page.js').read_text(encoding='utf-8')}</script>"
DISCLAIMER = "Research demonstration, not a medical device. Never use it for a diagnosis. No image is kept."
WARNINGS = {  # what is wrong, and what to do
    "multi-frame": (
        "This file holds several images; only the first was read.",
        "Give the others as files of their own.",
    ),
    "lateral-view": ("The file says it is a lateral view.", "The model knows frontal ones only: give that one."),
    "not-chest": ("The file says it is not a chest radiograph.", "Give a frontal chest radiograph."),
    "unfamiliar": (
        "This image is unlike the radiographs that the model learned from: do not trust the answer.",
        "Is it a frontal chest radiograph of an adult, the whole film, not a photograph of one?",
    ),
    "child": ("The file says that this is a child.", "The model learned from adults."),
    "no-lungs": ("No two lungs were found.", "Give a whole frontal chest radiograph, upright."),
    "coloured": ("This image is coloured; a radiograph is grey.", "Give the film as it was exported, without marks."),
    "implausible-header": ("Values of the file's header cannot be true and were left out.", "Is the film shown yours?"),
    "tiny": ("This image is very small.", "Give it at its own size."),
    "extreme-aspect": ("This image is much longer than wide, or wider than long.", "Cut nothing off a chest."),
    "blank": ("This image is almost blank.", "Export it again."),
    "inverted": ("Black and white seem to be exchanged.", "Air is black: exchange them before you send it."),
    "rotated": ("The image seems to be turned.", "Turn it upright before you send it."),
}
UNTRUSTED = {"unfamiliar", "blank", "not-chest", "no-lungs"}  # such an image gets no answer


def render(template: str, **values: Any) -> Markup:
    """A template of `templates/`, filled in; text is escaped."""
    return Markup(TEMPLATES.get_template(template).render(values))


def trusted(prediction: dict[str, Any]) -> bool:
    """Whether there is an answer, and nothing that forbids it."""
    return "scores" in prediction and not UNTRUSTED & set(prediction["warnings"])


def answer_html(answer: Answer, facts: dict[str, Any], title: str = "") -> str:
    """The answer after whatever speaks against trusting it, and where it came from; `facts` as `facts.read_facts`."""
    prediction, known = answer.prediction, trusted(answer.prediction)
    values = {
        "title": title,
        "error": prediction.get("error"),
        "warnings": [WARNINGS.get(code, (code, "")) for code in prediction.get("warnings", [])],
        "trusted": known,
        "heat": None,
    }
    if known:
        decision = prediction["decision"]
        values |= {
            "label": prediction["label"],
            "score": score_text(prediction["scores"][prediction["label"]]),
            "decided": _decided(decision, prediction["scores"], facts),
            "scores": _bars(decision, prediction["scores"]),
            "trust": trust_lines(facts, decision["label"]),
        }
        values |= _heat_map(answer, decision) if answer.film is not None else {}
    return render("answer.html", **values)


def film_html(answer: Answer) -> str:
    """The bare film, with what exchanges black and white and changes the contrast; empty where none was read.

    A film deeper than 8 bits has windows of its own values, others a change of their contrast.
    """
    if answer.film is None:
        return ""
    return render("film.html", film=film_address(answer), windows=window_addresses(answer))


def warning_html(text: str) -> str:
    """Something that the visitor must not miss."""
    return render("warning.html", text=text)


def _heat_map(answer: Answer, decision: dict[str, Any]) -> dict[str, Any]:
    """The film under the heat map of the label that is decided about, as faint as its score is below the threshold:
    within the lungs where the model looks for them, and everywhere.
    """
    strength = min(1.0, answer.prediction["scores"][decision["label"]] / max(decision["threshold"] or 0, 1e-9))
    within = proportion_within(answer)
    lungs: dict[str, str | None] = {"outline": None}
    if within is not None:
        everywhere, outside = heat_address(answer), f"{1 - within:.0%}"
        lungs = {"outline": outline_address(answer), "heat_everywhere": everywhere, "outside": outside}
    heat = {"heat": heat_address(answer, within_lungs=True), "strength": round(strength, 3)}
    return {"film": film_address(answer), "heat_label": decision["label"], **heat, **lungs}


def _bars(decision: dict[str, Any], scores: dict[str, float]) -> list[dict[str, Any]]:
    """A bar a label, in their order, with the threshold on the one that it is for: percentages."""
    return [
        {
            "label": label,
            "text": score_text(score),
            "percent": round(100 * score, 1),
            "threshold": round(100 * decision["threshold"], 1)
            if label == decision["label"] and decision["threshold"] is not None
            else None,
        }
        for label, score in scores.items()
    ]


def _decided(decision: dict[str, Any], scores: dict[str, float], facts: dict[str, Any]) -> str:
    if decision["threshold"] is None:
        return "The label with the highest score."
    side = "at or above" if decision["positive"] else "below"
    name = "" if decision["name"] == "argmax" else f"{decision['name']} "
    label, score, threshold = decision["label"], scores[decision["label"]], decision["threshold"]
    sensitivity = sensitivity_text(facts, decision)
    text = f"The score for {label}, {score_text(score)}, is {side} the {name}threshold {score_text(threshold)}"
    return f"{text}, {sensitivity}." if sensitivity else f"{text}."


def remarks_table(predictions: list[dict[str, Any]], labels: list[str]) -> pd.DataFrame:
    """Columns file, answer, each label, familiarity, and remarks in words: the table of the page."""
    table = to_table(predictions, labels).drop(columns=["decision", "warnings", "error"]).round(3)
    table["label"] = [row["label"] if trusted(row) else "–" for row in predictions]
    table["remarks"] = [
        row.get("error") or " ".join(WARNINGS.get(code, (code, ""))[0] for code in row["warnings"])
        for row in predictions
    ]
    return table.rename(columns=lambda name: "answer" if name == "label" else name.removeprefix("p:"))
