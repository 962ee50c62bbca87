"""`declip-pipe ablate` trains, evaluates and draws every layer, and does nothing twice."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from declip_pipeline.training.run import Run

QUICK = ("--epochs", 1, "--batch-size", 4)


@pytest.mark.slow
def test_every_layer_is_trained_and_evaluated(program, tiny_store, tmp_path):
    command = (
        *("ablate", tiny_store.location, "--layers", "0-2", "--seeds", "0,1"),
        *QUICK, "-o", tmp_path,
    )  # fmt: skip
    outcome = program(*command)
    assert outcome.code == 0, outcome
    figure = Path(outcome.last_line)
    with Image.open(figure) as picture:
        assert min(picture.size) > 300
    with (figure.parent / "ablation.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["domain"] == "in domain"]
    tested = ["noisy", "all"]
    assert [(row["layer"], row["generator"]) for row in rows] == [
        (f"layer{number}", name) for number in range(3) for name in tested
    ]
    assert {row["seeds"] for row in rows} == {"2"}
    for row in rows:
        assert float(row["mean_low"]) <= float(row["mean_iou"]) <= float(row["mean_high"])
    lines = outcome.out.splitlines()
    head = ["layer", "tested", "on", "in", "domain", "out", "of", "domain"]
    assert lines[0].split() == head
    # There is one generator: nothing is out of its domain.
    for line, row in zip(lines[1:7], rows, strict=True):
        assert line.split() == [
            row["layer"],
            row["generator"],
            f"{float(row['mean_iou']):.2f}{row['mark']}",
            "±",
            f"{float(row['standard_deviation']):.2f}",
            f"[{float(row['mean_low']):.1f},",
            f"{float(row['mean_high']):.1f}]",
            "-",
        ]
    best = max(rows, key=lambda row: float(row["mean_iou"]))
    assert [line for line in lines if line.startswith("best")] == lines[-2:-1]
    assert lines[-2].startswith(f"best in domain: {best['layer']} ({float(best['mean_iou']):.1f}")
    assert lines[-1] == str(figure)
    with (figure.parent / "results.csv").open(newline="") as file:
        runs = [Run(Path(row["run"])) for row in csv.DictReader(file)]
    assert len(runs) == 6
    trained = {run: (run.path / "summary.json").stat().st_mtime_ns for run in runs}
    again = program(*command)
    assert again.out == outcome.out
    assert all((r.path / "summary.json").stat().st_mtime_ns == trained[r] for r in runs)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--split", "tset"), "did you mean 'test'?"),
        (("--lr", "1e-3,1e-4"), "--learning-rate '1e-3,1e-4'; expected one, layers are compared"),
        (("--decoder-type", "conv-5"), "unknown decoder type 'conv-5'"),
        (("--layers", "layer9"), "unknown layer 'layer9'"),
        (("--train-on", "nobody"), "unknown generator in the stores 'nobody'"),
        (("--greedy", 2, "--split", "valid"), "chooses layers on the split valid, and --split "),
        (("--greedy", 5), "--greedy 5, but there are 4 layers to choose from (layer0, layer1, "),
        (
            ("--layers", "layer0,layer1+layer2", "--greedy", 2),
            "--greedy 2 joins single layers itself, found layer1+layer2; name single layers",
        ),
    ],
)
def test_what_could_not_end_well_is_refused(refused, tiny_store, tmp_path, options, line):
    runs = tmp_path / "runs"
    assert line in refused("ablate", tiny_store.location, *options, *QUICK, "-o", runs)
    assert not runs.exists()


@pytest.mark.slow
def test_a_probe_is_a_first_look_at_every_layer(program, tiny_store, tmp_path):
    command = ("ablate", tiny_store.location, "--decoder-type", "probe", "--layers", "0-1", *QUICK)
    outcome = program(*command, "-o", tmp_path)
    assert outcome.code == 0, outcome
    figure = Path(outcome.last_line)
    with (figure.parent / "ablation.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["domain"] == "in domain"]
    rows = [row for row in rows if row["generator"] == "all"]
    assert [row["layer"] for row in rows] == ["layer0", "layer1"]
    assert max(float(row["mean_iou"]) for row in rows) > 10, "it has learned"
    assert figure.is_file()


@pytest.mark.slow
def test_layers_to_store_are_chosen_on_valid_and_shown_on_test(program, tiny_store, tmp_path):
    command = (
        *("ablate", tiny_store.location, "--decoder-type", "mlp", "--layers", "0-2"),
        *("--greedy", 3, "--epochs", 3, "--batch-size", 4, "-o", tmp_path),
    )
    outcome = program(*command)
    assert outcome.code == 0, outcome
    figure = Path(outcome.last_line)
    with (figure.parent / "layer_sets.csv").open(newline="") as file:
        sets = list(csv.DictReader(file))
    assert [int(row["number"]) for row in sets] == [1, 1, 1, 2, 2, 3]
    path = [row for row in sets if row["chosen"]]
    named = [row["layers"] for row in path]
    assert [int(row["number"]) for row in path] == [1, 2, 3]
    for number in (1, 2):
        own = [row for row in sets if int(row["number"]) == number]
        assert (
            path[number - 1]["valid_iou"]
            == max(own, key=lambda row: float(row["valid_iou"]))["valid_iou"]
        )
        assert set(path[number - 1]["layers"].split("+")) < set(path[number]["layers"].split("+"))
    lines = outcome.out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("greedy choice"))
    assert lines[start].split() == [
        "greedy",
        "choice",
        "IoU",
        "on",
        "valid",
        "gain",
        "MB",
        "an",
        "image",
        "GB",
    ]
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == [
        row["layers"] for row in path
    ]
    best = max(path, key=lambda row: float(row["valid_iou"]))
    assert lines[start + 4].startswith(f"store {best['layers']}, the best on valid: ")
    assert f"for the {len(tiny_store)} images of these stores" in lines[start + 4]
    # On the test split there are the single layers and the path, not the sets that lost.
    with (figure.parent / "ablation.csv").open(newline="") as file:
        tested = {row["layer"] for row in csv.DictReader(file)}
    assert tested == {"layer0", "layer1", "layer2", *named}
    with Image.open(figure) as picture:
        assert picture.width > picture.height
    again = program(*command)
    assert again.out == outcome.out
