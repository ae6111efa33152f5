"""A finished run as a model repository: the files of the contract and no others, in one commit."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from hub_cards.card import render_card

# What a model repository holds. Checkpoints, skipped.csv and whatever else lies in the folder stay there.
CONTRACT = (
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "*_cxr.py",
    "recipe.json",
    "metrics.json",
    "history.csv",
    "predictions.csv",
    "manifest.csv",
    "environment.json",
    "figures/*.png",
    "native/*.json",
    "native/model.safetensors",
    "onnx/model.onnx",
)


class Published(NamedTuple):
    """Where a run lies on the Hub: its page, the commit that holds it, and whether that commit was made now."""

    url: str
    commit: str
    changed: bool


def contract_files(run: Path) -> list[str]:
    """The files of a run that are published besides its card, by their place in the repository."""
    return sorted(
        {path.relative_to(run).as_posix() for pattern in CONTRACT for path in run.glob(pattern) if path.is_file()}
    )


def _is_ours(name: str) -> bool:
    return any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in CONTRACT)


def publish_run(run: Path, repo_id: str, private: bool, revision: str | None) -> Published:
    """Bring a repository to what the run holds, in one commit; none where it holds that already.

    A file is sent again only where its bytes differ, and large ones that an interrupted push had sent are not sent
    again. Files of the contract that the run has no more are deleted; other files of the repository stay.
    """
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    if revision:
        api.create_branch(url.repo_id, branch=revision, exist_ok=True)
    files = contract_files(run)
    old = {name for name in api.list_repo_files(url.repo_id, revision=revision) if _is_ours(name)}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, path_or_fileobj=run / name) for name in files
    ]
    operations.append(CommitOperationAdd("README.md", path_or_fileobj=render_card(run, url.repo_id).encode()))
    operations += [CommitOperationDelete(name) for name in sorted(old - set(files))]
    before = api.repo_info(url.repo_id, revision=revision).sha
    commit = api.create_commit(url.repo_id, operations, commit_message="A run of cxr-hub", revision=revision)
    return Published(str(url), str(commit.commit_url), commit.oid != before)
