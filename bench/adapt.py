"""What local films buy: threshold, slope and intercepts, last layer, chosen on draws of them, tested on the others.

`python bench/adapt.py RUN --data CSV [--counts 10 20 40 80] [--draws 20] [--json FILE] [--figure FILE]`: the films of
a hospital that RUN has not learned from, scored once. A draw has as many films of each label that there is. Means over
the draws with the 5th and the 95th percentile, and the seconds of a fit with its cross-validation. Of two labels also
30 healthy films alone. `--fine-tune 3` adds so many draws of 40 films that fine-tune all of the network instead.
`--coverage 200` adds how often the out-of-fold intervals hold, in so many simulated rounds.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, describe_machine, write_report

NAMES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy", "nll": "negative log-likelihood"}


def summary(values: list[float]) -> str:
    """`.70 (.52–.86)`: mean, 5th and 95th percentile."""
    low, high = np.percentile(values, (5, 95))
    return f"{np.mean(values):.2f} ({low:.2f}–{high:.2f})"


def rates(change: Any, films: Any) -> dict[str, float]:
    """What a change does on films that it has not seen: mean AUROC of the labels there are, rates, likelihood."""
    from trainer.adaptation.report import auroc

    scores, one = change.scores(films), np.ones((1, len(films.truth)))
    decided, present = change.decide(scores), np.unique(films.truth)
    found = {int(index): float((decided[films.truth == index] == index).mean()) for index in present}
    areas = [float(auroc(films, index, scores)(one)[0]) for index in present]
    losses = -np.log(scores[np.arange(len(films.truth)), films.truth].clip(1e-12))
    values = {"auroc": float(np.mean(areas)), "nll": float(losses.mean())}
    if scores.shape[1] == 2:
        return {**values, "sensitivity": found[1], "specificity": found[0]}
    return {**values, "balanced_accuracy": float(np.mean(list(found.values())))}


def draw_films(films: Any, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `count` films, as many of each label, and of the others; other films of their groups are in neither."""
    present = np.unique(films.truth)
    of_label = [rng.permutation(np.flatnonzero(films.truth == index))[: count // len(present)] for index in present]
    drawn = np.concatenate(of_label)
    return drawn, np.flatnonzero(~np.isin(films.groups, films.groups[drawn]))


def learning_curve(films: Any, known: Any, count: int, draws: int) -> dict[str, list[float]]:
    """Rates on the other films, by what was changed, the methods that were chosen, and seconds."""
    from trainer.adaptation.fits import fit_threshold, local_aim
    from trainer.adaptation.selection import choose, fit, methods, out_of_fold

    rng, aim, names = np.random.default_rng(count), local_aim(0.9, None), methods(films.logits.shape[1])
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(float(value))

    for _ in range(draws):
        drawn, rest = draw_films(films, count, rng)
        local, others, tests = films.take(drawn), films.take(rest), {}
        for name in names:
            begun = time.perf_counter()
            tests[name] = out_of_fold(local, name, aim, known)
            note(f"seconds: {name}", time.perf_counter() - begun)
        chosen, _ = choose(local, aim, tests)
        for name in (*names, "chosen"):
            for key, value in rates(fit(local, chosen if name == "chosen" else name, aim, known), others).items():
                note(f"{name}: {key}", value)
        for name in names:
            note(f"chose {name}", chosen == name)
        if len(names) == 4:
            healthy = np.flatnonzero(~films.positive)
            alone = films.take(rng.permutation(healthy)[: min(30, len(healthy) // 2)])
            threshold = fit_threshold(alone.positive, known.scores(alone)[:, 1], local_aim(None, 0.7))
            rest, scores = ~films.positive & ~np.isin(films.groups, alone.groups), known.scores(films)[:, 1]
            note("healthy: specificity", (scores[rest] < threshold).mean())
            note("healthy: sensitivity", (scores[films.positive] >= threshold).mean())
    return found


def fine_tuning(run: Any, data: str, films: Any, draws: int, epochs: int = 10) -> dict[str, list[float]]:
    """Rates on the other films before and after the whole network was fine-tuned on 40, at two learning rates."""
    from trainer.adaptation.films import load_original
    from trainer.adaptation.fits import Change
    from trainer.data.labelled import load_for_model
    from trainer.inference import PixelBatches, run_model

    found: dict[str, list[float]] = {}
    nothing = Change(0.5 if films.logits.shape[1] == 2 else None, np.zeros(films.logits.shape[1]))
    for seed in range(draws):
        drawn, rest = draw_films(films, 40, np.random.default_rng(seed))
        logits = {"before": films.logits}
        for learning_rate in (1e-4, 1e-5):
            model, processor = load_original(run)
            labelled, _ = load_for_model(data, None, model.labels, processor, run.manifest(), lambda text: None)
            inputs = PixelBatches(labelled.images, processor, model.device).eval_batch
            begun = time.perf_counter()
            fine_tune(model, inputs, drawn, films.truth, epochs, learning_rate, seed)
            found.setdefault(f"seconds: {learning_rate:g}", []).append(time.perf_counter() - begun)
            outputs = run_model(model, inputs, np.arange(len(films.truth)), batch_size=8)
            logits[f"{learning_rate:g}"] = outputs.log_softmax(dim=1).double().numpy()
        for name, each in logits.items():
            for key, value in rates(nothing, replace(films, logits=each).take(rest)).items():
                found.setdefault(f"{name}: {key}", []).append(value)
    return found


def fine_tune(
    model: Any, inputs: Any, rows: np.ndarray, truth: np.ndarray, epochs: int, learning_rate: float, seed: int
) -> None:
    """Train backbone and last layers with AdamW on these rows, batches of 8, every other mirrored."""
    import torch

    parts = [part for part in (model.backbone, model.head, model.classifier, model.lesions) if part is not None]
    parameters = [parameter.requires_grad_() for part in parts for parameter in part.parameters()]
    optimiser, rng = torch.optim.AdamW(parameters, lr=learning_rate), np.random.default_rng(seed)
    model.train()
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(rows), -(-len(rows) // 8)):
            values = inputs(batch)
            values = values.flip(-1) if rng.random() < 0.5 else values
            model(values, labels=torch.from_numpy(truth[batch])).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.eval()


def coverage(count: int, rounds: int) -> dict[str, float]:
    """How often an interval out of fold holds what the same fit does in 20,000 films to come, simulated: the rates at a
    new threshold, and the AUROC of a new last layer, whose features tell what the scores do not.
    """
    from trainer.adaptation.fits import Change, Films, local_aim
    from trainer.adaptation.report import metrics
    from trainer.adaptation.selection import fit, out_of_fold

    rng, aim, known = np.random.default_rng(0), local_aim(0.9, None), Change(0.5, np.zeros(2))

    def draw(size: int) -> Films:
        truth = np.arange(size) % 2
        margins = rng.normal(2.0 * truth - 1)
        features = rng.normal(size=(size, 40)) + np.outer(truth, np.arange(40) < 4)
        logits = -np.logaddexp(0, np.stack([margins, -margins], axis=1))
        return Films(logits, truth, np.arange(size).astype(str), features.astype(np.float32))

    inside: dict[str, list[bool]] = {}
    for seed in range(rounds):
        films, others = draw(count), draw(20_000)
        for method, names in (("threshold", ("sensitivity", "specificity")), ("head", ("auroc",))):
            real = rates(fit(films, method, aim, known), others)
            said = metrics(films, out_of_fold(films, method, aim, known, seed), ("Normal", "Ill"))
            for name in names:
                held = said[name]["low"] <= real[name] <= said[name]["high"]
                inside.setdefault(f"{method}: {name}", []).append(held)
    return {name: float(np.mean(held)) for name, held in inside.items()}


def print_curve(count: int, found: dict[str, list[float]]) -> None:
    """A table: a row for each change, a column for each rate."""
    names = [name.removeprefix("chose ") for name in found if name.startswith("chose ")]
    keys = [name.removeprefix("none: ") for name in found if name.startswith("none: ")]
    print(f"\n{count} films\n| | {' | '.join(NAMES.get(key, key) for key in keys)} | seconds |")
    print(f"|---|{'---|' * (len(keys) + 1)}")
    for name in (*names, "chosen"):
        cells = [summary(found[f"{name}: {key}"]) for key in keys]
        seconds = f"{np.mean(found[f'seconds: {name}']):.1f}" if name != "chosen" else ""
        print(f"| {name} | {' | '.join(cells)} | {seconds} |")
    if "healthy: specificity" in found:
        print("30 healthy films alone:", *(f"{key} {summary(found[f'healthy: {key}'])}" for key in keys[-2:]))
    print(", ".join(f"{name} {np.mean(values):.2f}" for name, values in found.items() if name.startswith("chose ")))


def draw_figure(curves: dict[int, dict[str, list[float]]], title: str, target: Path) -> None:
    """The mean AUROC by the number of films, with the 5th to the 95th percentile."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, style in (("none", "k--"), ("calibration", "C1o-"), ("head", "C0o-")):
        values = [curves[count][f"{name}: auroc"] for count in curves]
        axes.plot(list(curves), [np.mean(each) for each in values], style, label=name)
        axes.fill_between(list(curves), *np.percentile(values, (5, 95), axis=1), alpha=0.15, color=style[:2].strip("-"))
    axes.set(title=title, xlabel="local films", ylabel="mean AUROC on the others")
    axes.legend()
    figure.savefig(target, dpi=120, metadata={"Software": None})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 20, 40, 80])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--fine-tune", type=int, default=0, metavar="DRAWS", help="of 40 films (default none)")
    parser.add_argument("--coverage", type=int, default=0, metavar="ROUNDS", help="simulate so many (default none)")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from trainer import load_run
    from trainer.adaptation.films import score_films

    run = load_run(options.run)
    films, _, known, counts = score_films(run, options.data, print)
    print(f"{options.run}: {counts['n']} films of {counts['groups']} groups, {counts['labels']}; {options.draws} draws")
    smallest = min(count for count in counts["labels"].values() if count)
    results: dict[str, Any] = {"films": counts, "curves": {}, "coverage": {}}
    for count in options.counts:
        if count // len(np.unique(films.truth)) >= smallest:
            print(f"{count} films: too many for a test on the rest")
            continue
        results["curves"][count] = learning_curve(films, known, count, options.draws)
        print_curve(count, results["curves"][count])
    if options.fine_tune:
        tuned = results["fine_tuning"] = fine_tuning(run, options.data, films, options.fine_tune)
        print(f"\nall of the network fine-tuned on 40 films, {options.fine_tune} draws, by learning rate")
        print(
            *(f"{name}: {np.mean(values):.2f} ({min(values):.2f}–{max(values):.2f})" for name, values in tuned.items()),
            sep="\n",
        )
    for count in (40, 100) if options.coverage else ():
        results["coverage"][count] = coverage(count, options.coverage)
        held = results["coverage"][count]
        print(f"\n{count} simulated films, {options.coverage} rounds: the 95 % intervals hold {held}")
    if options.figure:
        draw_figure(results["curves"], f"{Path(options.run).name} at {Path(options.data).stem}", options.figure)
    write_report(options.json, machine=describe_machine(), results=results)


if __name__ == "__main__":
    main()
