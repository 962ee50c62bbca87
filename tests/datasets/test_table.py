"""Datasets from tables of one's own: kinds of tables, defaults, and one line for each error."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.errors import InputError


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for path in ("fakes/a.png", "fakes/b.png", "truth/1.png", "truth/2.png", "real/c.png"):
        (tmp_path / "own" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / path).touch()
    return tmp_path / "own"


ROWS = [
    {"image": "fakes/b.png", "mask": "truth/2.png", "split": "val", "generator": "lama"},
    {"image": "real/c.png", "split": "train", "scene": "sea"},
    {"image": "fakes/a.png", "mask": "truth/1.png", "split": "train", "source": "faces"},
]
SAMPLES = [
    Sample("fakes/a", "fakes/a.png", "truth/1.png", "train", "own", 1, "faces"),
    Sample("fakes/b", "fakes/b.png", "truth/2.png", "valid", "lama", 1, "own"),
    Sample("real/c", "real/c.png", None, "train", "real", 0, "own", "sea"),
]


class Frame:
    """As much of a DataFrame as is used, with NaN in its empty cells."""

    class Column:
        def __init__(self, cells: list[Any]) -> None:
            self.cells = cells

        def astype(self, kind: type) -> "Frame.Column":
            return self

        def notna(self) -> list[bool]:
            return [not isinstance(cell, float) for cell in self.cells]

        def where(self, keep: list[bool], other: None) -> "Frame.Column":
            return Frame.Column([c if k else other for c, k in zip(self.cells, keep, strict=True)])

        def tolist(self) -> list[Any]:
            return self.cells

    iloc = None

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.columns = list(dict.fromkeys(name for row in rows for name in row))

    def __getitem__(self, name: str) -> "Frame.Column":
        return Frame.Column([row.get(name, float("nan")) for row in self.rows])


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in {**rows[0], **rows[1], **rows[2]}}


@pytest.mark.parametrize(
    "convert", [list, tuple, columns, Frame, lambda rows: pa.table(columns(rows))]
)
def test_every_kind_of_table_gives_the_same_samples(files: Path, convert: Any) -> None:
    dataset = Dataset.from_table(convert(ROWS), root=files)
    assert (dataset.name, dataset.root, dataset.fake_is_white) == ("own", files, True)
    assert list(dataset.samples) == SAMPLES
    assert dataset.unpaired == ()


def test_the_root_is_the_working_folder_unless_named(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    dataset = Dataset.from_table(ROWS, name="mine", fake_is_white=False)
    assert (dataset.name, dataset.root, dataset.fake_is_white) == ("mine", files, False)
    assert dataset.generators == ("lama", "mine", "real")


def test_paths_may_be_paths_absolute_and_elsewhere(files: Path) -> None:
    rows = [{"image": files / "real/c.png"}, {"image": "../fakes/a.png"}]
    dataset = Dataset.from_table(rows, root=files / "truth", name="x")
    assert dataset.root == files
    assert dataset.samples.strings("image") == ["fakes/a.png", "real/c.png"]


def test_images_without_a_column_of_masks_are_unknown(files: Path) -> None:
    rows = [{"image": "fakes/a.png"}, {"image": "real/c.png", "generator": "real"}]
    found = [(s.label, s.generator) for s in Dataset.from_table(rows, root=files).samples]
    assert found == [(-1, "unknown"), (0, "real")]
    rows = [{"image": "fakes/a.png", "label": 0}, {"image": "real/c.png", "label": -1, "mask": ""}]
    found = [(s.label, s.generator) for s in Dataset.from_table(rows, root=files).samples]
    assert found == [(0, "real"), (-1, "unknown")]


@pytest.mark.parametrize("labels", [[1, 0], [1.0, 0.0], [True, False], ["1", " 0"], [None, ""]])
def test_labels_may_be_numbers_and_texts(files: Path, labels: list[Any]) -> None:
    masks = ["truth/1.png", "Negative"]
    table = {"image": ["fakes/a.png", "real/c.png"], "mask": masks, "label": labels}
    assert Dataset.from_table(table, root=files).samples.labels.tolist() == [1, 0]


def test_ids_may_be_given(files: Path) -> None:
    table = {"image": ["fakes/a.png", "fakes/b.png"], "id": ["z", None]}
    dataset = Dataset.from_table(table, root=files)
    assert dataset.samples.ids == ["fakes/b", "z"]
    assert dataset.samples[1].scene == "z"
    table["id"] = ["z", "z"]
    with pytest.raises(InputError) as caught:
        Dataset.from_table(table, root=files)
    assert str(caught.value) == (
        "two samples have the id z (fakes/a.png and fakes/b.png); give each image its own name"
    )


COLUMNS = "image, mask, split, generator, source, label, scene, id"
A, B = "fakes/a.png", "fakes/b.png"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([{"path": A}], f"unknown column of the table 'path'; known: {COLUMNS}"),
        (
            [{"image": A, "masks": "x"}],
            f"unknown column of the table 'masks'; did you mean 'mask'? known: {COLUMNS}",
        ),
        ([{"mask": A}], f"the table has no column image (mask); expected {COLUMNS}"),
        ([{}], f"the table has no column image (no columns); expected {COLUMNS}"),
        ({"image": []}, "the table lists no images; expected at least one"),
        (
            {"image": [A], "mask": []},
            "the table's columns have different lengths (image 1, mask 0)",
        ),
        (
            "a.csv",
            "the table is str; expected a pandas DataFrame, an Arrow table or a list of dicts",
        ),
        (
            [A, B],
            "the table is list; expected a pandas DataFrame, an Arrow table or a list of dicts",
        ),
        (
            [{"image": A}, {"mask": "truth/1.png"}],
            "the table, row 1 names no image; fill in image or remove the row",
        ),
        ([{"image": 5}], "the table, row 0 has image 5 (int); text expected"),
        ([{"image": A, "split": 1.5}], "the table, row 0 has split 1.5 (float); text expected"),
        (
            [{"image": A, "split": "other"}],
            "unknown split in the table, row 0 'other'; known: train, valid, test",
        ),
        (
            [{"image": A, "split": "test"}, {"image": B}],
            "the table: 1 of 2 images have no split; name one for each, or none",
        ),
        (
            [{"image": A, "label": 2}],
            "the table, row 0 has label 2; 1 fake, 0 real or -1 unknown expected",
        ),
        (
            [{"image": A, "label": [1]}],
            "the table, row 0 has label [1]; 1 fake, 0 real or -1 unknown expected",
        ),
        (
            [{"image": A, "label": 1}],
            "the table, row 0 has label 1 and no mask; a fake needs its mask",
        ),
        (
            [{"image": A, "mask": "truth/1.png", "label": 0}],
            "the table, row 0 has label 0 and a mask; a real image has Negative for mask",
        ),
        (
            [{"image": A, "mask": "truth/1.png", "label": -1}],
            "the table, row 0 has label -1 and a mask; an unknown image has Negative for mask",
        ),
        (
            [{"image": A, "label": -1, "generator": "real"}],
            "the table, row 0 has label -1 and generator real; name what made the fake",
        ),
        (
            [{"image": A}, {"image": "./" + A}],
            f"the table lists {A} twice; each image is one sample",
        ),
    ],
)  # fmt: skip
def test_other_tables(files: Path, table: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Dataset.from_table(table, root=files)
    assert str(caught.value) == message


def test_files_that_are_not_there_are_named(files: Path) -> None:
    rows = [{"image": A, "mask": "truth/9.png", "split": "test"}]
    rows.append({"image": "b.png", "mask": "truth/1.png", "split": "test"})
    with pytest.raises(InputError) as caught:
        Dataset.from_table([*ROWS[:2], *rows], root=files)
    assert str(caught.value) == (
        "the table lists 2 files (b.png, truth/9.png) that cannot be found; paths are relative to "
        f"{files}, correct or remove them"
    )
    with pytest.raises(InputError, match=r"none of its 1 samples has its files$"):
        Dataset.from_table(rows[1:], root=files)


def test_a_name_that_leads_elsewhere_is_refused(files: Path) -> None:
    with pytest.raises(InputError, match=r"^name '\.\./x' of the dataset cannot be used; expecte"):
        Dataset.from_table(ROWS, root=files, name="../x")
