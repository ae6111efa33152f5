"""Files to a repository of the Hub in one commit; what the Hub would refuse is asked before anything is made there."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is exported, not by __all__

# What a model repository holds. Checkpoints, skipped.csv and whatever else lies in the folder stay there.
CONTRACT = (
    *("config.json", "model.safetensors", "preprocessor_config.json", "*_cxr.py"),
    *("recipe.json", "metrics.json", "history.csv", "predictions.csv", "manifest.csv", "environment.json"),
    *("figures/*.png", "native/*.json", "native/model.safetensors", "onnx/model.onnx"),
    ".eval_results/*.yaml",  # of data that came from the Hub
    *("original/*.json", "original/*.csv", "original/head.safetensors"),  # of a run that was adapted
)


class Published(NamedTuple):
    """Where files lie on the Hub: their page, the commit that holds them, and whether that commit was made now."""

    url: str
    commit: str
    changed: bool


def check_repository(repo_id: str, repo_type: str, private: bool, writing: bool = True) -> None:
    """Look at a repository (of type model, dataset or space; it may be missing) before anything is sent there.

    Raises:
        ValueError: it is public, and a private one is asked for.
        HfHubHTTPError: the Hub does not know the account that a writer needs.
        LocalTokenNotFoundError: it does, and its token may write nothing there.
    """
    if "/" not in repo_id:
        raise HFValidationError("a name without its owner")
    validate_repo_id(repo_id)
    api = HfApi()
    if writing:
        _check_account(api.whoami(), repo_id.partition("/")[0])
    try:
        info = api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        return
    if private and not info.private:
        cure = f"hf repos settings {repo_id} --type {repo_type} --private"
        raise ValueError(f"it is public, so --private cannot hold; nothing was sent; make it private first ({cure})")


def _check_account(account: dict[str, Any], owner: str) -> None:
    token = account.get("auth", {}).get("accessToken", {})
    role, scopes = token.get("role"), token.get("fineGrained", {}).get("scoped", [])
    if role == "read" or (role == "fineGrained" and not any("repo.write" in scope["permissions"] for scope in scopes)):
        raise LocalTokenNotFoundError(f"the token of {account['name']} may only read")
    if role == "write" and owner not in (account["name"], *(org["name"] for org in account.get("orgs", []))):
        raise LocalTokenNotFoundError(f"{account['name']} is no member of {owner}")


def check_card(card: str, repo_type: str) -> None:
    """Ask the Hub whether it takes the front matter of a card.

    Raises:
        ValueError: it does not, with its reasons.
    """
    try:
        RepoCard(card).validate(repo_type)
    except ValueError as error:
        reasons = json.loads(str(error)).get("errors") or [{"message": str(error)}]
        raise ValueError(f"the Hub does not take it: {'; '.join(reason['message'] for reason in reasons)}") from error


def contract_files(run: Path) -> list[str]:
    """Paths within the run of all files that are published, except its card: the same as in the repository."""
    return sorted(
        {path.relative_to(run).as_posix() for pattern in CONTRACT for path in run.glob(pattern) if path.is_file()}
    )


def publish_run(run: Path, repo_id: str, private: bool, revision: str | None) -> Published:
    """Bring a model repository to what the run holds; see `publish_files`."""
    from hub_cards.card import render_card

    files: dict[str, Path | bytes] = {name: run / name for name in contract_files(run)}
    files["README.md"] = render_card(run, repo_id).encode()
    return publish_files(repo_id, "model", files, private, "A run of cxr-hub", CONTRACT, revision)


def publish_files(
    repo_id: str,
    repo_type: str,
    files: Mapping[str, Path | bytes],
    private: bool,
    message: str,
    owned: tuple[str, ...] = (),
    revision: str | None = None,
) -> Published:
    """Bring a repository to these files in one commit; none where it holds them already.

    A file is sent only where its bytes differ, and a large one that an interrupted push had sent is not sent again.
    Where no visibility is asked for, none is sent: an organisation's default holds.

    Args:
        files: paths or contents by their place in the repository; README.md is the card.
        owned: patterns of files that are deleted where `files` has them no more; others in the repository stay.

    Raises:
        ValueError: the Hub does not take the card; no repository was made.
    """
    card = files["README.md"]
    check_card(card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8"), repo_type)
    api, sdk = HfApi(), "gradio" if repo_type == "space" else None
    url = api.create_repo(repo_id, repo_type=repo_type, space_sdk=sdk, private=private or None, exist_ok=True)
    if revision:
        api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
    before = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
    old = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)) - set(files)
    stale = {name for name in old if any(PurePosixPath("/", name).match(f"/{pattern}") for pattern in owned)}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, path_or_fileobj=content) for name, content in files.items()
    ]
    operations += [CommitOperationDelete(name) for name in sorted(stale)]
    commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type, revision=revision)
    return Published(str(url), str(commit.commit_url), commit.oid != before)
