"""`cxr push` and `cxr push-space`: a finished run to the Hub, and the app that serves such runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from hub_cards.card import write_card
from hub_cards.publish import contract_files, publish_run
from hub_cards.space import publish_space, space_files
from trainer.errors import UsageError, WorkError
from trainer.run import Run

Tell = Callable[[str], None]


def push(run: Run, repo_id: str, licence: str, private: bool, revision: str | None, dry_run: bool, tell: Tell) -> None:
    """Publish a run as a model repository and say where it lies.

    Args:
        licence: under which the model may be used; kept in the run, so that a later push needs none.
        revision: a branch other than `main`.
        dry_run: say what would be published, and send nothing.

    Raises:
        UsageError: the run is not finished, its model does not load, it has no licence or lacks what its card must say, or a
            repository name that the Hub does not take.
        WorkError: the upload failed; the same command goes on.
    """
    if not run.finished:
        raise UsageError(f"{run.path}: not a finished run; finish it with cxr train … --resume")
    run.load_model()  # what nobody could load is not published
    recipe = run.read_json("recipe.json")
    licence = licence.strip() or recipe.get("licence") or ""
    if not licence:
        raise UsageError("--licence: say under which licence the model may be used, e.g. cc-by-nc-4.0; without one it is not published")
    if licence != recipe.get("licence"):
        run.write_json("recipe.json", {**recipe, "licence": licence})
    try:
        write_card(run.path)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"no card can be written, so nothing is published: {error}") from error
    for name in ["README.md", *contract_files(run.path)]:
        tell(f"  {(run.path / name).stat().st_size:>12,}  {name}")
    if dry_run:
        tell(f"nothing was sent: this is what {repo_id} would hold")
        return
    with hub_errors(repo_id):
        found = publish_run(run.path, repo_id, private, revision)
    tell(f"{found.url}\n{found.commit}" + ("" if found.changed else "   (held this already: no commit was made)"))


def push_space(repo_id: str, models: dict[str, str], private: bool, dry_run: bool, tell: Tell) -> None:
    """Deploy the app as a Space that serves these models, `org/name[@revision]` by task, and say where it lies.

    Raises:
        UsageError: no model is named, or the app's source is not here.
        WorkError: a model cannot be found on the Hub, or the upload failed.
    """
    if not models:
        raise UsageError("no model is named: give --tb, --covid or --three-class org/name[@revision]")
    with hub_errors(repo_id):
        try:
            files = space_files(models)
        except FileNotFoundError as error:
            raise UsageError(str(error)) from error
        for name, content in files.items():
            tell(f"  {len(content):>12,}  {name}")
        if dry_run:
            tell(files["models.toml"].decode() + f"nothing was sent: this is what {repo_id} would hold")
            return
        tell("\n".join(publish_space(repo_id, files, private)))


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Say in a sentence what the Hub did not take, and the cure."""
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"--repo-id {repo_id}: expected ORG/NAME ({str(error).splitlines()[0]})") from error
    except (HfHubHTTPError, httpx.HTTPError, RuntimeError) as error:
        reason = error.__cause__ if type(error) is RuntimeError else error  # so the client wraps an upload that was cut off
        if reason is None:
            raise
        status = getattr(getattr(reason, "response", None), "status_code", None)
        cure = "log in (hf auth login) or set HF_TOKEN" if status in (401, 403) else "run the command again, it goes on"
        raise WorkError(f"the Hub did not take it ({type(reason).__name__}: {(str(reason).splitlines() or [''])[0]}): {cure}") from error
