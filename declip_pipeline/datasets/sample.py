"""Sample: one image, or a tile of it, and what is known of it."""

from dataclasses import dataclass

from declip_pipeline.errors import InputError
from declip_pipeline.images.tiles import Window

FAKE, REAL, UNKNOWN = 1, 0, -1

REAL_GENERATOR = "real"
"""Generator of images that no generator has touched."""
UNKNOWN_GENERATOR = "unknown"
"""Generator of images of which nobody says whether they are fake."""
UNSPLIT = "all"
"""Split of all images of a dataset without splits."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, or a tile of it, and what is known of it: a row of `Samples`.

    Args:
        id: Unique and stable: `image` without its suffix; of a tile, followed by "@TOP,LEFT".
        image: Posix path relative to the dataset's root.
        mask: Posix path relative to the dataset's root; None for an image that is not fake.
        split: "train", "valid", "test", or "all" where the dataset has no splits.
        generator: The method that made the fake, "real", or "unknown".
        label: 1 fake, 0 real, -1 unknown (an image without a mask that nobody calls real: its
            features can be stored, but nothing can be learned from it or tested on it).
        source: The dataset that the image comes from, such as "celebahq".
        scene: The same for an image and all that was forged of it, within a source. Such images
            are not independent of one another. An image of which nothing is known is a scene of
            its own, named by its id.
        height: Pixels; 0 where the image is unreadable or was not read yet.
        width: Pixels; 0 where the image is unreadable or was not read yet.
        image_sha256: SHA-256 of the image's file, 64 hex digits; None before it was read.
        mask_sha256: SHA-256 of the mask's file; None without a mask or before it was read.
        top: First row of a tile in its image, pixels; None for a whole image, as the next three.
        left: First column of a tile.
        tile_height: Height of a tile in pixels of the image.
        tile_width: Width of a tile in pixels of the image.

    Raises:
        InputError: For another label, a fake without a mask, or another image with one.
    """

    id: str
    image: str
    mask: str | None
    split: str
    generator: str
    label: int
    source: str
    scene: str = ""
    height: int = 0
    width: int = 0
    image_sha256: str | None = None
    mask_sha256: str | None = None
    top: int | None = None
    left: int | None = None
    tile_height: int | None = None
    tile_width: int | None = None

    def __post_init__(self) -> None:
        if self.label not in (FAKE, REAL, UNKNOWN):
            raise InputError(
                f"sample {self.id} has label {self.label}; 1 fake, 0 real or -1 unknown expected"
            )
        if (self.label == FAKE) != (self.mask is not None):
            raise InputError(f"sample {self.id}: a fake has a mask, and no other image has one")
        if not self.scene:
            object.__setattr__(self, "scene", self.id)

    @property
    def window(self) -> Window | None:
        """Place of a tile in its image; None for a whole image."""
        if self.top is None:
            return None
        assert self.left is not None and self.tile_height is not None
        assert self.tile_width is not None
        return Window(self.top, self.left, self.tile_height, self.tile_width)
