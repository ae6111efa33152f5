"""The page: a tab for each question, one for all of them, one for many files, one for the figures; and the same for
programs.
"""

import base64
from importlib.util import find_spec
from typing import Any

from uploads import UPLOADS

# isort: split
import gradio as gr
from answer import Answer
from batch import MOST_FILES, predict_files, to_csv
from facts import facts_html
from results import results_html
from view import CSS, DISCLAIMER, PASTE, answer_html, film_html, heat_address, table_rows, trusted
from worker import MAX_IN_FLIGHT, Served

TITLES = {"tb": "Tuberculosis", "covid": "COVID-19, four classes", "three-class": "COVID-19 or pneumonia"}
HEAT_JS = "(value) => { document.documentElement.style.setProperty('--heat', value); }"
THEME = gr.themes.Soft(
    primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(
    color_accent="*primary_700",
    block_label_text_color="*primary_700",
    block_title_text_color="*primary_700",
    body_text_color_subdued="*neutral_600",
)  # contrast of 4.5
LAUNCH: dict[str, Any] = {
    "run_history": False,
    "enable_monitoring": False,
    "show_error": False,
    "max_file_size": "64mb",
    # gradio keeps what a session was last shown, its film too: of one visitor, until the next one asks
    "state_session_capacity": 1,
    "theme": THEME,
    "css": CSS,
    "head": PASTE,
    "footer_links": ["api"],
    "mcp_server": find_spec("mcp") is not None,
}


def build(predictors: list[Served], failed: dict[str, str]) -> gr.Blocks:
    """The page: a tab for each predictor, for all of them, for many files and for their figures; one that did not load
    says so.
    """
    with gr.Blocks(title="Chest X-ray classifiers", analytics_enabled=False) as page:
        gr.Markdown("# Chest X-ray classifiers")
        gr.HTML(f'<p class="cxr-note">{DISCLAIMER}</p>')
        gr.Markdown(
            "Choose the question, then drop in a frontal chest radiograph, or paste one: PNG, JPEG, TIFF (8 or 16 bit) "
            "or DICOM."
        )
        with gr.Tabs():
            for predictor in predictors:
                with gr.Tab(TITLES[predictor.task]):
                    _question_tab(predictor)
            for task in failed:
                with gr.Tab(TITLES[task]):
                    gr.HTML('<p class="cxr-note cxr-warning" role="alert">This predictor is not available now.</p>')
            if len(predictors) > 1:
                with gr.Tab("All questions"):
                    _all_tab(predictors)
            with gr.Tab("Many files"):
                _batch_tab(predictors)
            with gr.Tab("Results") as results:
                shown = gr.HTML(elem_classes="cxr-facts")
            results.select(lambda: results_html(predictors), None, shown, api_visibility="private")
    return page


def _question_tab(predictor: Served) -> None:
    with gr.Row():
        with gr.Column():
            upload = gr.File(label="Frontal chest radiograph", height=190)
            example = gr.Button("Try it with a drawn phantom", size="sm", visible=predictor.example is not None)
            film = gr.HTML()
            opacity = gr.Slider(
                0, 1, value=0.55, step=0.05, label="Heat map", info="how strongly it lies over the film", visible=False
            )
        with gr.Column():
            words = gr.HTML()
            scores = gr.Label(label="Scores", num_top_classes=len(predictor.labels), show_heading=False, visible=False)
    with gr.Accordion("About this model: figures, data, citation", open=False):
        gr.HTML(facts_html(predictor.facts, predictor.source), elem_classes="cxr-facts")

    def show(path: str | None) -> tuple[Any, ...]:
        if not path:
            return "", gr.Label(visible=False), "", gr.Slider(visible=False)
        with UPLOADS.use([path]):
            return _shown(predictor, predictor(path, film=True))

    def show_example() -> tuple[Any, ...]:
        return _shown(predictor, predictor(predictor.example or b"", "a drawn phantom", film=True))

    outputs = [words, scores, film, opacity]
    upload.change(show, upload, outputs, api_visibility="private", concurrency_limit=MAX_IN_FLIGHT)
    example.click(show_example, None, outputs, api_visibility="private", concurrency_limit=MAX_IN_FLIGHT)
    opacity.input(None, opacity, None, js=HEAT_JS, api_visibility="private")
    _add_endpoint(predictor, upload)


def _shown(predictor: Served, answer: Answer) -> tuple[Any, ...]:
    known = trusted(answer.prediction)
    bars = gr.Label(value=answer.prediction["scores"] if known else None, visible=known)
    return answer_html(answer, predictor.facts), bars, film_html(answer), gr.Slider(visible=known)


def _add_endpoint(predictor: Served, upload: gr.File) -> None:
    """/predict_<task>, for programs; its docstring is what an MCP client reads."""

    def predict(path: str | None, heat_map: bool = False) -> dict[str, Any]:
        if not path:
            return {"file": "", "error": "no file was given"}
        with UPLOADS.use([path]):
            answer = predictor(path)
        extra = {"heat_map": heat_address(answer)} if heat_map and answer.heat is not None else {}
        return {**answer.prediction, **extra}

    predict.__doc__ = f"""Classify one frontal chest radiograph: {", ".join(predictor.labels)}.

    Research demonstration, not a medical device.

    Args:
        path: the radiograph: PNG, JPEG, TIFF (8 or 16 bit) or DICOM.
        heat_map: also give where the image spoke for the label: a PNG data address, to be stretched over the film.

    Returns:
        file, label, scores (0 to 1 for each label), decision (name, label, threshold, positive), familiarity (0 to 1;
        below .5 the image is unlike the training radiographs: do not trust the answer), warnings; or file and error.
    """
    predict.__name__ = f"predict_{predictor.task.replace('-', '_')}"
    wanted, prediction = gr.Checkbox(visible=False, label="heat_map"), gr.JSON(visible=False)
    gr.Button(visible=False).click(
        predict, [upload, wanted], prediction, api_name=predict.__name__, concurrency_limit=MAX_IN_FLIGHT
    )


def _all_tab(predictors: list[Served]) -> None:
    upload = gr.File(label="Frontal chest radiograph", height=190)
    with gr.Row():
        words = [gr.HTML() for _ in predictors]
    with gr.Row():
        films = [gr.HTML() for _ in predictors]

    def show(path: str | None) -> list[str]:
        if not path:
            return [""] * (2 * len(predictors))
        with UPLOADS.use([path]):
            answers = [predictor(path, film=True) for predictor in predictors]
        told = [
            answer_html(answer, one.facts, TITLES[one.task]) for one, answer in zip(predictors, answers, strict=True)
        ]
        return [*told, *map(film_html, answers)]

    upload.change(show, upload, [*words, *films], api_visibility="private", concurrency_limit=MAX_IN_FLIGHT)


def _batch_tab(predictors: list[Served]) -> None:
    by_title: dict[str, Served] = {TITLES[predictor.task]: predictor for predictor in predictors}
    question = gr.Radio(list(by_title), value=next(iter(by_title)), label="Question")
    uploads = gr.File(
        label=f"Radiographs, or ZIP archives of them: {MOST_FILES} films, 64 MB a file",
        file_count="multiple",
        height=200,
    )
    start = gr.Button("Classify them", variant="primary")
    note = gr.HTML()
    table = gr.Dataframe(visible=False, interactive=False, label="Answers: a click on a heading sorts", wrap=True)

    progress_bar = gr.Progress()

    def show(title: str, paths: list[str] | None, progress: gr.Progress = progress_bar) -> tuple[Any, ...]:
        if not paths:
            return '<p class="cxr-note cxr-warning" role="alert">Add some files first.</p>', gr.Dataframe(visible=False)
        predictor = by_title[title]
        with UPLOADS.use(paths):
            found = predict_files(predictor, paths, lambda done: progress(done, unit="films"))
        data = base64.b64encode(to_csv(found, predictor.labels).encode("utf-8-sig")).decode()
        failed = sum("error" in row for row in found)
        link = (
            f'<a class="cxr-button" download="predictions.csv" href="data:text/csv;base64,{data}">Download as CSV</a>'
        )
        told = f'<p role="status">{len(found)} files, {failed} of them could not be read. {link}</p>'
        return told, gr.Dataframe(value=table_rows(found, predictor.labels), visible=True)

    def predict_batch(title: str, paths: list[str] | None) -> list[dict[str, Any]]:
        """Classify many frontal chest radiographs. Research demonstration, not a medical device.

        Args:
            title: the question: "Tuberculosis", "COVID-19, four classes" or "COVID-19 or pneumonia".
            paths: radiographs, or ZIP archives of them; no more than 500 films.

        Returns:
            For each file what /predict_… gives for it; one that cannot be read has an error and stops none of the
            others.
        """
        with UPLOADS.use(paths or []):
            return predict_files(by_title[title], paths or [])

    start.click(show, [question, uploads], [note, table], api_visibility="private")
    gr.Button(visible=False).click(predict_batch, [question, uploads], gr.JSON(visible=False), api_name="predict_batch")


def serve(predictors: list[Served], failed: dict[str, str]) -> None:
    """Serve until the process is ended."""
    UPLOADS.keep_clean()
    build(predictors, failed).queue(max_size=128, default_concurrency_limit=2).launch(**LAUNCH)
