from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.datasets.checks import check_polarity, check_sizes
from declip_pipeline.datasets.manifest import Manifest, Sample
from declip_pipeline.errors import InputError
from declip_pipeline.images.decode import decode_mask, image_size


def write(path: Path, height: int, width: int, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width), grey, np.uint8)).save(path)


def manifest_of(root: Path, count: int, *, greys: list[int], fake_is_white: bool) -> Manifest:
    """Fakes of 20x30 pixels with uniform masks, and one real picture."""
    samples = [Sample("real", "real.png", None, "all", "real", 0, "own")]
    write(root / "real.png", 40, 50)
    for number in range(count):
        image, mask = f"images/{number}.png", f"masks/{number}.png"
        samples.append(Sample(str(number), image, mask, "all", "own", 1, "own"))
        write(root / image, 20, 30)
        write(root / mask, 20, 30, greys[number % len(greys)])
    return Manifest("own", root, fake_is_white, tuple(samples))


def polarity_error(manifest: Manifest) -> str:
    read_mask = partial(decode_mask, fake_is_white=manifest.fake_is_white)
    with pytest.raises(InputError) as caught:
        check_polarity(manifest, read_mask=read_mask)
    return str(caught.value)


def test_sizes_are_returned_in_the_order_of_the_samples(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 2, greys=[0], fake_is_white=True)
    sizes = check_sizes(manifest, read_size=image_size)
    assert sizes.dtype == np.int32
    assert sizes.tolist() == [[20, 30], [20, 30], [40, 50]]


def test_an_unreadable_picture_is_left_to_extraction(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 2, greys=[0], fake_is_white=True)
    (tmp_path / "images/1.png").write_bytes(b"")
    (tmp_path / "real.png").write_text("words")
    assert check_sizes(manifest, read_size=image_size).tolist() == [[20, 30], [0, 0], [0, 0]]


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 4, greys=[0], fake_is_white=True)
    write(tmp_path / "masks/1.png", 30, 20)
    write(tmp_path / "masks/3.png", 40, 60)
    with pytest.raises(InputError) as caught:
        check_sizes(manifest, read_size=image_size)
    assert str(caught.value) == (
        "images/1.png has 30x20 pixels and its mask masks/1.png 20x30 "
        "(2 of 5 samples differ so); a mask must have the size of its picture, resize one of them"
    )


def test_an_unreadable_mask_is_named(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 3, greys=[0], fake_is_white=True)
    mask = tmp_path / "masks/1.png"
    mask.write_bytes(b"")
    expected = f"mask {mask}: empty file, zero bytes; a picture was expected; repair or remove it"
    with pytest.raises(InputError) as caught:
        check_sizes(manifest, read_size=image_size)
    assert str(caught.value) == expected


def test_an_unreadable_mask_says_nothing_of_the_polarity(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 3, greys=[0], fake_is_white=True)
    (tmp_path / "masks/0.png").write_bytes(b"")
    assert polarity_error(manifest).startswith("all 2 masks are entirely real")
    for mask in (tmp_path / "masks").iterdir():
        mask.write_bytes(b"")
    check_polarity(manifest, read_mask=partial(decode_mask, fake_is_white=True))


@pytest.mark.parametrize(
    ("greys", "fake_is_white", "found", "hint"),
    [
        ([0], True, "all 12 masks are entirely real (no fake pixel)", ("white", "black")),
        ([255], False, "all 12 masks are entirely real (no fake pixel)", ("black", "white")),
        ([255], True, "all 12 masks are entirely fake (no real pixel)", ("white", "black")),
        ([0], False, "all 12 masks are entirely fake (no real pixel)", ("black", "white")),
        ([0, 0, 255], True, "no mask has both: 8 are entirely real and 4 entirely fake", None),
    ],
)
def test_uniform_masks_hint_at_the_polarity(
    tmp_path: Path,
    greys: list[int],
    fake_is_white: bool,
    found: str,
    hint: tuple[str, str] | None,
) -> None:
    message = polarity_error(manifest_of(tmp_path, 12, greys=greys, fake_is_white=fake_is_white))
    colour, other = hint or ("white", "black")
    assert message == (
        f"{found}, reading {colour} as fake and grey values from 128 as white; "
        f"if {other} marks fake pixels here pass --polarity {other}-is-fake"
    )


def test_masks_are_read_only_until_one_has_both_kinds(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 4, greys=[0], fake_is_white=True)
    both = np.zeros((20, 30), bool)
    both[:10] = True
    masks = {"0.png": np.zeros((20, 30), bool), "1.png": both}
    read: list[str] = []

    def read_mask(path: Path) -> np.ndarray:
        read.append(path.name)
        return masks[path.name]

    check_polarity(manifest, read_mask=read_mask)
    assert read == ["0.png", "1.png"]


def test_real_pictures_alone_have_no_polarity(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 0, greys=[0], fake_is_white=True)
    check_polarity(manifest, read_mask=partial(decode_mask, fake_is_white=True))


def test_a_picture_that_cannot_be_opened_now_is_not_one_without_a_size(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, 2, greys=[0], fake_is_white=True)
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(InputError) as caught:
        check_sizes(manifest, read_size=image_size)
    assert str(caught.value) == (
        f"{tmp_path / 'images' / '1.png'} cannot be opened: No such file or directory; "
        "bring it back and run the same command again"
    )
