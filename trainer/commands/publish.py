"""`cxr push` and `cxr push-space`: a finished run to the Hub, and the app that serves such runs."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trainer.commands.options import DRY_RUN, LICENCE, PRIVATE, REPO_ID, RUN, TASKS, Commands, add_command
from trainer.errors import UsageError, WorkError

if TYPE_CHECKING:
    from trainer.run import Run


def push(
    run: "Run",
    repo_id: str,
    licence: str = "",
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    log: Callable[[str], None] = print,
) -> None:
    """Publish a run as a model repository in one commit.

    Args:
        licence: under which the model may be used; kept in the run, so that a later push needs none.
        revision: a branch other than `main`.
        dry_run: log what would be published, and send nothing.
        log: receives the files and the address.

    Raises:
        UsageError: the run is not finished, its model cannot be loaded, it has no licence or lacks what its card must
            say, or a repository name that the Hub does not take.
        WorkError: the upload failed; the same command goes on.
    """
    from hub_cards.publish import contract_files, publish_run

    if not run.finished:
        raise UsageError(f"{run.path}: not a finished run; finish it with cxr train … --resume")
    _keep_licence(run, licence.strip())
    run.load_model()  # what cannot be loaded is not published
    try:
        run.write_card()
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"no card can be written, so nothing is published: {error}") from error
    for name in ["README.md", *contract_files(run.path)]:
        log(f"  {(run.path / name).stat().st_size:>12,}  {name}")
    if dry_run:
        log(f"nothing was sent: this is what {repo_id} would hold")
        return
    with hub_errors(repo_id):
        published = publish_run(run.path, repo_id, private, revision)
    unchanged = "" if published.changed else "   (held this already: no commit was made)"
    log(f"{published.url}\n{published.commit}{unchanged}")


def _keep_licence(run: "Run", licence: str) -> None:
    recipe = run.read_json("recipe.json")
    if not licence and not recipe.get("licence"):
        raise UsageError(
            "--licence: say under which licence the model may be used, e.g. cc-by-nc-4.0; it is not published without"
        )
    if licence and licence != recipe.get("licence"):
        run.write_json("recipe.json", {**recipe, "licence": licence})


def push_space(
    repo_id: str,
    models: dict[str, str],
    private: bool = False,
    dry_run: bool = False,
    log: Callable[[str], None] = print,
) -> None:
    """Deploy the app as a Space that serves these models, `org/name[@revision]` by task.

    Raises:
        UsageError: no model is named, or the app's source is not here.
        WorkError: a model cannot be found on the Hub, or the upload failed.
    """
    from hub_cards.space import publish_space, space_files

    if not models:
        raise UsageError("no model is named: give --tb, --covid or --three-class org/name[@revision]")
    with hub_errors(repo_id):
        try:
            files = space_files(models)
        except FileNotFoundError as error:
            raise UsageError(str(error)) from error
        for name, content in files.items():
            log(f"  {len(content):>12,}  {name}")
        if dry_run:
            log(files["models.toml"].decode() + f"nothing was sent: this is what {repo_id} would hold")
            return
        log("\n".join(publish_space(repo_id, files, private)))


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what the Hub refuses into one sentence with the cure."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"--repo-id {repo_id}: expected ORG/NAME ({str(error).splitlines()[0]})") from error
    except (HfHubHTTPError, httpx.HTTPError, RuntimeError) as error:
        # the client wraps an upload that was cut off in a RuntimeError
        cause = error.__cause__ if type(error) is RuntimeError else error
        if cause is None:
            raise
        status = getattr(getattr(cause, "response", None), "status_code", None)
        cure = "log in (hf auth login) or set HF_TOKEN" if status in (401, 403) else "run the command again, it goes on"
        reason = f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}"
        raise WorkError(f"the Hub did not take it ({reason}): {cure}") from error


def add_parser(commands: Commands) -> None:
    """cxr push, cxr push-space"""
    parser = add_command(
        commands,
        "push",
        "publish a finished run as a Hub model, in one commit",
        *(RUN, REPO_ID, LICENCE, PRIVATE, DRY_RUN),
        example="cxr push runs/tb --repo-id org/tb --licence cc-by-nc-4.0 --dry-run",
    )
    parser.add_argument("--revision", metavar="R", help="a branch other than main; made where there is none")
    parser.set_defaults(main=main)
    space = add_command(
        commands,
        "push-space",
        "deploy the Gradio app as a Hub Space that serves published models",
        *(REPO_ID, PRIVATE, DRY_RUN),
        example="cxr push-space --repo-id org/app --tb org/tb --covid org/covid",
    )
    for task in TASKS:
        model_help = f"the model of the {task} tab; pinned to the commit REV stands for now"
        space.add_argument(f"--{task}", metavar="REPO[@REV]", help=model_help)
    space.set_defaults(main=main_space)


def main(options: argparse.Namespace) -> int:
    """Publish and print the address."""
    from trainer.run import load_run

    with tempfile.TemporaryDirectory() as folder:  # for a run of the Hub, which may get another licence
        run = load_run(options.model, folder)
        push(run, options.repo_id, options.licence, options.private, options.revision, options.dry_run)
    return 0


def main_space(options: argparse.Namespace) -> int:
    """Deploy and print the address."""
    models = {task: getattr(options, task.replace("-", "_")) for task in TASKS}
    push_space(options.repo_id, {task: name for task, name in models.items() if name}, options.private, options.dry_run)
    return 0
