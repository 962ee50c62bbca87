"""An image's map is the same through extract, store and evaluate as through predict."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_RESNET, TINY_VIT
from PIL import Image
from support.published_trees import forge, photograph, save

from declip_pipeline.decoders.decoder import resized_maps

# Odd, small, and larger than the decoder's map, upright and lying; in no split of the same size.
SIZES = [(33, 61), (257, 131), (301, 419), (97, 97), (256, 256), (40, 48)]
CASES = {
    "a ViT, float16": (TINY_VIT, "layer2", "linear", "float16"),
    "a ViT, int8": (TINY_VIT, "layer3", "conv-4", "int8"),
    "a ResNet, float32": (TINY_RESNET, "layer3", "conv-4", "float32"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images of many sizes in each split, with masks; white is fake."""
    root = tmp_path_factory.mktemp("odd") / "odd"
    for part, split in enumerate(("train", "valid", "test")):
        for number, (height, width) in enumerate(SIZES):
            picture, mask = forge(photograph([part, number]), [part, number])
            for folder, content in (("images", picture), ("masks", np.uint8(255) * mask)):
                sized = Image.fromarray(content).resize((width, height), Image.Resampling.NEAREST)
                save(root / folder / split / f"{part}{number}.png", np.asarray(sized))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_map_is_the_same_through_the_store(program, pictures, tmp_path, monkeypatch, case):
    from declip_pipeline.evaluation import scores

    weights, layer, decoder, dtype = CASES[case]
    store = program(
        "extract", pictures, "--arch", "CLIP:from-file", "--weights", weights,
        "--layers", layer, "--dtype", dtype, "--cache", tmp_path / "cache",
    ).last_line  # fmt: skip
    widths = () if decoder == "linear" else ("--widths", "8,8,4,4")
    run = program(
        "train", store, "--feature-layer", layer, "--decoder-type", decoder, *widths,
        "--initialization", "pytorch", "--epochs", 2, "--batch-size", 3, "-o", tmp_path / "runs",
    ).last_line  # fmt: skip

    judged = []
    measure = scores.localization_metrics

    def recorded(maps, masks, *options):
        judged.extend(zip(maps.numpy(), masks.numpy(), strict=True))
        return measure(maps, masks, *options)

    monkeypatch.setattr(scores, "localization_metrics", recorded)
    assert program("evaluate", run, "--on", store).code == 0
    table = program("predict", run, "-i", pictures / "images/test", "-o", tmp_path / "p").last_line
    (per_image,) = Path(run).glob("evaluations/*/per_image.csv")
    figures = {Path(row["id"]).stem: row for row in rows_of(per_image)}
    predicted = rows_of(table)
    assert len(predicted) == len(judged) == len(SIZES)
    for row in predicted:
        stem = Path(row["image"]).stem
        small = torch.from_numpy(np.load(tmp_path / "p" / f"{stem}_map.npz")["map"])[None]
        height, width = SIZES[int(stem[1])]
        found = resized_maps(small, height, width)[0].numpy()
        assert found.shape == (height, width)
        ((through_store, truth),) = [pair for pair in judged if pair[0].shape == found.shape]
        assert np.ptp(found) > 5e-4, "a constant map would equal any other one"
        np.testing.assert_allclose(found, through_store, rtol=0, atol=1e-4)
        assert float(row["score"]) == pytest.approx(float(figures[stem]["score"]), abs=1e-4)
        # And the mask that predict writes has the IoU that evaluate says.
        mask = np.asarray(Image.open(tmp_path / "p" / f"{stem}_mask.png")) > 127
        iou = 100 * ((mask & truth).sum() + 1e-8) / ((mask | truth).sum() + 1e-8)
        edge = 100 * (np.abs(found - 0.5) < 1e-4).sum() / max(1, (mask | truth).sum())
        assert iou == pytest.approx(float(figures[stem]["iou"]), abs=max(1e-6, edge))


def rows_of(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))
