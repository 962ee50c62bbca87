"""Tables in Hugging Face's form: columns, labels, splits, generators, and what is refused."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.benchmark_trees import encoded, opensdi_rows, white, write_opensdi, write_shard
from support.published_trees import forge, photograph

from declip_pipeline.datasets.layouts import list_dataset, recognise_layout
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.scan import scan_dataset
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.files import sha256_of_bytes


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    """A fake and a real image in turns."""
    found: list[dict[str, Any]] = []
    for number in range(count):
        real = photograph([number])
        picture, mask = forge(real, [number, 1])
        is_fake = number % 2 == 0
        image = encoded(picture if is_fake else real)
        found.append({"image": image, "mask": encoded(white(mask)) if is_fake else None, **more})
    return found


def error(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list_dataset(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_of_splits_are_one_dataset(tmp_path: Path) -> None:
    root = tmp_path / "forged"
    for split, count in (("train", 6), ("validation", 4), ("test", 2)):
        made = rows(count)
        for shard in (0, 1):
            half = made[shard * count // 2 : (shard + 1) * count // 2]
            write_shard(root / f"data/{split}-{shard:05d}-of-00002.parquet", half, group=2)
    dataset = list_dataset(root)
    assert recognise_layout(root) == "parquet"
    assert (dataset.name, dataset.root, dataset.splits) == (
        "forged",
        root,
        ("test", "train", "valid"),
    )
    assert dataset.generators == ("forged", "real")
    first = dataset.samples[0]
    assert (first.id, first.image) == (
        "data/test-00000-of-00002/000000",
        "data/test-00000-of-00002.parquet#0/image",
    )
    scan = scan_dataset(dataset, decode=True)
    assert scan.unreadable == {} and scan.dataset.samples.sizes.min() == 40
    assert open_dataset(root) == scan.dataset
    content = pq.read_table(root / "data/train-00000-of-00002.parquet", use_threads=False)
    stored = {s.id: s for s in scan.dataset.samples}["data/train-00000-of-00002/000000"]
    assert stored.image_sha256 == sha256_of_bytes(content["image"][0].as_py()["bytes"])
    assert stored.mask_sha256 == sha256_of_bytes(content["mask"][0].as_py()["bytes"])


def test_plain_bytes_and_columns_of_other_names(tmp_path: Path) -> None:
    made = rows(4)
    table = {
        "photo": [row["image"] for row in made],
        "Truth": [row["mask"] for row in made],
        "is_fake": [True, False, True, False],
        "Model": ["lama", "", "ldm", ""],
        "id": [3, 4, 5, 6],
    }
    file = tmp_path / "some.parquet"
    pq.write_table(pa.table(table), file, row_group_size=3)
    assert error(file) == (
        f"{file} has no column of images; it has photo, Truth, is_fake, Model, id; name it with "
        "`columns={'image': 'NAME'}`"
    )
    assert "no column of masks" in error(file, columns={"image": "photo"})
    dataset = list_dataset(file, columns={"image": "photo", "mask": "Truth"})
    assert [(s.id, s.generator, s.label) for s in dataset.samples] == [
        ("some/000000/3", "lama", 1),
        ("some/000001/4", "real", 0),
        ("some/000002/5", "ldm", 1),
        ("some/000003/6", "real", 0),
    ]
    assert (dataset.name, dataset.root) == ("some", tmp_path)
    assert scan_dataset(dataset).unreadable == {}
    message = error(file, columns={"image": "foto"})
    assert message.startswith(f"{file} has no column 'foto' for image; it has photo, Truth")
    with pytest.raises(UnknownNameError, match="unknown column in `columns` 'picture'"):
        list_dataset(file, columns={"picture": "photo"})
    assert "column is_fake holds bool; bytes, or structs with bytes, expected" in error(
        file, columns={"image": "is_fake", "mask": "Truth"}
    )


def test_columns_are_of_parquet_alone(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image,mask\na.png,b.png\n")
    assert "are of Parquet files alone" in error(tmp_path / "list.csv", columns={"image": "x"})


def test_images_without_masks_are_taken_where_that_is_said(tmp_path: Path) -> None:
    file = write_shard(tmp_path / "x.parquet", [{"image": row["image"]} for row in rows(2)])
    assert error(file) == (
        f"{file} has no column of masks; it has image; name it with `columns={{'mask': 'NAME'}}`, "
        "or take its images without masks with `columns={'mask': 'none'}`"
    )
    dataset = list_dataset(file, columns={"mask": "none"})
    assert [(s.label, s.generator) for s in dataset.samples] == [(-1, "unknown")] * 2


def test_names_of_classes_decide_which_label_is_fake(tmp_path: Path) -> None:
    made = [row | {"label": int(row["mask"] is None)} for row in rows(4)]
    flipped = write_shard(tmp_path / "a.parquet", made, names=("tampered", "authentic"))
    assert [s.label for s in list_dataset(flipped).samples] == [1, 0, 1, 0]
    other = write_shard(tmp_path / "b.parquet", made, names=("cat", "dog"))
    assert (
        f"{other}, row 0 has label 0 in column label (cat, dog); 1 or fake, and 0 or real, expected"
        in error(other)
    )
    many = write_shard(tmp_path / "c.parquet", [row | {"label": 7} for row in rows(1)])
    assert "row 0 has label 7 in column label; 1 or fake" in error(many)


def test_fakes_without_a_mask_need_leave(tmp_path: Path) -> None:
    made = [row | {"label": 1} for row in rows(4)]
    file = write_shard(tmp_path / "x.parquet", made)
    assert error(file) == (
        f"{file} holds 2 rows (x.parquet#1/image, x.parquet#3/image) labelled fake without a mask; "
        "pass `allow_unpaired=True` to leave these out"
    )
    dataset = list_dataset(file, allow_unpaired=True)
    assert dataset.unpaired == ("x.parquet#1/image", "x.parquet#3/image") and len(dataset) == 2


def test_masks_of_real_rows_are_not_read(tmp_path: Path) -> None:
    black = encoded(np.zeros((40, 48), np.uint8))
    made = [
        row | {"mask": row["mask"] or black, "label": int(n % 2 == 0)}
        for n, row in enumerate(rows(4))
    ]
    dataset = list_dataset(write_shard(tmp_path / "x.parquet", made))
    assert [s.mask is None for s in dataset.samples] == [False, True, False, True]


def test_splits_of_a_column_and_of_folders(tmp_path: Path) -> None:
    made = rows(4)
    for row, split in zip(made, ("train", "val", "test", "train"), strict=True):
        row["split"] = split
    dataset = list_dataset(write_shard(tmp_path / "x.parquet", made))
    assert [s.split for s in dataset.samples] == ["train", "valid", "test", "train"]
    for split in ("train", "test"):
        write_shard(tmp_path / f"hub/default/{split}/0000.parquet", rows(2))
    assert list_dataset(tmp_path / "hub").splits == ("test", "train")
    write_shard(tmp_path / "hub/default/extra/0000.parquet", rows(2))
    assert "2 of 6 rows have no split, such as those of default/extra/0000.parquet" in error(
        tmp_path / "hub"
    )
    made[0]["split"] = "fold-1"
    with pytest.raises(UnknownNameError, match="unknown split in x.parquet 'fold-1'"):
        list_dataset(write_shard(tmp_path / "x.parquet", made))


def test_other_names_of_shards_are_generators(tmp_path: Path) -> None:
    write_shard(tmp_path / "cocoglide/data/glide-00000-of-00001.parquet", rows(2))
    assert list_dataset(tmp_path / "cocoglide").generators == ("glide", "real")


def test_shards_with_other_columns_are_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "d/a-00000-of-00002.parquet", rows(2))
    write_shard(tmp_path / "d/a-00001-of-00002.parquet", rows(2, key="k"))
    assert error(tmp_path / "d") == (
        f"{tmp_path}/d/a-00001-of-00002.parquet has the columns image, mask, key, and "
        "a-00000-of-00002.parquet others; expected the same in all files of a dataset"
    )


def test_paths_in_place_of_bytes_are_refused(tmp_path: Path) -> None:
    file = write_shard(tmp_path / "x.parquet", [row | {"image": None} for row in rows(2)])
    assert error(file) == (
        f"{file}: column image holds no bytes in any row (paths at most); expected the images "
        "themselves"
    )


def encrypted(file: Path) -> None:
    import pyarrow.parquet.encryption as pe

    class Kms(pe.KmsClient):
        def __init__(self, config: object) -> None:
            super().__init__()

        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return key_bytes

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            return wrapped_key

    factory = pe.CryptoFactory(Kms)
    properties = factory.file_encryption_properties(
        pe.KmsConnectionConfig(),
        pe.EncryptionConfiguration(footer_key="k", column_keys={"k": ["image"]}),
    )
    with pq.ParquetWriter(
        file, pa.schema([("image", pa.binary())]), encryption_properties=properties
    ) as writer:
        writer.write_table(pa.table({"image": [b"x"]}))


def truncated(file: Path) -> None:
    write_shard(file, rows(4))
    file.write_bytes(file.read_bytes()[:-200])


def zipped(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"x")


@pytest.mark.parametrize(
    "spoil", [encrypted, truncated, zipped, lambda file: file.write_bytes(b"")]
)
def test_what_is_no_whole_parquet_file_is_one_clear_line(tmp_path: Path, spoil: Any) -> None:
    file = tmp_path / "x.parquet"
    spoil(file)
    message = error(file)
    assert message.startswith(f"{file} cannot be read as Parquet (")
    assert message.endswith("expected a whole .parquet file")


def test_corrupt_bytes_are_an_unreadable_image_and_no_more(tmp_path: Path) -> None:
    made = rows(6)
    made[2]["image"] = made[2]["image"][:20]
    made[4]["mask"] = b"words"
    dataset = open_dataset(write_shard(tmp_path / "x.parquet", made))
    assert scan_dataset(dataset).unreadable.keys() == {"x.parquet#2/image", "x.parquet#4/mask"}
    assert (dataset.samples.sizes[[0, 1, 3, 4, 5]] > 0).all()


def test_opensdi_tells_local_edits_from_whole_images(tmp_path: Path) -> None:
    root = write_opensdi(tmp_path / "OpenSDI")
    both = list_dataset(root)
    assert recognise_layout(root) == recognise_layout(root / "OpenSDI_test") == "opensdi"
    assert both.splits == ("test", "train")
    models = ("flux", "sd15", "sd2", "sd3", "sdxl")
    test = list_dataset(root / "OpenSDI_test")
    assert test.splits == ("test",)
    assert test.generators == tuple(
        sorted(["real", *models, *(f"{model}-entire" for model in models)])
    )
    part = list_dataset(root / "OpenSDI_test/data/flux-00000-of-00001.parquet")
    assert part.splits == ("test",) and part.generators == ("flux", "flux-entire", "real")
    train = list_dataset(root / "OpenSDI_train", assign_splits=(80, 20, 0))
    assert train.splits == ("train", "valid")
    # Read in the order of the files, as ids are.
    assert [s.image for s in train.samples][:2] == [
        f"data/sd15-00000-of-00003.parquet#{row}/image" for row in (0, 1)
    ]
    lines: list[str] = []
    opened = open_dataset(root / "OpenSDI_train", generators=["sd15-entire"], notice=lines.append)
    (line,) = lines
    assert line.startswith("note: `generators` leaves out the 12 real images, which detection")
    assert len(opened) == 3


def test_opensdi_by_name_needs_its_shards(tmp_path: Path) -> None:
    write_shard(tmp_path / "d/train-00000-of-00001.parquet", opensdi_rows("sd15", 2, 1))
    assert recognise_layout(tmp_path / "d") == "parquet"
    assert "is not OpenSDI; expected the shards of OpenSDI" in error(
        tmp_path / "d", layout="opensdi"
    )
