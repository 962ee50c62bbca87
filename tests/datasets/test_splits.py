from collections import Counter

import pytest

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.splits import assign_splits, splits_of_paths
from declip_pipeline.errors import InputError


def samples(count: int, split: str = "all", step: int = 1) -> Samples:
    images = [f"images/{number}.png" for number in range(0, count, step)]
    return Samples.from_columns(images, mask=images, split=split, generator="x", source="x")


def test_splits_come_from_the_first_folder() -> None:
    paths = ["train/1.png", "Val/a/2.png", "valid/3.png", "test/4.png"]
    assert splits_of_paths("/data", paths, paths) == ["train", "valid", "valid", "test"]


def test_without_such_folders_all_is_one_split() -> None:
    paths = ["1.png", "sea/train/2.png", "train.png"]
    assert splits_of_paths("/data", paths, paths) == ["all"] * 3


def test_some_inside_and_some_outside_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        splits_of_paths("/data", ["i/1", "i/3", "i/2"], ["train/1.png", "3.png", "sea/2.png"])
    assert str(caught.value) == (
        "/data: 2 of 3 images lie outside the folders train, valid and test (the first is i/2); "
        "put each into one of them"
    )


def test_assignment_is_pinned_and_near_its_percents() -> None:
    assigned = assign_splits(samples(2000), (70, 10, 20))
    assert Counter(s.split for s in assigned) == {"train": 1413, "valid": 188, "test": 399}
    assert [s.id for s in assigned] == [s.id for s in samples(2000)]


def test_a_sample_keeps_its_split_when_others_come_or_go() -> None:
    many = {s.id: s.split for s in assign_splits(samples(100), (50, 25, 25))}
    for sample in assign_splits(samples(100, step=7), (50, 25, 25)):
        assert sample.split == many[sample.id]


def test_all_to_one_split() -> None:
    assert {s.split for s in assign_splits(samples(50), (0, 0, 100))} == {"test"}


@pytest.mark.parametrize("percents", [(80, 10, 20), (110, -10, 0)])
def test_percents_must_make_100(percents: tuple[int, int, int]) -> None:
    shown = ", ".join(map(str, percents))
    with pytest.raises(InputError, match=f"split percents {shown}; three numbers of 0 to 100, 100"):
        assign_splits(samples(3), percents)


def test_existing_splits_are_not_overruled() -> None:
    message = r"has splits already \(test\); leave the percents out"
    with pytest.raises(InputError, match=message):
        assign_splits(samples(3, "test"), (80, 10, 10))


def test_images_of_one_scene_stay_together() -> None:
    images = [f"{number}.png" for number in range(60)]
    scenes = [str(number // 3) for number in range(60)]
    made = Samples.from_columns(images, mask=images, generator="x", source="x", scene=scenes)
    splits = assign_splits(made, (50, 25, 25)).strings("split")
    assert all(len({*splits[first : first + 3]}) == 1 for first in range(0, 60, 3))
    assert {*splits} == {"train", "valid", "test"}


def test_valid_is_drawn_from_a_published_train_split() -> None:
    images = [f"{number}.png" for number in range(200)]
    splits = ["train"] * 120 + ["test"] * 80
    made = Samples.from_columns(images, mask=images, split=splits, generator="x", source="x")
    found = assign_splits(made, (75, 25, 0)).strings("split")
    assert found[120:] == ["test"] * 80
    assert 15 < found[:120].count("valid") < 45 and {*found[:120]} == {"train", "valid"}
    with pytest.raises(InputError) as caught:
        assign_splits(made, (80, 10, 10))
    assert str(caught.value) == (
        "the dataset has splits already (test, train); leave the percents out, or draw valid from "
        "train with none for test"
    )


def test_the_one_split_that_is_asked_for_is_left_as_it_is() -> None:
    assert assign_splits(samples(3, "test"), (0, 0, 100)) == samples(3, "test")
