"""Every point figure of metrics.json, computed anew from predictions.csv by plain Python that shares no code with the trainer."""

import csv
import json
import math
from collections import Counter

import pytest


def read(run):
    with (run / "manifest.csv").open() as stream:
        collections = {row["sha256"]: row["collection"] for row in csv.DictReader(stream)}
    with (run / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    labels = [name.removeprefix("p:") for name in rows[0] if name.startswith("p:")]
    return labels, [
        {**row, "collection": collections[row["sha256"]], "p": [float(row[f"p:{label}"]) for label in labels]}
        for row in rows
    ]


def ratio(part, whole):
    return part / whole if whole else None


def auroc(rows, label, index):
    cases = [row["p"][index] for row in rows if row["label"] == label]
    controls = [row["p"][index] for row in rows if row["label"] != label]
    won = sum((case > control) + 0.5 * (case == control) for case in cases for control in controls)
    return ratio(won, len(cases) * len(controls))


def decision(row, labels, point):
    if point and row["p"][labels.index(point["label"])] >= point["threshold"]:
        return point["label"]
    return max(
        (score, -place, label)
        for place, (score, label) in enumerate(zip(row["p"], labels, strict=True))
        if label != (point or {}).get("label")
    )[2]


def of_class(rows, label, index):
    hit = sum(row["label"] == row["decision"] == label for row in rows)
    ill, called = (sum(row[key] == label for row in rows) for key in ("label", "decision"))
    neither = sum(label not in (row["label"], row["decision"]) for row in rows)
    return {
        "sensitivity": ratio(hit, ill),
        "specificity": ratio(neither, len(rows) - ill),
        "precision": ratio(hit, called),
        "f1": ratio(2 * hit, ill + called) if ill else None,
        "auroc": auroc(rows, label, index),
    }


def overall(rows, labels):
    each = [of_class(rows, label, index) for index, label in enumerate(labels)]
    sensitivities = [figures["sensitivity"] for figures in each]
    found = {
        "accuracy": sum(row["label"] == row["prediction"] for row in rows) / len(rows),
        "balanced_accuracy": None if None in sensitivities else sum(sensitivities) / len(labels),
    }
    if len(labels) == 2:
        return {**found, **each[1]}
    means = {name: [figures[name] for figures in each] for name in ("f1", "auroc")}
    return {
        **found,
        **{f"macro_{name}": None if None in values else sum(values) / len(labels) for name, values in means.items()},
    }


def calibration(rows, labels, power):
    squares, surprises, pairs = 0.0, 0.0, []
    for row in rows:
        raised = [p**power for p in row["p"]]
        scores = [value / sum(raised) for value in raised]
        squares += sum((score - (label == row["label"])) ** 2 for score, label in zip(scores, labels, strict=True))
        surprises -= math.log(scores[labels.index(row["label"])])
        pairs.append((max(scores), row["prediction"] == row["label"]))
    confidences = sorted(confidence for confidence, _ in pairs)
    edges = set()
    for cut in range(1, 15):  # the quantile as numpy defines it
        place = cut / 15 * (len(pairs) - 1)
        low = int(place)
        high = min(low + 1, len(pairs) - 1)
        edges.add(confidences[low] + (confidences[high] - confidences[low]) * (place - low))
    bins = {}
    for confidence, right in pairs:
        bins.setdefault(sum(confidence >= edge for edge in edges), []).append(confidence - right)
    return {
        "brier": squares / len(rows),
        "nll": surprises / len(rows),
        "ece": sum(abs(sum(part)) for part in bins.values()) / len(rows),
    }


def same(figures, wanted):
    assert {name: figures[name]["value"] for name in wanted} == {
        name: None if value is None else pytest.approx(value, abs=1e-9) for name, value in wanted.items()
    }


@pytest.mark.parametrize(("fixture", "points"), [("run", 4), ("covid_run", 9)])
def test_metrics_follow_from_the_predictions(fixture, points, request):
    run = request.getfixturevalue(fixture)
    labels, everything = read(run)
    metrics, config = (json.loads((run / f"{name}.json").read_text()) for name in ("metrics", "config"))
    assert metrics["decision"] == config.get("operating_point")
    for split, report in metrics["splits"].items():
        rows = [row for row in everything if row["split"] == split]
        assert report["n"] == len(rows)
        same(report["metrics"], overall(rows, labels))
        assert [row["decision"] for row in rows] == [
            decision(row, labels, config.get("operating_point")) for row in rows
        ]
        pairs = Counter((row["label"], row["decision"]) for row in rows)
        assert report["confusion"] == [[pairs[label, other] for other in labels] for label in labels]
        for index, label in enumerate(labels):
            same(report["per_class"][label], of_class(rows, label, index))
            assert all(row["prediction"] == labels[row["p"].index(max(row["p"]))] for row in rows)
        assert set(report["collections"]) == {row["collection"] for row in rows} - {""}
        for name, part in report["collections"].items():
            same(part["metrics"], overall([row for row in rows if row["collection"] == name], labels))
        found = metrics["calibration"]["splits"][split]
        same(found["after"], calibration(rows, labels, 1.0))
        same(found["before"], calibration(rows, labels, metrics["calibration"]["temperature"]))
        for point in metrics["operating_points"]:
            if point["threshold"] is None:
                assert point["on"] == {}
                continue
            index = labels.index(point["label"])
            ill = [row["p"][index] >= point["threshold"] for row in rows if row["label"] == point["label"]]
            well = [row["p"][index] < point["threshold"] for row in rows if row["label"] != point["label"]]
            sensitivity, specificity = sum(ill) / len(ill), sum(well) / len(well)
            same(point["on"][split], {"sensitivity": sensitivity, "specificity": specificity})
            for row in point["on"][split]["predictive_values"]:
                share = row["prevalence"]
                called, cleared = (
                    sensitivity * share + (1 - specificity) * (1 - share),
                    specificity * (1 - share) + (1 - sensitivity) * share,
                )
                same(
                    row,
                    {"ppv": ratio(sensitivity * share, called), "npv": ratio(specificity * (1 - share), cleared)},
                )
    shown = [
        (point["label"], point["threshold"]) for point in metrics["operating_points"] if point["threshold"] is not None
    ]
    assert len(set(shown)) == len(shown)  # each once
    assert sum(1 + len(point["also"]) for point in metrics["operating_points"]) == points
