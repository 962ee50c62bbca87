import pytest

from declip_pipeline.datasets.pairing import pair_by_stem, require_paired
from declip_pipeline.errors import InputError


def test_pairs_by_name_and_not_by_order() -> None:
    pairing = pair_by_stem(["10.jpg", "9.JPG", "a/1.png"], ["9.png", "a/1.png", "10.png"])
    assert pairing.pairs == (("10.jpg", "10.png"), ("9.JPG", "9.png"), ("a/1.png", "a/1.png"))
    assert pairing.images_without_mask == pairing.masks_without_image == ()


def test_same_names_in_different_folders_do_not_pair() -> None:
    pairing = pair_by_stem(["a/1.png", "2.png"], ["b/1.png", "2.png"])
    assert pairing.pairs == (("2.png", "2.png"),)
    assert pairing.images_without_mask == ("a/1.png",)
    assert pairing.masks_without_image == ("b/1.png",)


@pytest.mark.parametrize("kind", ["pictures", "masks"])
def test_two_of_one_name_are_refused(kind: str) -> None:
    twice, once = ["a/1.png", "a/1.JPG"], ["a/1.png"]
    images, masks = (twice, once) if kind == "pictures" else (once, twice)
    with pytest.raises(InputError) as caught:
        pair_by_stem(images, masks)
    assert str(caught.value) == (
        f"two {kind} share one name, a/1.JPG and a/1.png; remove or rename one of them"
    )


def test_what_does_not_pair_is_listed_up_to_five_with_the_count() -> None:
    require_paired("/data", [], [])
    with pytest.raises(InputError) as caught:
        require_paired("/data", [f"images/{n}.png" for n in range(7)], ["masks/x.png"])
    assert str(caught.value) == (
        "/data holds 7 images (images/0.png, images/1.png, images/2.png, images/3.png, "
        "images/4.png and 2 more) without a mask and 1 mask (masks/x.png) without an image; "
        "a mask has its image's name, pass `allow_unpaired=True` to leave these out"
    )


def test_one_kind_alone_is_listed_alone() -> None:
    with pytest.raises(InputError, match=r"^/data holds 1 image \(a.png\) without a mask; a mas"):
        require_paired("/data", ["a.png"], [])
    with pytest.raises(InputError, match=r"^/data holds 2 masks \(a, b\) without an image; a mas"):
        require_paired("/data", [], ["a", "b"])


def test_a_masks_ending_is_left_aside_where_no_picture_has_the_whole_name() -> None:
    pairing = pair_by_stem(
        ["a.jpg", "b_gt.jpg", "c.jpg", "d.jpg"],
        ["a_gt.png", "b_gt.png", "c.png", "e_gt.png"],
        mask_endings=("_gt", "_mask"),
    )
    assert pairing.pairs == (("a.jpg", "a_gt.png"), ("b_gt.jpg", "b_gt.png"), ("c.jpg", "c.png"))
    assert pairing.images_without_mask == ("d.jpg",)
    assert pairing.masks_without_image == ("e_gt.png",)
    with pytest.raises(InputError, match=r"^two masks share one name, a.png and a_gt.png; remove"):
        pair_by_stem(["a.jpg"], ["a_gt.png", "a.png"], mask_endings=("_gt",))


def test_the_rule_of_the_layout_is_said() -> None:
    with pytest.raises(
        InputError, match=r"without a mask; ask Ann, pass `allow_unpaired=True` to leave"
    ):
        require_paired("/data", ["a.png"], [], rule="ask Ann")
