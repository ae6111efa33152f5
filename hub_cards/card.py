"""The model card: rendered from a run's own files, so that no number on it is typed by hand."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hub_cards.rendering import render

QUESTIONS = {
    "tb": "Does this frontal chest radiograph suggest tuberculosis?",
    "covid": "Does this frontal chest radiograph suggest COVID-19, another lung opacity or viral pneumonia?",
    "three-class": "Does this frontal chest radiograph suggest COVID-19 or pneumonia?",
}
HIGH_CONFIDENCE = 0.9
REQUIRED = (  # what a card must say, by file and key
    *("recipe.name", "recipe.labels", "recipe.backbone", "recipe.image_size", "config.id2label"),
    *("metrics.splits.test.n", "metrics.splits.test.metrics.accuracy.value", "metrics.calibration.temperature"),
    *("environment.date", "environment.data_fingerprint", "environment.command"),
)


def render_card(run: Path, repo_id: str = "THIS_REPOSITORY") -> str:
    """The card's text: front matter and body, with the snippets for `repo_id`.

    Raises:
        FileNotFoundError: the run lacks a file that the card needs.
        ValueError: one of these files lacks what a card must say.
    """
    facts = {
        name: json.loads((run / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("recipe", "metrics", "environment", "config")
    }
    _complain_of_gaps(run, facts)
    recipe, splits = facts["recipe"], facts["metrics"]["splits"]
    rows = _read_table(run / "manifest.csv")
    data, example = facts["environment"].get("dataset"), facts["metrics"].get("example")
    return render(
        "model_card.md.jinja",
        **facts,
        repo_id=repo_id,
        example=example,
        partition=_partition(rows),
        leaks=_leaks(rows),
        mistakes=_mistakes(run),
        native=(run / "native" / "config.json").is_file(),
        onnx=(run / "onnx" / "model.onnx").is_file(),
        front_matter=_front_matter(recipe, splits, data, example, repo_id).to_yaml(),
        labels=recipe["labels"],
        question=QUESTIONS.get(
            recipe["task"], f"Which of {', '.join(recipe['labels'])} does this chest radiograph show?"
        ),
        splits={name: splits[name] for name in ("test", "external", "validation") if name in splits},
        figures=sorted(path.name for path in (run / "figures").glob("*.png") if path.stem != "example"),
    )


def _complain_of_gaps(run: Path, facts: dict[str, Any]) -> None:
    for path in REQUIRED:
        found: Any = facts
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found in (None, "", [], {}):
            name, _, rest = path.partition(".")
            raise ValueError(f"{run / name}.json does not say {rest}: a model card without it is worth nothing")


def _read_table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _partition(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Images, groups and labels of each split."""
    found = []
    for split in ("train", "validation", "test", "external"):
        part = [row for row in rows if row["split"] == split]
        collections = sorted({row["collection"] for row in part} - {""})
        facts = {
            "split": split,
            "n": len(part),
            "groups": len({row["group"] for row in part}),
            "collections": collections,
        }
        found += [{**facts, "labels": Counter(row["label"] for row in part)}] if part else []
    return found


def _leaks(rows: list[dict[str, str]]) -> int:
    """How many groups stand in more than one split."""
    return sum(
        count > 1 for count in Counter(group for group, _ in {(row["group"], row["split"]) for row in rows}).values()
    )


def _mistakes(run: Path) -> dict[str, dict[str, Any]]:
    """Of test and external: how many answers are wrong, how many of these are sure, and the commonest three mistakes.

    An answer is the decision; older runs have the argmax alone.
    """
    found = {}
    rows = [{**row, "answer": row.get("decision", row["prediction"])} for row in _read_table(run / "predictions.csv")]
    for split in ("test", "external"):
        part = [row for row in rows if row["split"] == split]
        wrong = [row for row in part if row["answer"] != row["label"]]
        sure = sum(float(row[f"p:{row['answer']}"]) >= HIGH_CONFIDENCE for row in wrong)
        pairs = Counter((row["label"], row["answer"]) for row in wrong).most_common(3)
        found[split] = {"n": len(part), "wrong": len(wrong), "sure": sure, "pairs": pairs}
    return {split: facts for split, facts in found.items() if facts["n"]}


def _front_matter(
    recipe: dict[str, Any], splits: dict[str, Any], data: str | None, example: dict[str, Any] | None, repo_id: str
) -> ModelCardData:
    base = recipe["backbone"] if recipe["pretrained"] and "/" in recipe["backbone"] else None
    scores = [
        {"label": label, "score": round(score, 4)} for label, score in (example or {"scores": {}})["scores"].items()
    ]
    picture = f"https://huggingface.co/{repo_id}/resolve/main/figures/example.png"
    known: dict[str, Any] = {
        "base_model_relation": "finetune" if base else None,
        "widget": [{"src": picture, "example_title": "A phantom (drawn)", "output": scores}]
        if scores and "/" in repo_id
        else None,
    }
    return ModelCardData(
        language="en",
        license=recipe.get("licence"),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["chest-x-ray", "radiology", "medical-imaging", "research-only", recipe["task"]],
        datasets=[data] if data else None,
        base_model=base,
        metrics=["accuracy", "roc_auc"],
        model_name=f"cxr-{recipe['name']}",
        eval_results=_eval_results(recipe, splits["test"]["metrics"]),
        **{key: value for key, value in known.items() if value},
    )


def _eval_results(recipe: dict[str, Any], metrics: dict[str, Any]) -> list[EvalResult]:
    known = {"accuracy": "accuracy", "auroc": "roc_auc", "macro_auroc": "roc_auc", "f1": "f1", "macro_f1": "f1"}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=recipe["task"],
            dataset_name=f"{recipe['task']}, test split",
            dataset_split="test",
            metric_type=known[name],
            metric_name=name.replace("_", " "),
            metric_value=figure["value"],
        )
        for name, figure in metrics.items()
        if name in known and figure["value"] is not None
    ]
