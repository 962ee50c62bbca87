import numpy as np
import pytest

from declip_pipeline.errors import InputError
from declip_pipeline.reports.demo_report import write_demo_report

EXPECTED = """\
# Demo

## What was done

- Four generators were extracted.
- Ten decoders were trained.

## IoU across generators, percent

| tested on \\ trained on | telea | copy |
|---|---:|---:|
| telea | **80.0** | 20.0 |
| copy | - | **70.0** |

ID 75.0 [73.0, 77.5] (2 cells), OOD 20.0 (1 of 2 cells). ID (bold): \
tested on a generator it was trained on; OOD: on another.

## IoU over layers, percent

| layer | linear | conv-4 |
|---|---:|---:|
| stage0 | 10.0 | **60.0** |
| stage1 | **30.0** | - |

Bold: the best layer of each decoder.

## Images

### The matrix

![The matrix](matrix.png)

### A sheet

![A sheet](../other%20place/sheet.png)

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
    files = [tmp_path / "out" / "matrix.png", tmp_path / "other place" / "sheet.png"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    return {
        "title": "Demo",
        "done": ["Four generators were extracted.", "Ten decoders were trained."],
        "matrix": np.array([[80.0, 20.0], [np.nan, 70.0]]),
        "row_names": ["telea", "copy"],
        "column_names": ["telea", "copy"],
        "mean_intervals": [(73.0, 77.5), (np.nan, np.nan)],
        "layer_names": ["stage0", "stage1"],
        "layer_series": {"linear": [10.0, 30.0], "conv-4": [60.0, float("nan")]},
        "images": dict(zip(["The matrix", "A sheet"], files, strict=True)),
        "timings": {"extract": 12.34, "train": 100.0},
        "commands": ["declip-pipe demo -o demo"],
    }


def test_the_whole_page(tmp_path):
    path = tmp_path / "out" / "report.md"
    write_demo_report(path, **arguments(tmp_path))
    assert path.read_text() == EXPECTED


def test_a_picture_that_is_not_there_is_refused(tmp_path):
    wrong = arguments(tmp_path) | {"images": {"Curve": tmp_path / "curve.png"}}
    with pytest.raises(InputError, match=r"curve.png is not there; draw it before the report"):
        write_demo_report(tmp_path / "report.md", **wrong)
    assert not (tmp_path / "report.md").exists()


def test_a_layer_without_its_value_is_refused(tmp_path):
    wrong = arguments(tmp_path) | {"layer_series": {"linear": [10.0]}}
    with pytest.raises(InputError, match="'linear' has 1 values; expected one for each of the 2"):
        write_demo_report(tmp_path / "report.md", **wrong)
