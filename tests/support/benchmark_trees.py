"""Small benchmarks in exactly the published trees, quirks included."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from support.published_trees import HEIGHT, WIDTH, forge, photograph, save

CODECS = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF"}


def white(mask: np.ndarray) -> np.ndarray:
    """A mask file's pixels, white where fake."""
    return np.where(mask, 255, 0).astype(np.uint8)


def write_casia1(root: Path, count: int = 4) -> Path:
    """CASIA v1: splices and copies in folders of their own, masks in those of the groundtruth."""
    for number in range(count):
        real = photograph([number, 1])
        save(root / f"CASIA 1.0 dataset/Au/Au_ani_{number:04d}.jpg", real, quality=95)
        kind, letter, donor = ("Sp", "D", "pla0009") if number % 2 else ("CM", "S", None)
        target = f"ani{number:04d}"
        name = f"Sp_{letter}_CND_A_{donor or target}_{target}_{280 + number:04d}"
        picture, mask = forge(real, [number, 2])
        save(root / f"CASIA 1.0 dataset/Tp/{kind}/{name}.jpg", picture, quality=95)
        save(root / f"CASIA 1.0 groundtruth/{kind}/{name}_gt.png", white(mask))
    return root


def write_casia2(root: Path, count: int = 8, other_sizes: int = 0, seed: int = 3) -> Path:
    """CASIA v2: Tp/, Au/, CASIA 2 Groundtruth/; the last masks are of another size."""
    for number in range(count):
        real = photograph([number, seed])
        save(root / f"Au/Au_nat_{30100 + number}.jpg", real, quality=95)
        name = f"Tp_D_CRN_S_N_cha{number:05d}_nat{30100 + number}_{11818 + number}"
        picture, mask = forge(real, [number, seed, 4])
        save(root / f"Tp/{name}.{'tif' if number % 2 else 'jpg'}", picture)
        rows = HEIGHT - 1 if number >= count - other_sizes else HEIGHT
        save(root / f"CASIA 2 Groundtruth/{name}_gt.png", white(mask)[:rows])
    return root


def write_columbia(root: Path, count: int = 4) -> Path:
    """Columbia: TIFF images, JPEG edge masks in red and green, each of two brightnesses."""
    for number in range(count):
        real = photograph([number, 5])
        save(root / f"4cam_auth/canong3_02_sub_{number:02d}.tif", real)
        name = f"canong3_canonxt_sub_{number:02d}"
        picture, mask = forge(real, [number, 6])
        save(root / f"4cam_splc/{name}.tif", picture)
        rows = np.arange(HEIGHT)[:, None]
        bright = np.broadcast_to((rows > 8) & (rows < 30), mask.shape)
        colours = np.zeros((*mask.shape, 3), np.uint8)
        colours[..., 0] = np.where(mask, 0, np.where(bright, 255, 200))
        colours[..., 1] = np.where(mask, np.where(bright, 255, 200), 0)
        for ending in ("edgemask", "edgemask_3"):
            # Without subsampled colours, as on larger images, where edges are a small part.
            save(root / f"4cam_splc/edgemask/{name}_{ending}.jpg", colours, subsampling=0)
        save(root / f"4cam_auth/edgemask/canong3_02_sub_{number:02d}_edgemask.jpg", colours)
    return root


def write_coverage(root: Path, count: int = 4) -> Path:
    """COVERAGE: an image and its forgery side by side, three masks of each."""
    for number in range(1, count + 1):
        real = photograph([number, 7])
        picture, mask = forge(real, [number, 8])
        save(root / f"image/{number}.tif", real)
        save(root / f"image/{number}t.tif", picture)
        for kind in ("copy", "paste", "forged"):
            save(root / f"mask/{number}{kind}.tif", white(mask))
    return root


def write_imd2020(root: Path, count: int = 4) -> Path:
    """IMD2020: a folder a photograph, with one or two forgeries beside the original."""
    for number in range(count):
        real = photograph([number, 9])
        folder = root / f"1a{number}ogs"
        save(folder / f"1a{number}ogs_orig.jpg", real, quality=95)
        for which in range(1 + number % 2):
            picture, mask = forge(real, [number, 10, which])
            name = f"c8tf{number}mq_{which}"
            save(folder / f"{name}.{'png' if which else 'jpg'}", picture)
            save(folder / f"{name}_mask.png", white(mask))
    return root


