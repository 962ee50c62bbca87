"""The table of samples: rows, columns, selection, and its hash."""

import hashlib
import io
import struct
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from declip_pipeline.datasets.sample import FAKE, REAL, UNKNOWN, Sample
from declip_pipeline.datasets.samples import PLACE, SCHEMA, Samples
from declip_pipeline.errors import InputError, UnknownNameError

ROWS = [
    Sample("b", "i/b.png", "m/b.png", "test", "lama", FAKE, "faces", "1", 20, 30, "ab" * 32),
    Sample("a", "i/a.png", None, "train", "real", REAL, "faces", "1", 40, 50, "cd" * 32),
    Sample("ü", "i/ü.jpg", "m/a.png", "train", "ldm", FAKE, "faces", "2", 20, 30, None, "01" * 32),
    Sample("d", "i/d.png", None, "train", "unknown", UNKNOWN, "sea"),
]


@pytest.fixture
def samples() -> Samples:
    return Samples.from_rows(iter(ROWS))


def test_rows_come_back_as_they_were(samples: Samples) -> None:
    assert len(samples) == 4
    assert list(samples) == ROWS
    assert [samples[row] for row in range(4)] == ROWS
    assert samples[-1] == ROWS[-1]
    assert list(samples[1:3]) == ROWS[1:3]
    assert ROWS[3].scene == "d"
    with pytest.raises(IndexError, match="row 4 of 4 samples"):
        samples[4]


def test_columns_are_arrays(samples: Samples) -> None:
    assert samples.ids == ["b", "a", "ü", "d"]
    assert samples.strings("mask") == ["m/b.png", None, "m/a.png", None]
    assert (samples.labels.dtype, samples.labels.tolist()) == (np.int8, [1, 0, 1, -1])
    assert samples.sizes.dtype == np.int32
    assert samples.sizes.tolist() == [[20, 30], [40, 50], [20, 30], [0, 0]]
    assert samples.names("generator") == ("lama", "ldm", "real", "unknown")
    assert samples.names("generator", label=FAKE) == ("lama", "ldm")
    assert samples.names("scene") == ("1", "2", "d")


def test_rows_are_selected_by_names_and_label(samples: Samples) -> None:
    assert samples.rows().tolist() == [0, 1, 2, 3]
    assert samples.rows(splits=["train"]).tolist() == [1, 2, 3]
    assert samples.rows(splits=["train"], generators=["ldm", "lama"]).tolist() == [2]
    assert samples.rows(label=REAL).tolist() == [1]
    assert samples.rows(splits=["valid"]).tolist() == []
    samples.require_names("split", ["test"])
    with pytest.raises(UnknownNameError, match="unknown split of x 'tests'; did you mean 'test'"):
        samples.require_names("split", ["tests"], where=" of x")


def test_rows_are_grouped_by_columns(samples: Samples) -> None:
    def groups(*columns: str, rows: np.ndarray | None = None) -> dict[tuple[str, ...], list[int]]:
        found = samples.rows_by(*columns, rows=rows)
        assert list(found) == sorted(found)
        return {names: group.tolist() for names, group in found.items()}

    assert groups("scene") == {("1",): [0, 1], ("2",): [2], ("d",): [3]}
    assert groups("source", "split") == {
        ("faces", "test"): [0],
        ("faces", "train"): [1, 2],
        ("sea", "train"): [3],
    }
    assert groups("split", rows=np.array([3, 1])) == {("train",): [3, 1]}
    assert groups("split", rows=np.array([], np.int64)) == {}


def test_samples_are_taken_sorted_and_found_by_id(samples: Samples) -> None:
    assert samples.take([2, 0]).ids == ["ü", "b"]
    assert samples.by_id().tolist() == [1, 0, 3, 2]
    assert samples.by_id(np.array([3, 0])).tolist() == [0, 3]
    assert samples.find(["d", "x", "b"]).tolist() == [3, -1, 0]


def test_replace_gives_new_columns(samples: Samples) -> None:
    other = samples.replace(height=[1, 2, 3, 4], split=["all"] * 4)
    assert [s.height for s in other] == [1, 2, 3, 4]
    assert other.names("split") == ("all",)
    assert samples[0].height == 20


