"""The page: a tab for each question, for all of them, for many files and for the figures; and the same for programs."""

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from uploads import OFFERED, UPLOADS, name_uploads_apart

# isort: split
import gradio as gr
import view
from batch import MOST_FILES, count_litter, predict_files, to_csv
from config import TASKS
from gradio import processing_utils
from images import data_address, heat_address
from results import facts_html, results_html, results_table
from worker import MAX_IN_FLIGHT, Served

HELP = "Choose the question, then drop in or paste a frontal chest radiograph: PNG, JPEG, TIFF (8 or 16 bit) or DICOM."
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
    "css": view.CSS,
    "head": view.SCRIPT,
    "footer_links": ["api"],
    "mcp_server": True,
}
EXPECTED = "give data addresses (data:image/png;base64,...), or files that were uploaded here"


def build(predictors: list[Served], failed: dict[str, str]) -> gr.Blocks:
    """The page: a tab for each predictor, for all of them, for many files and for their metrics."""
    by_title: dict[str, Served] = {}
    for predictor in predictors:
        taken = predictor.title in by_title  # two of a user's own may have the same classes
        by_title[f"{predictor.title} ({predictor.task})" if taken else predictor.title] = predictor
    examples = list(dict.fromkeys(predictor.example for predictor in predictors if predictor.example))
    with gr.Blocks(title="Chest X-ray classifiers", analytics_enabled=False) as page:
        gr.Markdown("# Chest X-ray classifiers")
        gr.HTML(f'<p class="cxr-note">{view.DISCLAIMER}</p>')
        gr.Markdown(HELP)
        with gr.Tabs():
            for title, predictor in by_title.items():
                with gr.Tab(title):
                    _film_tab([predictor], examples)
            for task in failed:
                with gr.Tab(TASKS[task]):
                    gr.HTML(view.warning_html("This predictor is not available now."))
            if len(predictors) > 1:
                with gr.Tab("All questions"):
                    _film_tab(predictors, examples)
            with gr.Tab("Many files"):
                _batch_tab(by_title)
            with gr.Tab("Results") as results:
                gr.Dataframe(
                    results_table(predictors), interactive=False, wrap=True, label="A click on a heading sorts"
                )
                details = gr.HTML(elem_classes="cxr-facts")
        results.select(lambda: "".join(map(results_html, predictors)), None, details, api_visibility="private")
        for predictor in predictors:
            _add_endpoint(predictor)
        _add_batch_endpoint(by_title)
    return page


def _film_tab(predictors: list[Served], examples: list[bytes]) -> None:
    """One film, and what each of these predictors says of it."""
    with gr.Row(elem_classes="cxr-columns"):
        with gr.Column(scale=1, elem_classes="cxr-question"):
            upload = gr.File(label="Frontal chest radiograph", height=190)
            with gr.Row(elem_classes="cxr-phantoms"):
                names = [f"Phantom {letter}" for letter in "ABC"[: len(examples)]]
                buttons = [gr.Button(name, size="sm", min_width=60) for name in names]
            if buttons:
                gr.Markdown("Phantoms are drawn, radiographs of nobody.")
            film = gr.HTML()
        answers = []
        with gr.Column(scale=len(predictors), elem_classes="cxr-answers"), gr.Row():
            for _ in predictors:
                with gr.Column(min_width=240):
                    answers.append(gr.HTML())
    for predictor in predictors:
        with gr.Accordion("About this model: figures, data, citation", open=False):
            gr.HTML(facts_html(predictor), elem_classes="cxr-facts")

    def show(path: str | None) -> list[str]:
        if not path:
            return [""] * (1 + len(predictors))
        with UPLOADS.use([path]):
            return ask(path)

    def ask(source: str | bytes, name: str = "") -> list[str]:
        each = [predictor(source, name, film=True) for predictor in predictors]
        titles = [predictor.title if len(predictors) > 1 else "" for predictor in predictors]
        parts = zip(each, predictors, titles, strict=True)
        return [view.film_html(each[0]), *(view.answer_html(one, by.facts, title) for one, by, title in parts)]

    outputs: list[Any] = [film, *answers]
    upload.change(show, upload, outputs, api_visibility="private", concurrency_limit=MAX_IN_FLIGHT)
    for button, drawn in zip(buttons, examples, strict=False):
        draw = partial(ask, drawn, "a drawn phantom")
        button.click(draw, None, outputs, api_visibility="private", concurrency_limit=MAX_IN_FLIGHT)


