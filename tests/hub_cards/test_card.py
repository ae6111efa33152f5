"""The card says what the run's files say, and nothing else."""

import csv
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hub_cards.card import lowest_versions, render_card
from hub_cards.formatting import format_metric, format_number, format_table
from trainer.run import Run


def test_the_front_matter_is_read_by_the_hubs_own_parser(run):
    card = ModelCard.load(run / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.to_dict().get("base_model") is None  # random weights
    metrics = json.loads((run / "metrics.json").read_text())["splits"]["test"]["metrics"]
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results == {name: metrics[name]["value"] for name in results}
    assert {"accuracy", "auroc"} <= set(results)


def every_figure(tree):
    if isinstance(tree, dict) and {"value", "low", "high"} <= set(tree):
        yield tree
    elif isinstance(tree, (dict, list)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from every_figure(part)


def test_every_figure_on_the_card_stands_in_the_run(run):
    body = (run / "README.md").read_text().split("---", 2)[2]
    metrics = json.loads((run / "metrics.json").read_text())
    splits = metrics["splits"]
    written = re.findall(r"\| ([.\d]+ \([.\d]+–[.\d]+\))", body)
    known = {format_metric(figure) for figure in every_figure(metrics)}
    assert len(written) > 10
    assert set(written) <= known
    for split, report in splits.items():
        assert f"{split.capitalize()}: n = {report['n']}" in body


def test_a_base_model_is_a_hub_id_or_absent(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    recipe = json.loads((copy / "recipe.json").read_text())
    for backbone, pretrained, expected in (
        ("google/mobilenet_v2_1.0_224", True, "google/mobilenet_v2_1.0_224"),
        ("mobilenet_v2_1.0_224", True, None),
        ("google/mobilenet_v2_1.0_224", False, None),
    ):
        (copy / "recipe.json").write_text(json.dumps({**recipe, "backbone": backbone, "pretrained": pretrained}))
        assert yaml.safe_load(render_card(copy).split("---")[1]).get("base_model") == expected


def test_another_metrics_file_gives_another_card(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["splits"]["test"]["metrics"]["accuracy"] = {"value": 0.123, "low": 0.1, "high": 0.2, "method": "Wilson"}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    Run(copy).write_card()
    assert ".123 (.100–.200)" in (copy / "README.md").read_text()
    assert ".123 (.100–.200)" not in (run / "README.md").read_text()


def test_the_card_says_what_it_must_and_never_that_something_is_missing(run):
    card = (run / "README.md").read_text()
    assert "not a medical device" in card
    assert "more information needed" not in card.lower()
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", card):
        assert (run / picture).is_file()


def test_every_snippet_on_the_card_runs(run, film, loaded_python, tmp_path):
    snippets = re.findall(r"```python\n(.*?)```", (run / "README.md").read_text(), flags=re.DOTALL)
    assert len(snippets) == 2  # by pipeline, and without code from the repository
    shutil.copyfile(film, tmp_path / "radiograph.png")
    for snippet in snippets:
        done = loaded_python.run(["-c", snippet.replace("THIS_REPOSITORY", str(run))], tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Tuberculosis" in done.stdout


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ({"value": 0.9524, "low": 0.93, "high": 1.0}, ".952 (.930–1.000)"),
        ({"value": None, "low": None, "high": None}, "–"),
        (None, "–"),
        ({"value": 0.5, "low": None, "high": None}, ".500"),
        ({"value": 0.99985, "low": 0.9994, "high": 1.0}, ".9999 (.999–1.000)"),
        ({"value": 0.9999999, "low": 0.0004, "high": 1.0}, ".9999999 (.0004–1.000)"),
        ({"value": 0.0, "low": 0.0, "high": 3e-9}, ".000 (.000–3e-09)"),
    ],
)
def test_figures_are_written_with_their_interval(figure, text):
    assert format_metric(figure) == text


def test_a_card_that_cannot_say_what_it_must_is_an_error(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    facts = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps({**facts, "data_fingerprint": ""}))
    with pytest.raises(ValueError, match=r"environment\.json does not say data_fingerprint"):
        render_card(copy)


def test_the_mistakes_on_the_card_are_those_of_the_predictions(run):
    with (run / "predictions.csv").open() as stream:
        wrong = [row for row in csv.DictReader(stream) if row["split"] == "test" and row["decision"] != row["label"]]
    metrics = json.loads((run / "metrics.json").read_text())
    said = re.search(r"- test: (\d+) of (\d+) wrong", (run / "README.md").read_text())
    assert [int(number) for number in said.groups()] == [len(wrong), metrics["splits"]["test"]["n"]]


def test_the_headline_is_of_the_threshold_that_ships(run):
    card = (run / "README.md").read_text()
    metrics, config = (json.loads((run / f"{name}.json").read_text()) for name in ("metrics", "config"))
    figures = metrics["splits"]["test"]["metrics"]
    told = {
        "AUROC": "auroc",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "accuracy (argmax)": "accuracy",
    }
    said = ", ".join(f"{words} {format_metric(figures[key])}" for words, key in told.items())
    assert f"| test | n = {metrics['splits']['test']['n']}: {said} |" in card
    assert (
        f"Tuberculosis from {format_number(config['operating_point']['threshold'])} on ({config['operating_point']['name']}), the threshold that ships."
        in card
    )


def test_points_are_told_with_what_they_were_chosen_on(run, tmp_path):
    card, metrics = (run / "README.md").read_text(), json.loads((run / "metrics.json").read_text())
    point = metrics["operating_points"][0]
    assert (
        f"| Tuberculosis ({', '.join([point['name'], *point['also']])}) | {format_number(point['threshold'])} | {point['aim']} |"
        in card
    )
    assert (
        f"**Few images** for Tuberculosis: chosen on {point['cases']} cases and {point['controls']} controls." in card
    )
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    for found in metrics["operating_points"]:
        found |= {"within": ["north", "south"], "cases": 50, "controls": 60}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    card = render_card(copy)
    assert "the worst of north, south counts, and of all others together" in card
    assert "Few images" not in card


def test_a_run_of_before_there_were_decisions_has_a_card_that_says_so(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    metrics = json.loads((copy / "metrics.json").read_text())
    del metrics["decision"]
    for point in metrics["operating_points"]:
        for key in ("also", "within", "cases", "controls"):
            del point[key]
    (copy / "metrics.json").write_text(json.dumps(metrics))
    with (copy / "predictions.csv").open() as stream:
        rows = [{key: value for key, value in row.items() if key != "decision"} for row in csv.DictReader(stream)]
    with (copy / "predictions.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    card = render_card(copy)
    assert "are of the decision: a score of .5 for Tuberculosis." in card
    wrong = sum(row["split"] == "test" and row["prediction"] != row["label"] for row in rows)
    assert f"- test: {wrong} of {metrics['splits']['test']['n']} wrong" in card


def test_the_card_names_the_lowest_versions_that_do(run):
    """As pyproject.toml pins them; an older transformers breaks on the code that travels."""
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        pins = tomllib.load(file)["project"]["dependencies"]
    lowest = lowest_versions()
    for name, version in lowest.items():
        assert any(pin.startswith(f"{name}>={version},") for pin in pins)
    (words,) = re.findall(r"needs `pip install ([^`]+)`", (run / "README.md").read_text())
    assert shlex.split(words) == [f"{name}>={version}" for name, version in lowest.items()]
    assert {"transformers", "torch"} <= set(lowest)


def test_a_table_has_a_row_for_each_name():
    metric = {"value": 0.5, "low": 0.25, "high": 0.75}
    rows = {"north": {"n": 3, "metrics": {"auroc": metric}}, "south": {"n": 0, "auroc": None}}
    table = "| collection | n | AUROC |\n| --- | --- | --- |\n| north | 3 | .500 (.250–.750) |\n| south | 0 | – |"
    assert format_table(rows, "collection", ["n", "auroc"]) == table
