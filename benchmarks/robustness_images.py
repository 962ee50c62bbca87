"""Damaged images and masks, and what a right result on them is."""

import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps
from robustness_children import Case, Ended
from robustness_mutations import copied, damaged_bytes
from robustness_world import ARCH, World

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
LIBTIFF = re.compile(r"^(\w*Decode|TIFF\w+|JPEGLib|LZW\w*|tempfile\.tif): ")
EXTRACT = (*ARCH, "--layers", "layer1", "--batch-size", "1")


def damaged_image(world: World, case: Case, name: str) -> None:
    """Damage the bytes of an image, and extract or predict it beside a good one.

    Right is a result whose pixels are those of Pillow's strict decoding of the damaged file, or
    those of the undamaged one; pixels are seen through the store's thumbnail, or the mask and the
    map's size that `predict` writes. The good image must be used whatever the other is, and lines
    on stderr must be the program's.
    """
    source = case.random.choice(world.images[name])
    others = [one.read_bytes() for one in world.images[name] if one != source]
    folder = case.folder / "images"
    folder.mkdir()
    good = copied(world.images["PNG"][0], folder / "good.png")
    data, change = damaged_bytes(
        source.read_bytes(), case.random, case.random.choice([b"", *others])
    )
    case.note(f"{source.name}: {change}")
    file = folder / f"bad{source.suffix}"
    file.write_bytes(data)
    if case.random.random() < 0.5:
        cache = case.folder / "cache"
        ended = case.run("extract", folder, *EXTRACT, "--cache", cache, "--max-failures", 1)
        if ended.is_done:
            _check_extracted(case, ended, file, source)
    else:
        out = case.folder / "out"
        ended = case.run("predict", world.path("run"), "-i", folder, "-o", out)
        case.expect((out / "good_mask.png").is_file(), f"{good.name} was not predicted")
        if ended.is_done:
            _check_predicted(case, out, world, file, source)

    for line in ended.err.splitlines():
        if LIBTIFF.match(line):
            case.unclear(f"a line of libtiff's own on stderr: {line}")


def strict_pixels(data: bytes, undamaged: bytes) -> list[np.ndarray]:
    """Return the arrays, HWC uint8, that a file's content may be decoded to.

    Pillow's decoding with every check on, upright by EXIF or as stored, and that of the undamaged
    file. 16-bit grey is scaled by 255/65535 and floating grey by 255, alpha is dropped. Content
    that libtiff calls damaged, on stderr, which here is a file, counts as refused.
    """
    found = []
    Image.MAX_IMAGE_PIXELS = None
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    for content in (data, undamaged):
        said = os.fstat(2).st_size
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                    image.load()
                    arrays = [_rgb(image), _rgb(ImageOps.exif_transpose(image))]
        except Exception:
            continue  # what Pillow refuses may not be accepted either
        if os.fstat(2).st_size == said:
            found += arrays
    return found


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        white = 1 if image.mode == "F" else 65535
        values = np.asarray(image).astype(np.float64)
        grey = np.rint(np.clip(values * 255 / white, 0, 255)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, 2)
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    return np.asarray(image.convert("RGB"))


def _check_extracted(case: Case, ended: Ended, file: Path, source: Path) -> None:
    from declip_pipeline.images.resize import thumbnail
    from declip_pipeline.store.format import THUMBNAIL_SIZE
    from declip_pipeline.store.reader import Store

    store = Store(ended.last_line)
    rows = {sample.image: row for row, sample in enumerate(store.samples)}
    case.expect("good.png" in rows and rows["good.png"] not in store.failures, "good.png failed")
    row = rows.get(file.name)
    if row is None or row in store.failures:
        why = None if row is None else store.failures[row]
        case.expect(why is not None and why in " ".join(ended.err.split()), "left out in silence")
        return
    found = store.read_thumbnails(np.array([row]))[0]
    case.expect(
        any(
            np.array_equal(found, thumbnail(np.ascontiguousarray(pixels), THUMBNAIL_SIZE))
            for pixels in strict_pixels(file.read_bytes(), source.read_bytes())
        ),
        "its pixels are neither Pillow's nor the undamaged ones",
    )


