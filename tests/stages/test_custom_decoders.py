"""A registered decoder is named on the command line, and its runs are evaluated and predict."""

import importlib
import sys

import pytest
from support.installed_package import install

OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self, shape, widths=(4,)):
        super().__init__()
        self.last = nn.Linear(shape.channels, 1)
        self.shape, self.widths = shape, widths

    def forward(self, features):
        logits = self.last(features[:, self.shape.prefix_tokens:])
        grid = logits.reshape(-1, 1, self.shape.height, self.shape.width)
        return nn.functional.interpolate(grid, self.side)[:, 0]

    side = 256

class Small(Own):
    side = 128
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "own_heads.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    entries = ("own = own_heads:Own", "small = own_heads:Small", "lost = lost_heads:Own")
    install(folder, "declip-heads", "declip_pipeline.decoders", *entries)
    yield folder
    sys.modules.pop("own_heads", None)


QUICK = ("--feature-layer", "layer1", "--epochs", 1, "--batch-size", 4)


@pytest.mark.slow
def test_a_registered_decoder_is_used_by_every_command(
    program, refused, package, tiny_store, shared_dataset, tmp_path
):
    command = ("train", tiny_store.location, *QUICK, "-o", tmp_path / "runs")
    trained = program(*command, "--decoder-type", "own", "--widths", "3,2")
    assert trained.code == 0, trained.err
    run = trained.last_line
    assert "/own_layer1_all_seed0_" in run
    evaluated = program("evaluate", run, "--on", tiny_store.location)
    assert evaluated.code == 0, evaluated.err
    image = next(iter((shared_dataset / "fake").rglob("*.png")), None) or shared_dataset
    predicted = program("predict", run, "-i", image, "-o", tmp_path / "maps")
    assert predicted.code == 0, predicted.err

    grid = program(*command, "--decoder-type", "own,linear,own_heads:Own")
    assert grid.code == 0, grid.err

    (package / "declip_heads-1.2.dist-info" / "entry_points.txt").unlink()
    importlib.invalidate_caches()
    assert "pip install declip-heads" in refused("evaluate", run, "--on", tiny_store.location)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small", "returned shape (2, 128, 128)"),
        ("lost", "entry point 'lost' of declip-heads 1.2 (declip_pipeline.decoders, "),
        ("lost_heads:Own", "the decoder lost_heads:Own cannot be imported"),
        ("onw", "did you mean 'own'?"),
    ],
)
def test_what_cannot_be_used_is_refused(refused, package, tiny_store, tmp_path, name, message):
    command = ("train", tiny_store.location, *QUICK, "-o", tmp_path / "runs")
    assert message in refused(*command, "--decoder-type", name)
    assert not (tmp_path / "runs").exists()
