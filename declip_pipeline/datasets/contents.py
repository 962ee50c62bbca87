"""Contents of images and masks by their addresses: files, cells of tables, derived masks.

An address is a posix path below the dataset's root, and may go on:

- `train-00000-of-00012.parquet#17/image` is the bytes in column `image` of row 17, from 0;
- `a_edgemask.jpg#green` is the mask that is white where the file is more green than red;
- `a.png#white` and `a.png#black` are masks of one colour, of the size of the image `a.png`, which
  stand for an image that is generated as a whole.
"""

import re
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from declip_pipeline.datasets.parquet_cells import read_cell
from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import (
    DEFAULT_MAX_MEGAPIXELS,
    image_size,
    loaded_upright,
    opened_image,
)

_CELL = re.compile(r"(.+\.parquet)#(\d+)/([^#/]+)", re.IGNORECASE)
_DERIVED = re.compile(r"(.+)#(white|black|green)")


def cell_address(file: str, row: int, column: str) -> str:
    """Return the address of the bytes in a column of a row of a Parquet file."""
    return f"{file}#{row}/{quote(column, safe='')}"


def green_of(mask: str) -> str:
    """Return the address of the mask that is white where a file is more green than red."""
    return f"{mask}#green"


def whole_of(image: str, *, fake_is_white: bool) -> str:
    """Return the address of the mask of an image that is generated as a whole."""
    return f"{image}#{'white' if fake_is_white else 'black'}"


def are_whole(masks: pa.ChunkedArray) -> np.ndarray:
    """Return which addresses of masks are those of `whole_of`, (N,) bool; False for no mask."""
    found = pc.or_(pc.ends_with(masks, "#white"), pc.ends_with(masks, "#black"))
    return np.asarray(pc.fill_null(found, False))


def file_of(address: str) -> str:
    """Return the path of the file that an address leads to."""
    if derived := _DERIVED.fullmatch(address):
        address = derived[1]
    cell = _CELL.fullmatch(address)
    return cell[1] if cell else address


def read_content(root: Path, address: str) -> bytes:
    """Return the content of an image or a mask.

    A mask that is derived is a PBM file, white where fake; of a file that is no image, the content
    of that file.

    Raises:
        OSError: With a text in `strerror`, for a file that cannot be read.
    """
    derived = _DERIVED.fullmatch(address)
    if derived is None:
        cell = _CELL.fullmatch(address)
        if cell is None:
            return (root / address).read_bytes()
        return read_cell(root / cell[1], int(cell[2]), unquote(cell[3]))
    content = read_content(root, derived[1])
    try:
        if derived[2] == "green":
            return _bitmap(_more_green_than_red(content))
        return _bitmap(np.full(image_size(content), derived[2] == "white"))
    except ImageError:
        return content


def decodable(root: Path, address: str) -> Path | bytes:
    """Return what `decode_image` and `read_mask` take: the path of a file, or the content.

    Raises:
        ImageError: For content that cannot be read.
    """
    if file_of(address) == address:
        return root / address
    try:
        return read_content(root, address)
    except OSError as error:
        raise ImageError(f"cannot be opened: {error.strerror}") from error


def _more_green_than_red(content: bytes) -> np.ndarray:
    with opened_image(content) as image:
        red, green, _ = loaded_upright(image, DEFAULT_MAX_MEGAPIXELS).convert("RGB").split()
        return np.asarray(green) > np.asarray(red)


def _bitmap(white: np.ndarray) -> bytes:
    """Return a PBM file: nothing of it depends on a library's version, as hashes must not."""
    height, width = white.shape
    return b"P4\n%d %d\n" % (width, height) + np.packbits(~white, axis=1).tobytes()
