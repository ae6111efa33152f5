"""The Space: drop in a radiograph, read the answer. Start it with `python app.py`; models.toml names the models."""

import os
import sys
from pathlib import Path
from typing import Any

import gradio as gr
from facts import facts_html
from models import ModelError, ModelSource, read_sources
from predictor import Answer, Predictor
from view import CSS, DISCLAIMER, answer_html, film_html

HERE = Path(__file__).parent
TITLES = {"tb": "Tuberculosis", "covid": "COVID-19, four classes", "three-class": "COVID-19 or pneumonia"}
HEAT_JS = "(value) => { document.documentElement.style.setProperty('--heat', value); }"
LAUNCH: dict[str, Any] = {
    "run_history": False,
    "enable_monitoring": False,
    "show_error": False,
    "max_file_size": "64mb",
    "theme": gr.themes.Soft(
        primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ),
    "css": CSS,
}


def build(predictors: list[Predictor], failed: dict[str, str]) -> gr.Blocks:
    """The page: one tab a predictor; a tab whose model did not load says so."""
    with gr.Blocks(title="Chest X-ray classifiers", analytics_enabled=False, delete_cache=(60, 60)) as page:
        gr.Markdown("# Chest X-ray classifiers")
        gr.HTML(f'<p class="cxr-note">{DISCLAIMER}</p>')
        gr.Markdown("Drop in a frontal chest radiograph: PNG, JPEG, TIFF (8 or 16 bit) or DICOM.")
        with gr.Tabs():
            for predictor in predictors:
                with gr.Tab(TITLES[predictor.task]):
                    _tab(predictor)
            for task in failed:
                with gr.Tab(TITLES[task]):
                    gr.HTML('<p class="cxr-note cxr-warning" role="alert">This predictor is not available at the moment.</p>')
    return page


def _tab(predictor: Predictor) -> None:
    with gr.Row():
        with gr.Column():
            upload = gr.File(label="Frontal chest radiograph", height=150)
            film = gr.HTML()
            opacity = gr.Slider(0, 1, value=0.55, step=0.05, label="Heat map", visible=False)
        with gr.Column():
            words = gr.HTML()
            scores = gr.Label(label="Scores", num_top_classes=len(predictor.labels), show_heading=False, visible=False)
    with gr.Accordion("About this model: figures, data, citation", open=False):
        gr.HTML(facts_html(predictor.facts, predictor.source), elem_classes="cxr-facts")
    prediction = gr.JSON(visible=False)

    def show(path: str | None) -> tuple[Any, ...]:
        if path is None:
            return "", gr.Label(visible=False), "", gr.Slider(visible=False)
        answer: Answer = predictor(path)
        known = "scores" in answer.prediction
        bars = gr.Label(value=answer.prediction.get("scores"), visible=known)
        return answer_html(answer, predictor.labels), bars, film_html(answer), gr.Slider(visible=known)

    def predict(path: str) -> dict[str, Any]:
        """Classify one frontal chest radiograph (PNG, JPEG, TIFF or DICOM). Research demonstration, not a medical device."""
        return predictor(path).prediction

    upload.change(show, upload, [words, scores, film, opacity], api_visibility="private")
    opacity.input(None, opacity, None, js=HEAT_JS, api_visibility="private")
    gr.Button(visible=False).click(predict, upload, prediction, api_name=f"predict_{predictor.task.replace('-', '_')}")


def load(sources: list[ModelSource]) -> tuple[list[Predictor], dict[str, str]]:
    """The predictors that load, and for each that does not, why; the visitors are told that, the log why."""
    predictors, failed = [], {}
    for source in sources:
        try:
            predictors.append(Predictor(source))
        except ModelError as error:
            failed[source.task] = str(error)
            print(error, file=sys.stderr)
    return predictors, failed


def main() -> int:
    """Load the models and serve; without one that loads, say why and stop."""
    try:
        predictors, failed = load(read_sources(HERE / "models.toml", os.environ))
        if not predictors:
            raise ModelError("no model can be loaded; name a complete run, or org/name@revision, in models.toml or CXR_<TASK>")
    except ModelError as error:
        print(f"The Space does not start: {error}", file=sys.stderr)
        return 2
    build(predictors, failed).queue(max_size=64, default_concurrency_limit=2).launch(**LAUNCH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
