from collections import Counter

import pytest

from declip_pipeline.datasets.samples import Sample
from declip_pipeline.datasets.splits import assign_splits, splits_of_paths
from declip_pipeline.errors import InputError


def samples(count: int, split: str = "all") -> list[Sample]:
    return [Sample(f"images/{n}", "i", "m", split, "x", 1, "x") for n in range(count)]


def test_splits_come_from_the_first_folder() -> None:
    paths = {"i/1": "train/1.png", "i/2": "Val/a/2.png", "i/3": "valid/3.png", "i/4": "test/4.png"}
    expected = {"i/1": "train", "i/2": "valid", "i/3": "valid", "i/4": "test"}
    assert splits_of_paths("/data", paths) == expected


def test_without_such_folders_all_is_one_split() -> None:
    paths = {"i/1": "1.png", "i/2": "sea/train/2.png", "i/3": "train.png"}
    assert set(splits_of_paths("/data", paths).values()) == {"all"}


def test_some_inside_and_some_outside_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        splits_of_paths("/data", {"i/1": "train/1.png", "i/3": "3.png", "i/2": "sea/2.png"})
    assert str(caught.value) == (
        "/data: 2 of 3 pictures lie outside the folders train, valid and test (the first is i/2); "
        "put each into one of them"
    )


def test_assignment_is_pinned_and_near_its_percents() -> None:
    assigned = assign_splits(samples(2000), (70, 10, 20))
    assert Counter(s.split for s in assigned) == {"train": 1413, "valid": 188, "test": 399}
    assert [s.id for s in assigned] == [s.id for s in samples(2000)]


def test_a_sample_keeps_its_split_when_others_come_or_go() -> None:
    many = {s.id: s.split for s in assign_splits(samples(100), (50, 25, 25))}
    for sample in assign_splits(samples(100)[::7], (50, 25, 25)):
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