def _check_predicted(case: Case, out: Path, world: World, file: Path, source: Path) -> None:
    from declip_pipeline.training.run import Run

    predictor = Run(world.path("run")).predictor()
    with Image.open(out / f"{file.stem}_mask.png") as image:
        mask = np.asarray(image)
    for pixels in strict_pixels(file.read_bytes(), source.read_bytes()):
        if pixels.shape[:2] != mask.shape:
            continue
        if np.array_equal(mask > 0, predictor(np.ascontiguousarray(pixels)) > 0.5):
            return
    case.expect(False, "its mask follows neither from Pillow's pixels nor from the undamaged ones")


def damaged_mask(world: World, case: Case) -> None:
    """Damage a mask, or write it in another size, mode or with other values, and extract.

    Right is a store whose mask is the undamaged one, or that of the file: of two grey values the
    lighter is white, of more those from 128 on. To take 128 for the middle of two other values is
    right only with a word of the file on stderr.
    """
    folder = copied(world.pairs, case.folder / "pairs")
    file = case.random.choice(sorted((folder / "masks").rglob("*.png")))
    before = file.read_bytes()
    if case.random.random() < 0.5:
        data, change = damaged_bytes(before, case.random)
    else:
        data, change = _other_mask(before, case)
    case.note(f"{file.name}: {change}")
    file.write_bytes(data)
    if case.random.random() < 0.3:
        case.run("data", "check", folder, reports=True)
        return
    ended = case.run("extract", folder, *EXTRACT, "--cache", case.folder / "cache")
    if ended.is_done:
        place = f"masks/{file.parent.name}/{file.name}"
        found = _stored_mask(ended.last_line, place)
        grey = [
            np.asarray(Image.fromarray(pixels).convert("L"))
            for pixels in strict_pixels(data, before)
        ]
        said = file.name in " ".join(ended.err.split())
        right = [one >= 128 for one in grey if said or len(np.unique(one)) != 2]
        right += [one == one.max() for one in grey if len(np.unique(one)) == 2]
        case.expect(
            found is not None and any(np.array_equal(found, one) for one in right),
            "the stored mask is neither what the file holds nor the undamaged one",
        )


def _other_mask(data: bytes, case: Case) -> tuple[bytes, str]:
    with Image.open(io.BytesIO(data)) as image:
        mask = image.convert("L")
    random, width, height = case.random, *mask.size
    way = random.choice(("size", "turned", "mode", "values", "format", "tiny", "alpha"))
    if way == "size":
        mask = mask.resize((width + random.randint(-3, 9), height + random.choice((0, 1))))
    elif way == "turned":
        mask = mask.transpose(Image.Transpose.ROTATE_90)
    elif way == "mode":
        mask = mask.convert(random.choice(("1", "P", "RGB", "RGBA", "LA", "I;16", "CMYK")))
        way += f" {mask.mode}"
        if mask.mode == "CMYK":
            mask = mask.convert("RGB")
    elif way == "values":
        levels = random.choice(((0, 1), (0, 127), (1, 255), (128, 255), (255, 255), (0, 0)))
        mask = mask.point([levels[value > 127] for value in range(256)])
        way += f" {levels}"
    elif way == "tiny":
        mask = mask.resize((1, 1))
    elif way == "alpha":
        hidden = Image.new("RGB", mask.size)
        hidden.putalpha(mask)
        mask = hidden
    target = io.BytesIO()
    mask.save(target, "JPEG" if way == "format" else "PNG")
    return target.getvalue(), f"another {way}"


def _stored_mask(location: str, place: str) -> np.ndarray | None:
    from declip_pipeline.store.reader import Store

    store = Store(location)
    for row, sample in enumerate(store.samples):
        if sample.mask == place and row not in store.failures:
            found: np.ndarray = store.read_masks(np.array([row]))[0]
            return found
    return None
