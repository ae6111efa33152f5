"""A prepared set of radiographs as a dataset repository: its card, and one commit."""

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from hub_cards.formatting import render
from hub_cards.publish import publish_files


def render_dataset_card(repo_id: str, licence: str, facts: dict[str, Any]) -> str:
    """README.md of a dataset.

    Args:
        facts: {"splits": {name: n}, "classes": {label: n}, "collections", "sources": [{title, page, licence,
            citation}], "patients_known": whether groups name patients}.
    """
    total = sum(facts["splits"].values())
    size = next((name for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K")) if total < limit), "10K<n<100K")
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in facts["splits"]]
    front = DatasetCardData(
        language="en",
        license=licence,
        task_categories=["image-classification"],
        tags=["chest-x-ray", "radiology", "medical-imaging", "research-only"],
        pretty_name=repo_id.partition("/")[2],
        size_categories=size,
        configs=[{"config_name": "default", "data_files": files}],
    )
    return render(
        "dataset_card.md.jinja", front_matter=front.to_yaml(), repo_id=repo_id, licence=licence, total=total, **facts
    )


def publish_dataset(folder: Path, repo_id: str, licence: str, private: bool, facts: dict[str, Any]) -> str:
    """Upload FOLDER/data/*.parquet and the card to a dataset repository in one commit; gives its address."""
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.parquet")}
    files["README.md"] = render_dataset_card(repo_id, licence, facts).encode()
    message = f"{sum(facts['splits'].values())} radiographs"
    return publish_files(repo_id, "dataset", files, private, message, ("data/*-of-*.parquet",)).url
