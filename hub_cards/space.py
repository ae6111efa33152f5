"""The Gradio app as a Space: its files, the models it serves pinned to commits, and complete front matter."""

from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, SpaceCard

APP = Path(__file__).parents[1] / "space"
PARTS = ("*.py", "page.css", "page.js", "templates/*.html", "requirements.txt")
PRELOADED = (  # by the ends of their names
    *("config.json", "preprocessor_config.json", "model.safetensors", "_cxr.py", ".png"),
    *("metrics.json", "environment.json", "recipe.json"),
)


def find_model(reference: str) -> ModelInfo:
    """A model of the Hub by `org/name[@revision]`; a branch is resolved to the commit that it stands for now.

    Raises:
        ValueError: it is not a model of this project.
    """
    name, _, revision = reference.partition("@")
    info = HfApi().model_info(name, revision=revision or None)
    if not {"modeling_cxr.py", "model.safetensors"} <= {file.rfilename for file in info.siblings or []}:
        raise ValueError(f"{reference} holds no model of cxr-hub that the app could load; cxr push makes one")
    return info


def space_files(models: dict[str, ModelInfo]) -> dict[str, bytes]:
    """What a Space holds, by name; `models` by task.

    Raises:
        FileNotFoundError: there is no `space` folder beside this package: it is in the source, not in an installed
            copy.
    """
    if not (APP / "app.py").is_file():
        raise FileNotFoundError(f"{APP}: the Space's source is not here; run this from a checkout")
    parts = [path for pattern in PARTS for path in APP.glob(pattern)]
    files = {path.relative_to(APP).as_posix(): path.read_bytes() for path in sorted(parts)}
    pinned = [f'[{task}]\nmodel = "{info.id}"\nrevision = "{info.sha}"\n' for task, info in models.items()]
    files["models.toml"] = "\n".join(pinned).encode()
    card = SpaceCard((APP / "README.md").read_text(encoding="utf-8"))
    card.data["models"] = sorted({info.id for info in models.values()})
    if preload := [_preload(info) for info in models.values() if not needs_token(info)]:
        card.data["preload_from_hub"] = preload
    datasets = {name for info in models.values() for name in getattr(info.card_data, "datasets", None) or []}
    if datasets:
        card.data["datasets"] = sorted(datasets)
    files["README.md"] = str(card).encode()
    return files


def needs_token(info: ModelInfo) -> str:
    """`private` or `gated` where not everybody may read the model, else nothing."""
    return "private" if info.private else "gated" if info.gated else ""


def _preload(info: ModelInfo) -> str:
    names = [file.rfilename for file in info.siblings or []]
    wanted = [name for name in names if name.endswith(PRELOADED) and not name.startswith("native/")]
    return f"{info.id} {','.join(sorted(wanted))} {info.sha}"
