"""The command line: one small function a sub-command; heavy imports happen inside."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer import __version__
from trainer.errors import UsageError, WorkError

DISCLAIMER = "Research demonstration, not a medical device: never use it for a diagnosis."
EXAMPLES = f"""examples:
  cxr data phantom --output phantoms                     drawn radiographs, to try everything without data
  cxr train tb --data phantoms --output runs/tb --no-pretrained
  cxr train tb --data my-folder --output runs/mine       my-folder/<class>/*.png (or .jpg, .tif, .dcm)
  cxr evaluate runs/tb --data other.csv --split external
  cxr predict runs/tb film.dcm

{DISCLAIMER}"""

AUDITED = """Where the lungs are it reads from the manifest's column `mask` (as `cxr data get` writes it) or from a lung_masks.csv
with file,mask beside the data; without a mask a central area counts as the lungs. Findings, for the heat map: a
lesion_boxes.csv with file,x0,y0,x1,y1 (fractions of the picture), or the masks beside phantoms.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 the work failed, 2 wrong use, 130 stopped by the user."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(words)
    options.command_words = words
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        command: Callable[[argparse.Namespace], int] = options.run
        return command(options)
    except UsageError as error:
        print(f"cxr: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the reader went away, as `| head` does
        return 0
    except (WorkError, OSError) as error:
        print(f"cxr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cxr: stopped; a training goes on with the same command and --resume", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `run` to its function."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="cxr", description="Chest X-ray classifiers: train, evaluate, predict.", epilog=EXAMPLES, formatter_class=form
    )
    parser.add_argument("--version", action="version", version=f"cxr-hub {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_audit(commands)
    _add_predict(commands)
    _add_compare(commands)
    _add_export(commands)
    _add_push(commands)
    _add_push_space(commands)
    recipes = commands.add_parser("recipes", help="list the recipes", epilog=DISCLAIMER)
    recipes.add_argument("--json", action="store_true", help="all fields, as JSON")
    recipes.set_defaults(run=run_recipes)
    _add_data(commands)
    return parser


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("train", help="train a recipe on a folder or manifest", epilog=DISCLAIMER)
    parser.add_argument("recipe", help="its name; see cxr recipes")
    parser.add_argument(
        "--data",
        required=True,
        help="DIR/<class>/*.png, DIR/{train,validation,test}/<class>/*.png, or a CSV with file,label[,split,group,collection]",
    )
    parser.add_argument("--output", required=True, metavar="RUN", help="the folder to leave the run in")
    parser.add_argument("--backbone", metavar="ID_OR_DIR", help="another backbone than the recipe's: a Hub id or a folder")
    parser.add_argument("--no-pretrained", action="store_true", help="start from random weights, downloading nothing")
    parser.add_argument(
        "--positive",
        metavar="LABEL",
        help="with two classes of your own: the one that is looked for (default: the other than normal, healthy, negative, …)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the recipe, e.g. --set epochs=3 --set augment=none",
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop (exit 1) when a patient or a copy of a picture stands on two sides of the split"
    )
    parser.add_argument("--resume", action="store_true", help="go on where a stopped training left RUN")
    parser.add_argument(
        "--bank-size",
        type=float,
        default=8.0,
        metavar="GB",
        help="room for what frozen layers give, computed once and kept in RUN while it trains (default 8; 0: compute it in each epoch)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network with torch.compile: minutes at the start, worth it on a GPU"
    )
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="publish the finished run there, as cxr push does; needs --licence")
    parser.add_argument("--licence", "--license", default="", help="under which the model may be used, e.g. cc-by-nc-4.0")
    parser.add_argument("--private", action="store_true", help="with --push-to-hub: make the repository private")
    parser.add_argument("--report-to", choices=("none", "tensorboard", "trackio"), default="none", help="also log to a tracker")
    parser.set_defaults(run=run_train)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("evaluate", help="figures of a run on other data", epilog=DISCLAIMER)
    parser.add_argument("model", metavar="RUN", help="a run's folder, or org/name[@revision] on the Hub")
    parser.add_argument("--data", required=True, help="a folder or a manifest, as for cxr train")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "external"),
        default="test",
        help="default: test; data without splits is used whole",
    )
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON; the run itself is never changed")
    parser.add_argument(
        "--prevalence",
        type=float,
        action="append",
        metavar="P",
        help="for predictive values: the share of the ill among those asked about, e.g. --prevalence .02 (default .01, .05 and .20)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run_evaluate)


def _add_audit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "audit",
        help="are the lungs what a run reads? asked by hiding them, and of its heat maps",
        description="Asks a run about pictures with their lungs hidden, with nothing but the lungs, and with all sources equally "
        "sharp; how well its features tell the collections; and where its heat map points.",
        epilog=AUDITED + DISCLAIMER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="RUN", help="a run's folder, or org/name[@revision] on the Hub")
    parser.add_argument("--data", required=True, help="a folder or a manifest, as for cxr train")
    parser.add_argument("--split", choices=("validation", "test", "external"), default="test", help="default: test")
    parser.add_argument("--images", type=int, default=700, metavar="N", help="ask about so many at random (default 700)")
    parser.add_argument("--output", metavar="FILE", help="write the audit as JSON there and leave the run as it is")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run_audit)


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("predict", help="ask a run about radiographs", epilog=DISCLAIMER)
    parser.add_argument("model", metavar="RUN", help="a run's folder, or org/name[@revision] on the Hub")
    parser.add_argument("files", nargs="+", metavar="FILE", help="PNG, JPEG, TIFF (8 or 16 bit) or DICOM")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run_predict)


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("export", help="write a run's model as ONNX, checked against PyTorch", epilog=DISCLAIMER)
    parser.add_argument("model", metavar="RUN", help="a run's folder, in which onnx/model.onnx is written, or org/name[@revision]")
    parser.add_argument("--output", metavar="DIR", help="for a model of the Hub: where a copy of it goes, and the export into that")
    parser.set_defaults(run=run_export)


def _add_push(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("push", help="publish a finished run as a Hub model, in one commit", epilog=DISCLAIMER)
    parser.add_argument("model", metavar="RUN", help="a run's folder, or org/name[@revision] of the Hub")
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the model repository; made where there is none")
    parser.add_argument("--licence", "--license", default="", help="under which the model may be used, e.g. cc-by-nc-4.0; the run keeps it")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", metavar="R", help="a branch other than main; made where there is none")
    parser.add_argument("--dry-run", action="store_true", help="say what would be published; send nothing")
    parser.set_defaults(run=run_push)


def _add_push_space(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("push-space", help="deploy the Gradio app as a Hub Space that serves published models", epilog=DISCLAIMER)
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the Space; made where there is none")
    for task in ("tb", "covid", "three-class"):
        parser.add_argument(f"--{task}", metavar="REPO[@REV]", help=f"the model of the {task} tab; pinned to the commit REV stands for now")
    parser.add_argument("--private", action="store_true", help="make the Space private")
    parser.add_argument("--dry-run", action="store_true", help="say what would be published; send nothing")
    parser.set_defaults(run=run_push_space)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("compare", help="runs beside each other and beside their sources' figures", epilog=DISCLAIMER)
    parser.add_argument("models", nargs="+", metavar="RUN", help="runs' folders, or org/name[@revision] on the Hub")
    parser.add_argument("--split", choices=("validation", "test", "external"), default="test", help="default: test")
    parser.set_defaults(run=run_compare)


def _add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    data = commands.add_parser("data", help="inspect data, split it, draw phantoms", epilog=DISCLAIMER)
    kinds = data.add_subparsers(dest="kind", required=True, metavar="COMMAND")
    get = kinds.add_parser("get", help="fetch a public set and lay it out", epilog=DISCLAIMER)
    get.add_argument("source", nargs="?", metavar="SOURCE", help="its name; without one the sets are listed")
    get.add_argument("--output", metavar="DIR", help="where to lay it out: DIR/<label>/…, manifest.csv, SOURCE.json; masks in DIR_masks")
    get.add_argument(
        "--from",
        dest="origins",
        action="append",
        default=[],
        metavar="FILE",
        help="an archive or folder that you downloaded, instead of a download; NAME=FILE for each part of a merged set",
    )
    get.set_defaults(run=run_get)
    check = kinds.add_parser("check", help="find bad files, copies, label conflicts, leaks and shortcuts", epilog=DISCLAIMER)
    check.add_argument("data", metavar="DATA", help="a folder or a manifest, as for cxr train")
    check.add_argument("--output", metavar="DIR", help="write report.html (with thumbnails) and report.json there")
    check.add_argument("--strict", action="store_true", help="exit 1 when a copy or a patient stands on two sides of the split")
    check.add_argument("--json", action="store_true", help="print the whole report as JSON")
    check.set_defaults(run=run_check)
    split = kinds.add_parser("split", help="write a manifest with a split that does not leak", epilog=DISCLAIMER)
    split.add_argument("data", metavar="DATA", help="a folder or a manifest, as for cxr train")
    split.add_argument("--output", required=True, metavar="CSV", help="the manifest to write; give it to cxr train as --data")
    split.add_argument(
        "--split",
        choices=("grouped", "source", "leave-one-collection-out"),
        default="grouped",
        help="grouped (default): patients and near copies together, 70/15/15; a split cell that is filled stays, so add new "
        "images with empty cells to the CSV that this wrote; source: the split of the project being reproduced; "
        "leave-one-collection-out: each collection in turn is external",
    )
    split.add_argument("--task", default="tb", help="for --split source: tb (default), covid or three-class")
    split.add_argument("--hold-out", metavar="COLLECTION", help="for leave-one-collection-out: only this one")
    split.add_argument("--seed", type=int, default=0, metavar="S", help="another seed is another split (default 0)")
    split.add_argument("--anew", action="store_true", help="for grouped: forget the split that the data has, except external")
    split.set_defaults(run=run_split)
    push = kinds.add_parser("push", help="publish a prepared folder as a Hub dataset with its card", epilog=DISCLAIMER)
    push.add_argument("data", metavar="DATA", help="a folder or a manifest, as for cxr train")
    push.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the dataset repository; made where there is none")
    push.add_argument("--licence", "--license", required=True, help="under which the pictures may be published, e.g. cc-by-4.0")
    push.add_argument("--private", action="store_true", help="make the repository private")
    push.set_defaults(run=run_push_data)
    phantom = kinds.add_parser("phantom", help="draw phantoms: radiographs of nobody, with a known finding and its mask", epilog=DISCLAIMER)
    phantom.add_argument("--output", required=True, metavar="DIR", help="a new folder; masks go to DIR_masks beside it")
    phantom.add_argument("--task", default="tb", help="whose labels: tb (default), covid or three-class")
    phantom.add_argument("--count", type=int, default=600, metavar="N", help="images in all, spread evenly over the labels (default 600)")
    phantom.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed draws the same pictures (default 0)")
    phantom.set_defaults(run=run_phantom)


def run_train(options: argparse.Namespace) -> int:
    """cxr train"""
    from trainer.recipes import get_recipe, override

    recipe = override(get_recipe(options.recipe), options.set)
    if options.push_to_hub and not options.licence.strip():
        raise UsageError("--push-to-hub: needs --licence, under which the model may be used")
    from trainer import workflow
    from trainer.show import show_metrics

    choices = workflow.TrainOptions(
        data=options.data,
        output=options.output,
        backbone=options.backbone,
        pretrained=not options.no_pretrained,
        positive=options.positive,
        resume=options.resume,
        strict=options.strict,
        report_to=options.report_to,
        bank_size=int(options.bank_size * 1e9),
        compile=options.compile,
        command=tuple(options.command_words),
    )
    run = workflow.train(recipe, choices)
    if int(os.environ.get("RANK", "0")) == 0:
        print(show_metrics(run.read_json("metrics.json")))
        print(f"run: {run.path}   (its card: {run.path / 'README.md'})\n{DISCLAIMER}")
        if options.push_to_hub:
            from trainer.publishing import push

            push(run, options.push_to_hub, options.licence, options.private, None, False, print)
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    """cxr evaluate"""
    from trainer.assessment import evaluate
    from trainer.evaluation.points import PREVALENCES
    from trainer.files import write_json
    from trainer.run import find_run
    from trainer.show import show_metrics

    prevalences = tuple(options.prevalence or PREVALENCES)
    if not all(0 < prevalence < 1 for prevalence in prevalences):
        raise UsageError("--prevalence: a share between 0 and 1, e.g. .02")
    result = evaluate(find_run(options.model), options.data, options.split, prevalences)
    if options.output:
        write_json(Path(options.output), result)
    print(json.dumps(result, indent=2) if options.json else show_metrics(result))
    if result["skipped"]:
        print(f"note: {result['skipped']} files could not be read and are left out", file=sys.stderr)
    print(DISCLAIMER, file=sys.stderr)
    return 0


def run_audit(options: argparse.Namespace) -> int:
    """cxr audit"""
    from trainer.audit import audit
    from trainer.files import write_json
    from trainer.run import find_run
    from trainer.show import show_audit

    if options.images < 1:
        raise UsageError("--images: at least 1")
    keep = Path(options.model).is_dir() and not options.output
    run = find_run(options.model)
    if keep and not run.finished:
        raise UsageError(f"{run.path}: not a finished run; give --output FILE")
    report = audit(run, options.data, options.split, options.images, keep)
    if options.output:
        write_json(Path(options.output), report)
    print(json.dumps(report, indent=2) if options.json else show_audit(report))
    if keep:
        print(f"written to {run.path}: metrics.json, its card, figures/audit.png", file=sys.stderr)
    print(DISCLAIMER, file=sys.stderr)
    return 0


def run_predict(options: argparse.Namespace) -> int:
    """cxr predict"""
    from trainer import workflow
    from trainer.run import find_run
    from trainer.show import show_prediction

    failed = False
    for prediction in workflow.predict(find_run(options.model), options.files):
        failed |= "error" in prediction
        print(json.dumps(prediction) if options.json else show_prediction(prediction), flush=True)
    print(DISCLAIMER, file=sys.stderr)
    return 1 if failed else 0


def run_compare(options: argparse.Namespace) -> int:
    """cxr compare"""
    from trainer.comparison import compare_runs
    from trainer.run import find_run
    from trainer.show import show_comparison

    runs = [find_run(model) for model in options.models]
    for run in runs:
        if not run.finished:
            raise UsageError(f"{run.path}: not a finished run")
    print(show_comparison([(run.path.name, run.read_json("recipe.json"), run.read_json("metrics.json")) for run in runs], options.split))
    for line in compare_runs(runs, options.split):
        print(line)
    print(DISCLAIMER, file=sys.stderr)
    return 0


def run_export(options: argparse.Namespace) -> int:
    """cxr export"""
    from trainer.export import export_onnx
    from trainer.run import find_run

    if Path(options.model).is_dir() and options.output:
        raise UsageError(f"--output: is for a model of the Hub; {options.model} is a folder, and gets its onnx/model.onnx in place")
    if not Path(options.model).is_dir() and not options.output:
        raise UsageError(f"{options.model}: no such folder; for a model of the Hub, say by --output where a copy of it goes")
    run = find_run(options.model, options.output)
    apart = export_onnx(run)
    print(f"{run.path / 'onnx' / 'model.onnx'}: logits within {apart:.1e} of PyTorch's")
    print(DISCLAIMER, file=sys.stderr)
    return 0


def run_push(options: argparse.Namespace) -> int:
    """cxr push"""
    from trainer.publishing import push
    from trainer.run import find_run

    with tempfile.TemporaryDirectory() as place:  # for a run of the Hub, which may get another licence
        run = find_run(options.model, place)
        push(run, options.repo_id, options.licence, options.private, options.revision, options.dry_run, print)
    print(DISCLAIMER, file=sys.stderr)
    return 0


def run_push_space(options: argparse.Namespace) -> int:
    """cxr push-space"""
    from trainer.publishing import push_space

    models = {task: getattr(options, task.replace("-", "_")) for task in ("tb", "covid", "three-class")}
    push_space(options.repo_id, {task: name for task, name in models.items() if name}, options.private, options.dry_run, print)
    print(DISCLAIMER, file=sys.stderr)
    return 0


def run_recipes(options: argparse.Namespace) -> int:
    """cxr recipes"""
    from trainer.recipes import RECIPES, to_json

    if options.json:
        print(json.dumps([to_json(recipe) for recipe in RECIPES.values()], indent=2))
        return 0
    width = max(map(len, RECIPES))
    for recipe in RECIPES.values():
        print(f"{recipe.name:<{width}}  {recipe.summary}  [{recipe.backbone}]")
    return 0


def run_get(options: argparse.Namespace) -> int:
    """cxr data get"""
    from trainer.data.public.layout import get_set
    from trainer.data.public.sets import MERGED, PUBLIC_SETS

    if not options.source:
        for found in PUBLIC_SETS.values():
            print(f"{found.name:<22}{found.title}")
        for name, parts in MERGED.items():
            print(f"{name:<22}{', '.join(parts)} merged")
        return 0
    if not options.output:
        raise UsageError("data get: --output DIR is needed")
    output = Path(options.output)
    rows = get_set(options.source, output, options.origins, print)
    print(f"{len(rows)} radiographs: cxr data check {output / 'manifest.csv'}, then cxr data split {output / 'manifest.csv'} --output …")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """cxr data check"""
    from trainer.inspection import check_data
    from trainer.show import show_check

    report = check_data(options.data, options.output)
    print(json.dumps(report, indent=2) if options.json else show_check(report))
    if options.output:
        print(f"report: {Path(options.output) / 'report.html'} (holds thumbnails: keep it with the data)", file=sys.stderr)
    print(DISCLAIMER, file=sys.stderr)
    return 1 if options.strict and report["leaks"] else 0


def run_split(options: argparse.Namespace) -> int:
    """cxr data split"""
    from trainer.inspection import split_data
    from trainer.tasks import TASKS

    if options.task not in TASKS:
        raise UsageError(f"no task {options.task!r}; there are: {', '.join(TASKS)}")
    for note in split_data(options.data, options.output, options.split, options.task, options.hold_out, options.seed, options.anew):
        print(note)
    return 0


def run_push_data(options: argparse.Namespace) -> int:
    """cxr data push"""
    from trainer.inspection import push_data

    url = push_data(options.data, options.repo_id, options.licence, options.private, print)
    print(f"{url}\n{DISCLAIMER}")
    return 0


def run_phantom(options: argparse.Namespace) -> int:
    """cxr data phantom"""
    from trainer.data.phantom import write_phantoms

    counts = write_phantoms(Path(options.output), options.task, options.count, options.seed)
    print(f"{options.output}: " + ", ".join(f"{count} {label}" for label, count in counts.items()) + "  (drawings, not patients)")
    return 0