def _batch_tab(by_title: dict[str, Served]) -> None:
    question = gr.Radio(list(by_title), value=next(iter(by_title)), label="Question")
    label = f"Radiographs, or ZIP archives of them: {MOST_FILES} films, 64 MB a file"
    uploads = gr.File(label=label, file_count="multiple", height=200)
    start = gr.Button("Classify them", variant="primary")
    note = gr.HTML()
    table = gr.Dataframe(visible=False, interactive=False, label="Answers: a click on a heading sorts", wrap=True)
    progress_bar = gr.Progress()

    def show(title: str, paths: list[str] | None, progress: gr.Progress = progress_bar) -> tuple[Any, ...]:
        if not paths:
            return view.warning_html("Add some files first."), gr.Dataframe(visible=False)
        predictor = by_title[title]
        with UPLOADS.use(paths, OFFERED):  # for another question about them
            rows = predict_files(predictor, paths, lambda done: progress(done, unit="films"))
            address = data_address(to_csv(rows, predictor.labels).encode("utf-8-sig"), "text/csv")
        counts = {"files": len(rows), "failed": sum("error" in row for row in rows), "litter": count_litter(paths)}
        return view.render("batch.html", address=address, **counts), gr.Dataframe(
            value=view.remarks_table(rows, predictor.labels), visible=True
        )

    start.click(show, [question, uploads], [note, table], api_visibility="private")


def _add_endpoint(predictor: Served) -> None:
    """/predict_<task>, for programs; its docstring is what an MCP client reads.

    Not of a gr.File: that opens any address that an MCP client gives, and refuses without a word what is not uploaded.
    """

    def predict(path: str | dict[str, Any] | None, heat_map: bool = False) -> dict[str, Any]:
        if not path:
            return {"file": "", "error": "no file was given"}
        file = _stored(path)
        with UPLOADS.use([file]):
            answer = predictor(file)
        extra = {"heat_map": heat_address(answer)} if heat_map and answer.heat is not None else {}
        return {**answer.prediction, **extra}

    predict.__doc__ = f"""Classify one frontal chest radiograph: {", ".join(predictor.labels)}.

    Research demonstration, not a medical device.

    Args:
        path: a PNG, JPEG, TIFF or DICOM, as data address (data:image/png;base64,...) or as file uploaded here
        heat_map: also give where the image speaks for decision["label"], a PNG data address in the film's shape

    Returns:
        file, label, scores, decision, familiarity (below .5 do not trust the answer), warnings; or file and error
    """
    predict.__name__ = name = f"predict_{predictor.task.replace('-', '_')}"
    gr.api(predict, api_name=name, concurrency_limit=MAX_IN_FLIGHT)


def _add_batch_endpoint(by_title: dict[str, Served]) -> None:
    """/predict_batch; not of a gr.File: MCP clients cannot follow the schema that gradio 6.31 writes for several."""

    def predict_batch(title: str, paths: list[str | dict[str, Any]]) -> list[dict[str, Any]]:
        if title not in by_title:
            raise gr.Error(f"title: {title!r} is no question here; ask one of: {'; '.join(by_title)}")
        files = [_stored(item) for item in paths or []]
        with UPLOADS.use(files):
            return predict_files(by_title[title], files)

    predict_batch.__doc__ = f"""Classify many frontal chest radiographs. Research demonstration, not a medical device.

    Args:
        title: the question: {"; ".join(by_title)}
        paths: at most {MOST_FILES} films or ZIP archives of them, as data addresses or as files uploaded here

    Returns:
        for each film what predict_... gives for it; of an archive, films are named by their path within it
    """
    gr.api(predict_batch, api_name="predict_batch")


def _stored(item: str | dict[str, Any]) -> str:
    """The path of what was uploaded ({"path": …} of gradio's clients, a path or its address) or is a data address.

    Raises:
        gr.Error: it is neither; no address of elsewhere is opened.
    """
    text = str(item.get("path") if isinstance(item, dict) else item)
    try:
        if text.startswith("data:"):
            return str(processing_utils.save_base64_to_cache(text, str(UPLOADS.new_folder())))
        _, address, rest = text.rpartition("/file=")
        path = Path(unquote(rest) if address else rest).resolve()
        return str(UPLOADS.folder / path.relative_to(UPLOADS.folder))
    except ValueError:  # no base64, or a path of elsewhere
        raise gr.Error(EXPECTED, print_exception=False) from None


def serve(predictors: list[Served], failed: dict[str, str]) -> None:
    """Serve until the process is ended."""
    print(view.DISCLAIMER)
    UPLOADS.keep_clean()
    name_uploads_apart()
    build(predictors, failed).queue(max_size=128, default_concurrency_limit=2).launch(**LAUNCH)
