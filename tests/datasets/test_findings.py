from pathlib import Path

import numpy as np
from PIL import Image
from support.published_trees import write_autosplice, write_coco_sd, write_dolos

from declip_pipeline.datasets.counterparts import Group
from declip_pipeline.datasets.findings import facts_of_groups, other_sizes
from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.scan import Scan, scan_dataset


def look(root: Path) -> Scan:
    return scan_dataset(list_dataset(root), decode=True)


def test_facts_are_sizes_and_shares_of_fake_pixels_in_either_polarity(tmp_path: Path) -> None:
    dolos = look(write_dolos(tmp_path / "dolos", sources=("celebahq", "ffhq")))
    groups = facts_of_groups(dolos)
    assert len(groups) == 2 * 3 * 6
    facts = groups[Group("ffhq", "repaint-p2-9k", "valid")]
    assert (facts.images, facts.label, dict(facts.sizes)) == (3, 1, {(40, 48): 3})
    assert facts.fake_shares == [400 / 1920] * 3
    real = groups[Group("ffhq", "real", "valid")]
    assert (real.label, real.mean_fake_share) == (0, None)
    autosplice = look(write_autosplice(tmp_path / "AutoSplice"))
    facts = facts_of_groups(autosplice)[Group("autosplice", "autosplice-75", "all")]
    assert (facts.images, facts.mean_fake_share) == (6, 400 / 1920)
    assert dolos.unreadable == autosplice.unreadable == {}
    assert other_sizes(dolos) == other_sizes(autosplice) == {}


def test_files_that_are_not_as_they_should_be_are_named(tmp_path: Path) -> None:
    root = write_coco_sd(tmp_path / "coco-sd")
    (root / "images/test/000000000200.jpg").write_bytes(b"")
    (root / "masks/test/000000000201.png").write_text("no mask")
    Image.fromarray(np.zeros((20, 21), np.uint8)).save(root / "masks/train/000000000000.png")
    scan = look(root)
    assert scan.unreadable["images/test/000000000200.jpg"].startswith("empty file, zero bytes")
    assert scan.unreadable["masks/test/000000000201.png"].startswith("is not an image PIL can")
    assert other_sizes(scan) == {
        "images/train/000000000000.jpg": ("masks/train/000000000000.png", (40, 48), (20, 21))
    }
    facts = facts_of_groups(scan)[Group("coco-sd", "coco-sd", "test")]
    assert (facts.images, sum(facts.sizes.values()), len(facts.fake_shares)) == (2, 1, 1)
