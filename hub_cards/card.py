"""The model card: rendered from a run's own files, so that no number on it is typed by hand."""

import json
from collections import Counter
from hashlib import sha256
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from packaging.requirements import Requirement

from hub_cards.formatting import format_metric, render

QUESTIONS = {
    "tb": "Does this frontal chest radiograph suggest tuberculosis?",
    "covid": "Does this frontal chest radiograph suggest COVID-19, another lung opacity or viral pneumonia?",
    "three-class": "Does this frontal chest radiograph suggest COVID-19 or pneumonia?",
}
HIGH_CONFIDENCE = 0.9
PACKAGES = ("transformers", "torch", "torchvision", "timm", "pillow", "pydicom")  # of the code that travels
METRIC_TYPES = {"accuracy": "accuracy", "auroc": "roc_auc", "macro_auroc": "roc_auc", "f1": "f1", "macro_f1": "f1"}
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
    names = ("recipe", "metrics", "environment", "config")
    facts = {name: json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    _check_facts(run, facts)
    recipe, splits = facts["recipe"], facts["metrics"]["splits"]
    labels = ", ".join(recipe["labels"])
    rows = _read_table(run / "manifest.csv")
    return render(
        "model_card.md.jinja",
        **facts,
        repo_id=repo_id,
        requirements=" ".join(f'"{name}>={version}"' for name, version in lowest_versions().items()),
        example=facts["metrics"].get("example"),
        partition=_partition(rows),
        leaks=int((rows.groupby("group")["split"].nunique() > 1).sum()),
        mistakes=_mistakes(_read_table(run / "predictions.csv")),
        native=(run / "native" / "config.json").is_file(),
        onnx=(run / "onnx" / "model.onnx").is_file(),
        front_matter=_front_matter(facts).to_yaml(),
        labels=recipe["labels"],
        question=QUESTIONS.get(recipe["task"], f"Which of {labels} does this chest radiograph show?"),
        splits={name: splits[name] for name in ("external", "test", "validation") if name in splits},
        weights=sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        figures=sorted(path.name for path in (run / "figures").glob("*.png") if path.stem != "example"),
    )


def render_eval_results(run: Path) -> str | None:
    """The test metrics of a run as `.eval_results/*.yaml` has them; None unless its test films came from a dataset of
    the Hub: not of other data, nor of a run whose metrics are those of local films now.
    """
    facts = {
        name: json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in ("metrics", "environment")
    }
    dataset, test = facts["environment"].get("dataset"), facts["metrics"]["splits"]["test"]
    if not dataset or "adaptation" in facts["metrics"]:
        return None
    entries = [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=METRIC_TYPES[name],
            value=metric["value"],
            date=facts["environment"]["date"],
            notes=f"test split, n = {test['n']}, {format_metric(metric)}, 95 % interval",
        )
        for name, metric in test["metrics"].items()
        if name in METRIC_TYPES and metric["value"] is not None
    ]
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return text


def lowest_versions() -> dict[str, str]:
    """The lowest version of each package that a published model needs, as this project pins it."""
    pins = {pin.name: pin.specifier for pin in map(Requirement, requires("cxr-hub") or [])}
    return {name: next(pin.version for pin in pins[name] if pin.operator == ">=") for name in PACKAGES}


def _check_facts(run: Path, facts: dict[str, Any]) -> None:
    for path in REQUIRED:
        value: Any = facts
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value in (None, "", [], {}):
            name, _, rest = path.partition(".")
            raise ValueError(f"{run / name}.json does not say {rest}: a model card without it is worth nothing")


def _read_table(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def _partition(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Images, groups, labels and collections of each split."""
    parts = {split: rows[rows["split"] == split] for split in ("train", "validation", "test", "external")}
    return {
        split: {
            "n": len(part),
            "groups": part["group"].nunique(),
            "labels": Counter(part["label"]),
            "collections": sorted(set(part["collection"]) - {""}),
        }
        for split, part in parts.items()
        if len(part)
    }


def _mistakes(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Of test and external: how many answers are wrong, how many of these are sure, and the commonest three mistakes.

    An answer is the decision; older runs have the argmax alone.
    """
    rows = rows.assign(answer=rows.get("decision", rows["prediction"]))
    mistakes = {}
    for split in ("test", "external"):
        part = rows[rows["split"] == split]
        wrong = part[part["answer"] != part["label"]]
        sure = sum(float(row[f"p:{row['answer']}"]) >= HIGH_CONFIDENCE for _, row in wrong.iterrows())
        pairs = Counter(zip(wrong["label"], wrong["answer"], strict=True)).most_common(3)
        if len(part):
            mistakes[split] = {"n": len(part), "wrong": len(wrong), "sure": sure, "pairs": pairs}
    return mistakes


def _front_matter(facts: dict[str, Any]) -> ModelCardData:
    recipe, metrics = facts["recipe"], facts["metrics"]
    base = recipe["backbone"] if recipe["pretrained"] and "/" in recipe["backbone"] else None
    dataset = facts["environment"].get("dataset")
    return ModelCardData(
        language="en",
        license=recipe.get("licence"),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["chest-x-ray", "radiology", "medical-imaging", "research-only", recipe["task"]],
        datasets=[dataset] if dataset else None,
        base_model=base,
        metrics=["accuracy", "roc_auc"],
        model_name=f"cxr-{recipe['name']}",
        eval_results=_eval_results(recipe["task"], metrics["splits"]["test"]["metrics"]),
        base_model_relation="finetune" if base else None,
    )


def _eval_results(task: str, metrics: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=task,
            dataset_name=f"{task}, test split",
            dataset_split="test",
            metric_type=METRIC_TYPES[name],
            metric_name=name.replace("_", " "),
            metric_value=metric["value"],
        )
        for name, metric in metrics.items()
        if name in METRIC_TYPES and metric["value"] is not None
    ]
