"""The Gradio app as a Space: its files, the models it serves pinned to commits, and complete front matter, in one
commit.
"""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, SpaceCard

APP = Path(__file__).parents[1] / "space"
PRELOADED = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "metrics.json",
    "environment.json",
    "recipe.json",
    "_cxr.py",
)
SHOWN = (
    "example",
    "audit",
    "curves",
    "confusion-test",
    "confusion-external",
    "thresholds-test",
    "reliability-test",
)  # of its figures


def space_files(models: dict[str, str]) -> dict[str, bytes]:
    """What a Space holds, by name.

    Args:
        models: `org/name@revision` by task; a branch is resolved to the commit that it stands for now.

    Raises:
        FileNotFoundError: there is no `space` folder beside this package: it is in the source, not in an installed
            copy.
    """
    if not (APP / "app.py").is_file():
        raise FileNotFoundError(f"{APP}: the Space's source is not here; run this from a checkout")
    files = {
        path.name: path.read_bytes()
        for path in sorted(APP.iterdir())
        if path.suffix == ".py" or path.name == "requirements.txt"
    }
    api, pinned, preload = HfApi(), [], []
    datasets: set[str] = set()
    for task, reference in models.items():
        name, _, revision = reference.partition("@")
        found = api.model_info(name, revision=revision or None)
        held = [file.rfilename for file in found.siblings or []]
        wanted = [name for name in held if "/" not in name and name.endswith(PRELOADED)]
        wanted += [file for name in SHOWN if (file := f"figures/{name}.png") in held]
        pinned.append(f'[{task}]\nmodel = "{name}"\nrevision = "{found.sha}"\n')
        preload.append(f"{name} {','.join(sorted(wanted))} {found.sha}")
        datasets |= set(getattr(found.card_data, "datasets", None) or [])
    files["models.toml"] = "\n".join(pinned).encode()
    card = SpaceCard((APP / "README.md").read_text(encoding="utf-8"))
    card.data["models"] = sorted(reference.partition("@")[0] for reference in models.values())
    card.data["preload_from_hub"] = preload
    if datasets:
        card.data["datasets"] = sorted(datasets)
    files["README.md"] = str(card).encode()
    return files


def publish_space(repo_id: str, files: dict[str, bytes], private: bool) -> tuple[str, str]:
    """Bring a Space to these files in one commit; none where it holds them already.

    Gives its address and the commit's.
    """
    api = HfApi()
    url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    operations = [CommitOperationAdd(name, path_or_fileobj=content) for name, content in files.items()]
    commit = api.create_commit(url.repo_id, operations, commit_message="The Space of cxr-hub", repo_type="space")
    return str(url), str(commit.commit_url)
