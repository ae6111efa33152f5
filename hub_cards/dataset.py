"""A prepared set of radiographs as a dataset repository: its card, and one commit."""

from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, DatasetCardData, HfApi

from hub_cards.rendering import render


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
    api = HfApi()
    url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    operations = [
        CommitOperationAdd(path.relative_to(folder).as_posix(), path_or_fileobj=path)
        for path in sorted(folder.rglob("*.parquet"))
    ]
    card = render_dataset_card(url.repo_id, licence, facts)
    operations.append(CommitOperationAdd("README.md", path_or_fileobj=card.encode()))
    api.create_commit(
        url.repo_id, operations, commit_message=f"{sum(facts['splits'].values())} radiographs", repo_type="dataset"
    )
    return str(url)
