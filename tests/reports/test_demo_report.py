import numpy as np
import pytest

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.metrics import PROTOCOL
from declip_pipeline.evaluation.table import Matrix, Table
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.reports.demo_report import BackboneSection, write_demo_report

EXPECTED = f"""\
# Demo

## What was done

- Four generators were extracted.
- Ten decoders were trained.

## Best pairings, IoU in percent

| backbone | decoder and layer | ID | OOD |
|---|---|---:|---:|
| a-vit | linear on layer1 | 75.0 [73.0, 77.5] | 20.0! |

ID: tested on a generator that the decoder was trained on; OOD: on another. In brackets: 95% \
bootstrap intervals over scenes, and over seeds where there are several. Figures are {PROTOCOL}.

## a-vit: IoU by layer, percent

![IoU by layer](layers.png)

| layer | linear, ID | linear, OOD |
|---|---:|---:|
| layer0! | 0.0! [0.0, 1.0] | - |
| layer1 | **30.0** [25.0, 36.0] | **12.0** |

Bold: the best of a column. ! of a run that learned nothing: `declip-pipe runs ls` says why.

## a-vit: IoU across generators, percent

| tested on \\ trained on | telea | copy! |
|---|---:|---:|
| telea | **80.0** | 20.0 |
| copy | - | **70.0** |

ID 75.0 [73.0, 77.5] (2 cells), OOD 20.0 (1 of 2 cells). linear on layer1; ID (bold): \
tested on a generator it was trained on; OOD: on another. ! of a run that learned nothing: \
`declip-pipe runs ls` says why.

![IoU by generator, rows tested on, columns trained on](matrix.png)

## a-vit: images

Each generator's upper and lower quartile by IoU.

![Images, masks and predictions](../other%20place/sheet.png)

## Times

| step | seconds |
|---|---:|
| extract | 12.3 |
| train | 100.0 |
| **total** | **112.3** |

## Commands

```sh
declip-pipe demo -o demo
```
"""


def arguments(tmp_path):
    out = tmp_path / "out"
    figures = [out / "layers.png", out / "matrix.png", tmp_path / "other place" / "sheet.png"]
    for file in figures:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    curve, heat, sheet = figures
    layers = {
        ("layer0!", "linear, ID"): Estimate(0.0, Interval(0.0, 1.0), cells=1, mark="!"),
        ("layer1", "linear, ID"): Estimate(30.0, Interval(25.0, 36.0), cells=1),
        ("layer1", "linear, OOD"): Estimate(12.0, cells=1),
    }
    cells = {
        ("telea", "telea"): Estimate(80.0, cells=1),
        ("telea", "copy"): Estimate(20.0, cells=1, mark="!"),
        ("copy", "copy"): Estimate(70.0, cells=1),
    }
    names = ("telea", "copy")
    inside = Estimate(75.0, Interval(73.0, 77.5), cells=2)
    outside = Estimate(20.0, cells=1, mark="!")
    matrix = Matrix(
        Table("test \\ train", names, names, cells), np.eye(2) > 0, {"iou": (inside, outside)}
    )
    table = Table("layer", ("layer0!", "layer1"), ("linear, ID", "linear, OOD"), layers)
    section = BackboneSection("a-vit", "linear on layer1", [(table, curve)], matrix, heat, sheet)
    return {
        "title": "Demo",
        "done": ["Four generators were extracted.", "Ten decoders were trained."],
        "backbones": [section],
        "timings": {"extract": 12.34, "train": 100.0},
        "commands": ["declip-pipe demo -o demo"],
    }


def test_the_whole_page(tmp_path):
    path = tmp_path / "out" / "report.md"
    write_demo_report(path, **arguments(tmp_path))
    assert path.read_text() == EXPECTED


def test_a_picture_that_is_not_there_is_refused(tmp_path):
    asked = arguments(tmp_path)
    (tmp_path / "out" / "matrix.png").unlink()
    with pytest.raises(InputError, match=r"matrix.png is not there; draw it before the report"):
        write_demo_report(tmp_path / "report.md", **asked)
    assert not (tmp_path / "report.md").exists()
