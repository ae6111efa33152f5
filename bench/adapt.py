"""What local films buy: threshold, slope and intercept, chosen on draws of them, tested on the hospital's others.

`python bench/adapt.py RUN [--split external] [--counts 10 20 40 60] [--draws 50] [--json FILE]`. RUN is a run of two
labels; the films are those of its predictions.csv, so that nothing is computed twice. Half of a draw is positive. Means
over the draws with the 5th and the 95th percentile. Last, the coverage of the out-of-fold intervals on simulated films.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, describe_machine, write_report


def summary(values: list[float]) -> str:
    """`.70 (.52–.86)`: mean, 5th and 95th percentile."""
    low, high = np.percentile(values, (5, 95))
    return f"{np.mean(values):.2f} ({low:.2f}–{high:.2f})"


def learning_curve(films: Any, known: float, count: int, draws: int) -> dict[str, list[float]]:
    """Rates on the other films, by what was changed, and the methods that were chosen."""
    from trainer.adaptation.fits import Change, fit_threshold, local_aim
    from trainer.adaptation.selection import SENTENCES, choose, fit, out_of_fold

    rng, aim = np.random.default_rng(count), local_aim(0.9, None)
    ill, healthy = np.flatnonzero(films.positive), np.flatnonzero(~films.positive)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = np.concatenate([rng.permutation(ill)[: count // 2], rng.permutation(healthy)[: count // 2]])
        local, others = films.take(drawn), films.take(np.setdiff1d(np.arange(len(films.margins)), drawn))
        tests = {name: out_of_fold(local, name, aim, Change(known)) for name in SENTENCES}
        chosen, _ = choose(local, aim, tests)
        for name in ("none", "threshold", "calibration", "chosen"):
            method = chosen if name == "chosen" else name
            change = fit(local, method, aim, Change(known))
            scores = change.scores(others.margins)
            called, truth = scores >= change.threshold, others.positive
            losses = -np.log(np.where(truth, scores, 1 - scores).clip(1e-12))
            rates = {"sensitivity": called[truth].mean(), "specificity": (~called[~truth]).mean(), "nll": losses.mean()}
            for key, value in rates.items():
                found.setdefault(f"{name}: {key}", []).append(float(value))
        for name in SENTENCES:
            found.setdefault(f"chose {name}", []).append(float(chosen == name))
        alone = films.take(rng.permutation(healthy)[: min(30, len(healthy) // 2)])
        scores = Change(known).scores(films.margins)
        threshold = fit_threshold(alone.positive, Change(known).scores(alone.margins), local_aim(None, 0.7))
        rest = ~films.positive & ~np.isin(films.groups, alone.groups)
        found.setdefault("healthy: specificity", []).append(float((scores[rest] < threshold).mean()))
        found.setdefault("healthy: sensitivity", []).append(float((scores[films.positive] >= threshold).mean()))
    return found


def coverage(count: int, rounds: int) -> dict[str, float]:
    """How often the interval out of fold holds what the threshold does in 20,000 films to come, simulated."""
    from trainer.adaptation.fits import Change, fit_threshold, local_aim
    from trainer.adaptation.selection import Films, out_of_fold, rate

    rng, aim, inside = np.random.default_rng(0), local_aim(0.9, None), {"sensitivity": [], "specificity": []}

    def draw(size: int) -> Films:
        positive = np.arange(size) % 2 == 0
        return Films(rng.normal(np.where(positive, 1.0, -1.0)), positive, np.arange(size).astype(str))

    for seed in range(rounds):
        films, others = draw(count), draw(20_000)
        change = Change(fit_threshold(films.positive, Change(0.5).scores(films.margins), aim))
        called, test = (
            change.scores(others.margins) >= change.threshold,
            out_of_fold(films, "threshold", aim, change, seed),
        )
        real = {"sensitivity": called[others.positive].mean(), "specificity": (~called[~others.positive]).mean()}
        for name in inside:
            metric = rate(films, test, name)
            inside[name].append(metric["low"] <= real[name] <= metric["high"])
    return {name: float(np.mean(held)) for name, held in inside.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--split", default="external")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 20, 40, 60])
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=200, help="of the simulation (default 200)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from trainer import load_run
    from trainer.adaptation.fits import to_margin
    from trainer.adaptation.selection import Films

    run = load_run(options.run)
    table = run.predictions()
    table = table[table["split"] == options.split]
    label = run.read_json("recipe.json")["labels"][1]
    positive = (table["label"] == label).to_numpy()
    films = Films(to_margin(table[f"p:{label}"].to_numpy()), positive, table["sha256"].to_numpy())
    known = run.read_json("metrics.json")["decision"]["threshold"]
    print(
        f"{len(table)} films of {options.split}, {positive.sum()} of {label}; the threshold that ships is {known:.3f}"
    )
    results: dict[str, Any] = {"curves": {}, "coverage": {}}
    for count in options.counts:
        if count // 2 >= min(positive.sum(), (~positive).sum()):
            print(f"{count} films: too many for a test on the rest")
            continue
        found = results["curves"][count] = learning_curve(films, known, count, options.draws)
        print(f"\n{count} films, {options.draws} draws\n| | sensitivity | specificity | log-likelihood, negative |")
        print("|---|---|---|---|")
        for name in ("none", "threshold", "calibration", "chosen"):
            cells = [summary(found[f"{name}: {key}"]) for key in ("sensitivity", "specificity", "nll")]
            print(f"| {name} | {' | '.join(cells)} |")
        rates = [summary(found[f"healthy: {key}"]) for key in ("sensitivity", "specificity")]
        print(f"| healthy films alone | {' | '.join(rates)} | |")
        print(", ".join(f"{name} {np.mean(values):.2f}" for name, values in found.items() if name.startswith("chose ")))
    for count in (40, 100):
        results["coverage"][count] = coverage(count, options.rounds)
        held = results["coverage"][count]
        print(f"\n{count} simulated films, {options.rounds} rounds: coverage of the 95 % intervals {held}")
    write_report(options.json, machine=describe_machine(), results=results)


if __name__ == "__main__":
    main()
