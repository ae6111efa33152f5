"""`cxr push` and `cxr push-space`: a finished run to the Hub, and the app that serves such runs."""

import argparse
import re
from typing import TYPE_CHECKING

from trainer.commands.options import DRY_RUN, LICENCE, PRIVATE, REPO_ID, RUN_FOLDER, Commands, add_command, log
from trainer.errors import UsageError, WorkError, hub_errors
from trainer.tasks import TASKS

if TYPE_CHECKING:
    from trainer.run import Run


def check_target(repo_id: str, licence: str, private: bool = False, repo_type: str = "model", send: bool = True) -> str:
    """Ask the Hub whether it would take this, before any work is done and before anything is made there.

    Gives the licence as the Hub writes it: "CC BY 4.0" is cc-by-4.0. With `send` False nothing will be sent: no account
    is needed, and a Hub that is away is noted only.

    Raises:
        UsageError: no licence, one that the Hub does not know, or a public repository where `private` is asked for.
        WorkError: no account, or the Hub cannot be reached.
    """
    from hub_cards.publish import check_card, check_repository

    licence = "-".join(licence.lower().split())
    if not licence:
        raise UsageError("--licence: say which licence it is published under, e.g. cc-by-nc-4.0; without one it is not")
    try:
        with hub_errors(f"--repo-id {repo_id}"):
            check_repository(repo_id, repo_type, private, send)
        with hub_errors(f"--licence {licence}"):
            check_card(f"---\nlicense: {licence}\n---\n", repo_type)
    except WorkError as error:
        if send:
            raise
        log(f"note: neither the licence nor the repository could be checked ({error})")
    return licence


def push(
    run: "Run",
    repo_id: str,
    licence: str = "",
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
) -> None:
    """Publish a run as a model repository in one commit.

    Args:
        licence: under which the model may be used; kept in the run, so that a later push needs none.
        private: refused where the repository is public.
        revision: a branch other than `main`.
        dry_run: print what would be published, and send nothing.

    Raises:
        UsageError: the run is not finished, cannot be loaded or lacks what its card must say, or see `check_target`.
        WorkError: the upload failed; the same command goes on.
    """
    from hub_cards.publish import contract_files, publish_run

    if not run.finished:
        cures = "cxr train … --resume finishes one, hf download ID --local-dir RUN fetches one"
        raise UsageError(f"{run.path}: not a finished run's folder; {cures}")
    if revision and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", revision):
        raise UsageError(f"--revision {revision}: not the name of a branch; letters, digits, . _ - and / make one")
    recipe = run.read_json("recipe.json")
    licence = check_target(repo_id, licence.strip() or recipe.get("licence") or "", private, send=not dry_run)
    run.load_model()  # what cannot be loaded is not published
    print(f"  {len(_card(run, repo_id).encode()):>12,}  README.md")
    for name in contract_files(run.path):
        print(f"  {(run.path / name).stat().st_size:>12,}  {name}")
    if dry_run:
        print(f"nothing was sent: this is what {repo_id} would hold")
        return
    run.write_json("recipe.json", {**recipe, "licence": licence})
    run.write_card()
    with hub_errors(f"--repo-id {repo_id}"):
        published = publish_run(run.path, repo_id, private, revision)
    unchanged = "" if published.changed else "   (held this already: no commit was made)"
    print(f"{published.url}\n{published.commit}{unchanged}")


def _card(run: "Run", repo_id: str) -> str:
    """The card as it would be published; UsageError where it cannot be written."""
    from hub_cards.card import render_card

    try:
        return render_card(run.path, repo_id)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"no card can be written, so nothing is published: {error}") from error


def push_space(repo_id: str, models: dict[str, str], private: bool = False, dry_run: bool = False) -> None:
    """Deploy the app as a Space that serves these models, `org/name[@revision]` by task.

    Raises:
        UsageError: no model is named, one is no model of this project, the app's source is not here, or the Space is
            public where `private` is asked for.
        WorkError: a model cannot be found on the Hub, or the upload failed.
    """
    from hub_cards.publish import check_repository, publish_files
    from hub_cards.space import find_model, needs_token, space_files

    if not models:
        raise UsageError("no model is named: give --tb, --covid or --three-class org/name[@revision]")
    with hub_errors(f"--repo-id {repo_id}"):
        check_repository(repo_id, "space", private, writing=not dry_run)
    infos = {}
    for task, reference in models.items():
        with hub_errors(f"--{task} {reference}"):
            infos[task] = find_model(reference)
    try:
        files = space_files(infos)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    for name, content in files.items():
        print(f"  {len(content):>12,}  {name}")
    for info in infos.values():
        if state := needs_token(info):
            cure = "give the Space a secret HF_TOKEN of an account that may (its Settings > Variables and secrets)"
            print(f"note: {info.id} is {state}, and the Space cannot read it by itself: {cure}")
    if dry_run:
        print(files["models.toml"].decode() + f"nothing was sent: this is what {repo_id} would hold")
        return
    with hub_errors(f"--repo-id {repo_id}"):
        published = publish_files(repo_id, "space", files, private, "The Space of cxr-hub")
    print(f"{published.url}\n{published.commit}")


def add_parser(commands: Commands) -> None:
    """cxr push, cxr push-space"""
    parser = add_command(
        commands,
        "push",
        "publish a finished run as a Hub model, in one commit",
        *(RUN_FOLDER, REPO_ID, LICENCE, PRIVATE, DRY_RUN),
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

    run = load_run(options.model, hub=False)
    for note in run.threshold_note():
        log(f"note: {note}")
    push(run, options.repo_id, options.licence, options.private, options.revision, options.dry_run)
    return 0


def main_space(options: argparse.Namespace) -> int:
    """Deploy and print the address."""
    models = {task: getattr(options, task.replace("-", "_")) for task in TASKS}
    push_space(options.repo_id, {task: name for task, name in models.items() if name}, options.private, options.dry_run)
    return 0
