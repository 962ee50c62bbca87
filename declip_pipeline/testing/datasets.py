"""Contract of a dataset: what extraction, training and evaluation rely on."""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from declip_pipeline.datasets import scan
from declip_pipeline.datasets.checks import (
    MASKS_PER_GROUP,
    check_masks,
    check_usable,
    read_some_masks,
)
from declip_pipeline.datasets.contents import file_of, read_content
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.sample import FAKE, REAL, REAL_GENERATOR, Sample
from declip_pipeline.datasets.samples import SCHEMA, Samples


class DatasetContract:
    """Tests that every dataset passes; a subclass names the dataset.

        class TestMine(DatasetContract):
            @pytest.fixture
            def dataset(self):
                return my_dataset("/data/mine")

    The dataset needs not be scanned; its files are read.
    """

    def test_samples_have_unique_ids_and_are_sorted_by_them(self, dataset: Dataset) -> None:
        ids = dataset.samples.ids
        assert ids, "the dataset is empty"
        assert ids == sorted(set(ids))

    def test_every_image_is_one_sample_and_no_mask(self, dataset: Dataset) -> None:
        images = dataset.samples.strings("image")
        assert len(set(images)) == len(images)
        assert not set(images) & set(dataset.samples.strings("mask"))

    def test_paths_are_posix_below_the_root_and_exist(self, dataset: Dataset) -> None:
        for path in _files(dataset):
            assert "\\" not in path and ".." not in PurePosixPath(path).parts, path
            assert not PurePosixPath(path).is_absolute(), path
            assert (dataset.root / file_of(path)).is_file(), path

    def test_label_mask_and_generator_agree(self, dataset: Dataset) -> None:
        for sample in dataset.samples:  # `Sample` itself refuses other labels and masks
            assert (sample.label == REAL) == (sample.generator == REAL_GENERATOR), sample
            assert sample.generator and sample.source and sample.scene, sample

    def test_splits_are_train_valid_and_test_or_all(self, dataset: Dataset) -> None:
        known = ({"train", "valid", "test"}, {"all"})
        assert any(set(dataset.splits) <= names for names in known), dataset.splits

    def test_a_scene_is_in_one_split(self, dataset: Dataset) -> None:
        splits: dict[tuple[str, ...], str] = {}
        for source, scene, split in dataset.samples.rows_by("source", "scene", "split"):
            assert splits.setdefault((source, scene), split) == split, scene

    def test_rows_are_those_of_the_table(self, dataset: Dataset) -> None:
        samples = dataset.samples
        assert samples.table.schema.names == SCHEMA.names
        assert Samples.from_rows(samples) == samples
        assert isinstance(samples[0], Sample)

    def test_selecting_everything_by_name_changes_nothing(self, dataset: Dataset) -> None:
        assert dataset.select(dataset.splits, dataset.generators) == dataset
        parts = [len(dataset.select([split])) for split in dataset.splits]
        assert sum(parts) == len(dataset)

    def test_files_pass_the_checks_in_the_dataset_s_polarity(self, dataset: Dataset) -> None:
        found = scan.scan_dataset(dataset)
        assert found.unreadable == {}
        check_usable(found)
        fits = (found.dataset.samples.sizes == found.mask_sizes).all(axis=1)
        assert fits[found.dataset.samples.rows(label=FAKE)].all(), "masks of another size"
        masks = read_some_masks(found.dataset, most_per_group=MASKS_PER_GROUP)
        white = found.dataset.fake_is_white
        assert check_masks(masks, fake_is_white=white, polarity_is_given=False) == []
        assert found.dataset.is_scanned
        assert (found.dataset.samples.sizes > 0).all()
        has_mask = np.asarray(found.dataset.samples.labels == FAKE)
        hashes = found.dataset.samples.strings("mask_sha256")
        assert [one is not None for one in hashes] == has_mask.tolist()

    def test_any_byte_of_any_file_changes_the_hash_of_the_samples(
        self, dataset: Dataset, monkeypatch: Any
    ) -> None:
        before = scan.scan_dataset(dataset).dataset.samples.sha256()
        for path in list(_files(dataset))[:4]:

            def changed(root: Path, address: str, path: str = path) -> bytes:
                content = bytearray(read_content(root, address))
                if address == path:
                    content[len(content) // 2] ^= 1
                return bytes(content)

            monkeypatch.setattr(scan, "read_content", changed)
            assert scan.scan_dataset(dataset).dataset.samples.sha256() != before, path
        monkeypatch.undo()
        assert scan.scan_dataset(dataset).dataset.samples.sha256() == before


def _files(dataset: Dataset) -> list[str]:
    masks = dataset.samples.strings("mask")
    return [*dataset.samples.strings("image"), *(mask for mask in masks if mask is not None)]