def write_cocoglide(root: Path, count: int = 4) -> Path:
    """CocoGlide: three folders whose files have other names, and a table of them."""
    lines = ["real,fake,mask,prompt"]
    for number in range(count):
        real = photograph([number, 11])
        picture, mask = forge(real, [number, 12])
        coco = 44652 + number
        files = (
            f"real/dining table_{coco}.png",
            f"fake/glide_inpainting_val2017_{coco}_up.png",
            f"mask/dining table_{coco}_mask.png",
        )
        for file, pixels in zip(files, (real, picture, white(mask)), strict=True):
            save(root / file, pixels)
        lines.append(",".join((*files, "a table")))
    (root / "table.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return root


def write_defacto(root: Path, count: int = 3) -> Path:
    """DEFACTO: images in KIND_img/img, masks in KIND_annotations/probe_mask, graphs beside."""
    for place, part in enumerate(("splicing_1", "splicing_7", "copymove", "inpainting")):
        for number in range(count):
            real = photograph([place, number, 13])
            picture, mask = forge(real, [place, number, 14])
            name = f"{number}_{place * 100 + number:012d}"
            save(root / f"{part}_img/img/{name}.tif", picture)
            save(root / f"{part}_annotations/probe_mask/{name}.jpg", white(mask), quality=95)
            save(root / f"{part}_annotations/donor_mask/{name}.tif", white(mask))
            (root / f"{part}_annotations/graph").mkdir(exist_ok=True)
            (root / f"{part}_annotations/graph/{name}.json").write_text("{}")
    return root


def write_tgif(root: Path, count: int = 2) -> Path:
    """TGIF: sets of spliced and regenerated images, with masks of each kind and crop."""
    for part, split in enumerate(("training", "validation", "testing")):
        for number in range(count):
            real = photograph([part, number, 15])
            coco, folder = 208900 + 10 * part + number, f"{split}/airplane"
            save(root / f"orig/{folder}/{coco}_orig.png", real)
            save(root / f"orig/{folder}/{coco}_orig_512.png", real[:32, :32])
            for kind in ("bbox", "segm"):
                picture, mask = forge(real, [part, number, kind == "bbox", 16])
                pixels = white(mask)
                stem = f"{coco}_mask_{kind}"
                save(root / f"masks/{folder}/{stem}.png", pixels)
                save(root / f"masks/{folder}/{stem}_512.png", pixels)
                save(root / f"masks/{folder}/{stem}_1024.png", pixels)
                save(root / f"masks/{folder}/{stem}.png_ps_mask.png", pixels)
                for name in (
                    f"sd2-sp/{folder}/{stem}.png_ps_mask.png_sd2_0.png",
                    f"ps-sp/{folder}/{stem}.png_ps_1.png",
                    f"sd2-fr/{folder}/{stem}.png_sd2-512_0.png",
                    f"sdxl-fr/{folder}/{stem}.png_sdxl-1024_2.png",
                ):
                    save(root / name, picture)
    return root


def write_nist16(root: Path, count: int = 4) -> Path:
    """NIST16: a list separated by |, black for fake, the tasks' own folders of masks."""
    lines = ["TaskID|ProbeFileID|ProbeFileName|ProbeMaskFileName|IsTarget|BaseFileName"]
    for number in range(count):
        real = photograph([number, 17])
        picture, mask = forge(real, [number, 18])
        probe, base = f"probe/NC2016_{number:04d}.jpg", f"world/NC2016_{9000 + number}.jpg"
        truth = f"reference/manipulation/mask/NC2016_{number:04d}_gt.png"
        save(root / probe, picture, quality=95)
        save(root / base, real, quality=95)
        save(root / truth, 255 - white(mask))
        lines.append(f"manipulation|NC{number}|{probe}|{truth}|Y|{base}")
        lines.append(f"manipulation|NB{number}|{base}||N|{base}")
        save(root / f"reference/splice/mask/NC2016_{number:04d}_gt.png", 255 - white(mask))
    file = root / "reference/manipulation/NC2016-manipulation-ref.csv"
    file.write_text("\n".join(lines) + "\n")
    return root


def write_sagi_d(root: Path, count: int = 2) -> Path:
    """SAGI-D: sagid.csv with Windows' separators, images beside it in sagid/."""
    lines = ["img_path,mask_path,src_path,split,type,inpainting_model,diffusion_model"]
    for part, split in enumerate(("train", "val", "test")):
        for number in range(count):
            real = photograph([part, number, 19])
            picture, mask = forge(real, [part, number, 20])
            source, stem = f"{split}/coco/original", f"{part * 100 + number:012d}"
            save(root / f"sagid/{source}/{stem}.png", real)
            for model in ("brushnet", "powerpaint"):
                place = f"{split}/coco/{model}"
                save(root / f"sagid/{place}/{stem}_{model}.png", picture)
                save(root / f"sagid/{place}/mask/{stem}_{model}.png", white(mask))
                paths = (
                    f"sagid/{place}/{stem}_{model}.png",
                    f"sagid/{place}/mask/{stem}_{model}.png",
                    f"sagid/{source}/{stem}.png",
                )
                row = [path.replace("/", "\\") for path in paths]
                lines.append(",".join([*row, split, "sp", model, "sd2"]))
    (root / "sagid.csv").write_text("\n".join(lines) + "\n")
    return root


def encoded(pixels: np.ndarray, codec: str = "png") -> bytes:
    """The content of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, CODECS[codec])
    return file.getvalue()


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_shard(
    file: Path, rows: Sequence[dict[str, Any]], *, group: int = 4, names: Sequence[str] = ()
) -> Path:
    """Write a Parquet file as Hugging Face's `datasets` does; images are bytes in structs.

    `group` is the number of rows in a row group, `names` are those of the classes of `label`.
    """
    columns: dict[str, pa.Array] = {}
    features: dict[str, Any] = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        if name in ("image", "mask"):
            structs = [None if one is None else {"bytes": one, "path": None} for one in cells]
            columns[name] = pa.array(structs, IMAGE)
            features[name] = {"_type": "Image"}
        else:
            columns[name] = pa.array(cells)
            features[name] = {"_type": "Value"}
    if names:
        features["label"] = {"names": [*names], "_type": "ClassLabel"}
    table = pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def opensdi_rows(model: str, count: int, seed: int, *, entire: int = 1) -> list[dict[str, Any]]:
    """Rows of OpenSDI: local edits, whole syntheses without a mask, and real photographs."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        real = photograph([seed, number])
        picture, mask = forge(real, [seed, number, 1])
        name = f"{seed * 1000 + number:09d}.jpg"
        rows.append(
            {
                "key": f"partial/{model}/fake/{name}",
                "image": encoded(picture),
                "mask": encoded(white(mask)),
                "label": 1,
            }
        )
        rows.append(
            {"key": f"real/{model}/{name}", "image": encoded(real), "mask": None, "label": 0}
        )
    noise = np.random.default_rng(seed)
    for number in range(entire):
        pixels = noise.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        key = f"entire/{model}/fake/{seed * 1000 + 500 + number:09d}.jpg"
        rows.append({"key": key, "image": encoded(pixels), "mask": None, "label": 1})
    return rows


def write_opensdi(root: Path, *, train: int = 12, test: int = 4, shards: int = 3) -> Path:
    """OpenSDI_train with sd15 and OpenSDI_test with five models, in shards; returns the root."""
    for place, model in enumerate(("sd15", "sd2", "sd3", "sdxl", "flux")):
        rows = opensdi_rows(model, test, 50 + place)
        name = f"{model}-00000-of-00001.parquet"
        write_shard(root / "OpenSDI_test/data" / name, rows, names=("real", "fake"))
    rows = opensdi_rows("sd15", train, 40, entire=3)
    step = -(-len(rows) // shards)
    for shard in range(shards):
        name = f"sd15-{shard:05d}-of-{shards:05d}.parquet"
        some = rows[shard * step : (shard + 1) * step]
        write_shard(root / "OpenSDI_train/data" / name, some, names=("real", "fake"))
    (root / "OpenSDI_train/README.md").write_text("# OpenSDI_train\n")
    return root