def test_equality_and_hash_are_of_the_values(samples: Samples) -> None:
    taken = samples.take([0, 1, 2, 3])
    again = Samples.from_rows([*ROWS, ROWS[0]]).take([0, 1, 2, 3])
    assert taken == samples == again
    assert taken.sha256() == samples.sha256() == again.sha256()
    assert samples != samples.take([1, 0, 2, 3])
    hashes = {samples.sha256(), samples.take([1, 0, 2, 3]).sha256()}
    changes = {
        "id": "x",
        "image": "x",
        "mask": "x",
        "split": "x",
        "generator": "x",
        "source": "x",
        "scene": "x",
        "image_sha256": "ff" * 32,
        "mask_sha256": "ff" * 32,
    }
    for name, value in changes.items():
        other = Samples.from_rows([replace(ROWS[0], **{name: value}), *ROWS[1:]])
        assert other != samples
        hashes.add(other.sha256())
    assert samples.replace(height=[1, 2, 3, 4]).sha256() == samples.sha256()
    # The same text in two columns or rows, cut at another place.
    hashes.add(Samples.from_rows([replace(ROWS[0], id="bi", image="/b.png"), *ROWS[1:]]).sha256())
    assert len(hashes) == 3 + len(changes)


def test_the_hash_is_as_documented(samples: Samples) -> None:
    digest = hashlib.sha256()
    for name in SCHEMA.names:
        if name in ("height", "width", *PLACE):
            continue
        values = [getattr(sample, name) for sample in ROWS]
        if name == "label":
            digest.update(struct.pack("<4b", *values))
            continue
        encode = bytes.fromhex if name.endswith("sha256") else str.encode
        parts = [None if value is None else encode(value) for value in values]
        digest.update(struct.pack("<4i", *(-1 if part is None else len(part) for part in parts)))
        digest.update(b"".join(part or b"" for part in parts))
    assert samples.sha256() == digest.hexdigest()


def test_parquet_gives_the_samples_back_in_the_same_bytes(samples: Samples) -> None:
    content = samples.to_parquet()
    assert Samples.from_parquet(content) == samples
    assert Samples.from_parquet(content).to_parquet() == content
    assert Samples.from_rows([*ROWS, ROWS[0]]).take([0, 1, 2, 3]).to_parquet() == content
    lacking = io.BytesIO()
    pq.write_table(samples.table.drop_columns("split"), lacking)
    with pytest.raises(InputError, match="^the table of samples lacks the column split$"):
        Samples.from_parquet(lacking.getvalue())
    with pytest.raises(InputError, match="^the table of samples is not Parquet"):
        Samples.from_parquet(b"words")


def test_content_and_masks(samples: Samples) -> None:
    assert [len(one) for one in samples.content().to_pylist()] == [32, 32, 32, 0]
    assert not samples.have_masks
    assert samples.take([0, 1, 2]).have_masks


def test_columns_make_samples_with_defaults() -> None:
    made = Samples.from_columns(
        ["i/a.png", "i/b.png"], mask=["m/a.png", None], generator=["ldm", "real"], source="faces"
    )
    assert list(made) == [
        Sample("i/a", "i/a.png", "m/a.png", "all", "ldm", FAKE, "faces"),
        Sample("i/b", "i/b.png", None, "all", "real", REAL, "faces"),
    ]
    unknown = Samples.from_columns(["a.png"], generator="unknown", source="x", label=UNKNOWN)
    assert [s.label for s in unknown] == [UNKNOWN]
    assert len(Samples.from_columns([], generator="x", source="x")) == 0


@pytest.mark.slow
def test_many_samples_are_split_into_batches() -> None:
    images = [f"{number}.png" for number in range(40_000)]
    generators = [f"g{number // 20_000}" for number in range(40_000)]
    made = Samples.from_columns(images, mask=images, generator=generators, source="x")
    assert Samples.from_rows(made) == made
    assert made[39_999].generator == "g1"


def test_other_tables_are_refused() -> None:
    with pytest.raises(InputError, match=r"^the table of samples lacks image, mask, .*; expected"):
        Samples(pa.table({"id": ["a"]}))
    columns = {name: [None] for name in SCHEMA.names}
    with pytest.raises(InputError, match=r"^the table of samples has another schema: "):
        Samples(pa.table(columns | {"height": ["tall"]}))


def test_label_and_mask_must_agree() -> None:
    fake, real = ROWS[0], ROWS[1]
    for wrong in ({"mask": None}, {"label": 0}, {"label": -1}):
        with pytest.raises(InputError) as caught:
            replace(fake, **wrong)
        assert str(caught.value) == "sample b: a fake has a mask, and no other image has one"
    with pytest.raises(InputError, match="sample a has label 2; 1 fake, 0 real or -1 unknown exp"):
        Sample(**(asdict(real) | {"label": 2}))


def test_reading_a_table_leaves_no_thread_that_could_abort_the_end_of_a_process(tmp_path):
    file = tmp_path / "samples.parquet"
    names = [f"{number}.png" for number in range(1000)]
    samples = Samples.from_columns(names, generator="real", source="a")
    file.write_bytes(samples.to_parquet())
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from declip_pipeline.datasets.samples import Samples\n"
        "content = Path(sys.argv[1]).read_bytes()\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "assert len(Samples.from_parquet(content)) == 1000\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"
