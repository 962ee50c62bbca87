"""`declip-pipe cache ls, info, prune, compare`: what they show is what is stored."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from declip_pipeline.store import format as fmt
from declip_pipeline.store.reader import Store


@pytest.fixture
def root(tiny_store, tmp_path):
    """A cache with the tiny store at its place."""
    own = Path(tiny_store.location)
    shutil.copytree(own.parents[1], tmp_path / "cache" / "noisy")
    return tmp_path / "cache"


@pytest.fixture
def store(root, tiny_store):
    return root.joinpath("noisy", *Path(tiny_store.location).parts[-2:])


class TestLs:
    def test_a_row_a_store(self, program, root, store):
        outcome = program("cache", "ls", root)
        header, row = outcome.out.splitlines()
        assert header.split() == [
            *("dataset", "backbone", "view", "dtype", "layers", "images", "GB", "state", "store")
        ]
        assert row.split() == [
            *("noisy", "CLIP:from-file", "clean", "float16", "4", "15"),
            *(f"{bytes_in(store) / 1e9:.3f}", "complete", str(store)),
        ]

    def test_json_holds_the_same(self, program, root, store, tiny_store):
        (found,) = json.loads(program("cache", "ls", root, "--json").out)
        assert found["location"] == str(store)
        assert found["complete"] is True
        assert found["bytes"] == bytes_in(store)
        assert found["layers"] == list(tiny_store.layers)
        assert found["identity_sha256"] == tiny_store.identity.sha256

    def test_unfinished_and_unreadable_stores_are_shown(self, program, root, store):
        shutil.copytree(store, root / "other" / "b" / "s")
        (root / "other" / "b" / "s" / fmt.GROUP).write_text("{")
        (store / fmt.COMPLETE).unlink()
        (store / fmt.ledger_key(0)).unlink()
        outcome = program("cache", "ls", root)
        assert outcome.code == 0
        assert "0 of 1 shards" in outcome.out
        assert "unreadable" in outcome.out
        assert "is not a feature store" in outcome.err

    def test_what_is_left_of_an_overwrite_is_named(self, program, root, store):
        half = Path(f"{store}.overwrite")
        shutil.copytree(store, half)
        (half / fmt.COMPLETE).unlink()
        outcome = program("cache", "ls", root)
        assert [line.split()[-1] for line in outcome.out.splitlines()[1:]] == [
            str(store),
            str(half),
        ]
        assert (
            f"{half}: unfinished overwrite; run `declip-pipe extract` with --overwrite again"
            in (" ".join(outcome.err.split()))
        )
        listed = json.loads(program("cache", "ls", root, "--json").out)
        assert [one.get("leftover", "")[:10] for one in listed] == ["", "unfinished"]
        assert program("cache", "prune", half, "--all").code == 0
        assert not half.exists()
        assert store.exists()

    def test_a_prune_that_was_killed_while_it_removed_is_finished(self, program, store):
        (store / fmt.COMPLETE).unlink()
        (store / fmt.GROUP).unlink()
        outcome = program("cache", "prune", store, "--layers", "0")
        assert outcome.code == 0, outcome.err
        assert "removed what was left of" in outcome.err
        assert not store.exists()

    def test_none(self, program, tmp_path):
        outcome = program("cache", "ls", tmp_path / "nowhere")
        assert (outcome.code, outcome.out) == (2, "")
        assert "nowhere does not exist; expected a folder that holds stores" in outcome.err
        outcome = program("cache", "ls", tmp_path)
        assert (outcome.code, outcome.out) == (0, "")
        assert "no stores under" in outcome.err


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class TestFormatTwo:
    """Stores that an earlier version of the program wrote."""

    @pytest.fixture
    def former(self, store):
        group = json.loads((store / fmt.GROUP).read_text())
        group["attributes"][fmt.ATTRIBUTES]["format_version"] = 2
        (store / fmt.GROUP).write_text(json.dumps(group))
        (store / fmt.MANIFEST).unlink()
        (store / fmt.FORMER_MANIFEST).write_text("[]")
        return store

    def test_it_is_listed_with_its_problem(self, program, root, former):
        outcome = program("cache", "ls", root)
        assert outcome.code == 0
        assert outcome.out.splitlines()[1].split()[-2:] == ["unreadable", str(former)]
        assert "format version 2, this program reads 4; extract it again" in outcome.err
        (found,) = json.loads(program("cache", "ls", root, "--json").out)
        assert "extract it again" in found["problem"]

    @pytest.mark.parametrize(
        ("command", "options"),
        [
            ("info", []),
            ("verify", []),
            ("verify", ["--repair"]),
            ("export", ["store.h5"]),
            ("prune", ["--layers", "0"]),
            ("compare", ["other"]),
        ],
    )
    def test_it_is_refused_in_one_line(self, refused, former, command, options, tmp_path):
        options = [former if one == "other" else one for one in options]
        options = [tmp_path / one if str(one).endswith(".h5") else one for one in options]
        line = refused("cache", command, former, *options, code=1)
        assert "has store format version 2, this program reads 4; extract it again" in line

    def test_all_of_it_can_be_removed(self, program, former):
        assert program("cache", "prune", former, "--all").code == 0
        assert not former.exists()

    def test_the_manifest_of_something_else_is_no_store(self, program, refused, root, former):
        (former / fmt.GROUP).write_text('{"attributes": {}}')
        assert "is not a feature store" in refused("cache", "prune", former, "--all", code=1)
        (former / fmt.GROUP).unlink()
        assert "no stores under" in program("cache", "ls", root).err


class TestInfo:
    def test_everything_is_said(self, program, store, tiny_store):
        text = program("cache", "info", store).out
        assert tiny_store.identity.sha256 in text
        assert "complete, 1 of 1 shards" in text
        assert "15, 0 failed" in text
        rows = [line.split() for line in text.splitlines()]
        assert ["train", "noisy", "8", "0"] in rows
        shape = "x".join(map(str, tiny_store.layers["layer2"].array_shape))
        size = (store / "layers/layer2/c.0.0.0").stat().st_size
        assert ["layers/layer2", shape, f"{size / 1e6:.2f}"] in rows

    def test_json(self, program, store, tiny_store):
        found = json.loads(program("cache", "info", store, "--json").out)
        assert found["identity"] == tiny_store.identity.to_json()
        assert found["bytes_by_array"]["layers/layer0"] == (
            (store / "layers/layer0/c.0.0.0").stat().st_size
        )
        assert sum(found["bytes_by_array"].values()) == found["bytes"] == bytes_in(store)
        assert {"split": "valid", "generator": "noisy", "images": 3, "failed": 0} in found[
            "samples"
        ]

    @pytest.mark.slow
    def test_failures_are_listed(self, program, dataset, tiny_arch, tmp_path):
        image = next((dataset / "images" / "test").iterdir())
        image.write_bytes(b"")
        extraction = program("extract", dataset, *tiny_arch, "--cache", tmp_path / "cache")
        text = program("cache", "info", extraction.last_line).out
        assert "15, 1 failed" in text
        assert f"failed: images/test/{image.name}: " in text
        assert "zero bytes" in text

    def test_not_a_store(self, refused, tmp_path):
        assert "is not a feature store" in refused("cache", "info", tmp_path, code=1)


class TestPrune:
    def test_layers(self, program, store, tiny_store):
        before = store / "layers/layer2/c.0.0.0"
        inode = before.stat().st_ino
        outcome = program("cache", "prune", store, "--layers", "0,3")
        smaller = Store(outcome.last_line)
        assert list(smaller.layers) == ["layer1", "layer2"]
        assert not store.exists()
        assert (Path(smaller.location) / "layers/layer2/c.0.0.0").stat().st_ino == inode
        rows = np.arange(15)
        np.testing.assert_array_equal(
            smaller.read_layer("layer2", rows).values, tiny_store.read_layer("layer2", rows).values
        )
        assert program("cache", "verify", smaller.location, "--deep").code == 0

    def test_a_split_and_back_by_extraction(
        self, program, store, tiny_store, shared_dataset, tiny_arch, root
    ):
        outcome = program("cache", "prune", store, "--split", "test", "--keep")
        assert store.exists()
        smaller = Store(outcome.last_line)
        assert smaller.splits == ["train", "valid"]
        ids = [sample.id for sample in smaller.samples]
        assert ids == [s.id for s in tiny_store.samples if s.split != "test"]
        own = [row for row, s in enumerate(tiny_store.samples) if s.split != "test"]
        rows = np.arange(len(ids))
        for layer in smaller.layers:
            np.testing.assert_array_equal(
                smaller.read_layer(layer, rows).values,
                tiny_store.read_layer(layer, np.asarray(own)).values,
            )
        np.testing.assert_array_equal(
            smaller.read_targets(rows), tiny_store.read_targets(np.asarray(own))
        )
        # What an extraction of those splits is called, it is.
        again = program(
            *("extract", shared_dataset, *tiny_arch, "--cache", root, "--split", "train,valid"),
            *("--name", "noisy"),
        )
        assert again.last_line == smaller.location
        assert "complete already" in again.err

    def test_all_of_it(self, program, store):
        outcome = program("cache", "prune", store, "--all")
        assert outcome.code == 0
        assert not store.exists()
        assert "removed" in outcome.err

    def test_through_a_link(self, program, store, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(store)
        smaller = Path(program("cache", "prune", link, "--layers", "0").last_line)
        assert smaller.parent == store.parent
        assert not store.exists()

    def test_what_an_interrupted_removal_left(self, program, store):
        for name in ("complete.json", "zarr.json", "ledger/000000.json"):
            (store / name).unlink()
        assert program("cache", "prune", store, "--all").code == 0
        assert not store.exists()

    @pytest.mark.parametrize(
        ("options", "code", "message"),
        [
            ([], 2, "say what to remove: --layers, --generators or --split, or --all"),
            (["--all", "--split", "test"], 2, "say what to remove"),
            (["--layers", "all"], 2, "nothing would be left of"),
            (["--generators", "noisy"], 2, "nothing would be left of"),
            (["--generators", "dall-e"], 2, "unknown generator in"),
            (["--split", "tes"], 2, "did you mean 'test'?"),
            (["--layers", "layer9"], 2, "unknown layer"),
        ],
    )
    def test_refusals_remove_nothing(self, refused, store, options, code, message):
        assert message in refused("cache", "prune", store, *options, code=code)
        Store(store).read_layer("layer0", np.arange(15))

    def test_of_what_is_no_store_removes_nothing(self, refused, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.png").write_bytes(b"x")
        line = refused("cache", "prune", tmp_path / "photos", "--all", code=1)
        assert "is not a feature store" in line
        assert (tmp_path / "photos" / "a.png").exists()


class TestCompare:
    @pytest.mark.slow
    def test_int8_against_float16(self, program, tiny_store, store_in, tiny_run):
        other = store_in("int8")
        outcome = program("cache", "compare", tiny_store.location, other.location)
        lines = outcome.out.splitlines()
        assert len(lines) == 1 + len(tiny_store.layers)
        assert "float16 kB/image" in lines[0]
        assert "int8 kB/image" in lines[0]
        found = json.loads(
            program(
                *("cache", "compare", tiny_store.location, other.location, "--json"),
                *("--run", tiny_run),
            ).out
        )
        for layer in found["layers"]:
            first, second = layer["bytes_per_image"]
            assert second / first == pytest.approx(0.5, abs=0.02)
            rows = np.arange(15)
            exact = tiny_store.read_layer(layer["layer"], rows).decoded().double()
            rounded = other.read_layer(layer["layer"], rows).decoded().double()
            relative = float((rounded - exact).norm() / exact.norm())
            assert layer["relative_error"] == pytest.approx(relative)
            assert 1e-4 < relative < 2e-2
            assert layer["largest_error"] == pytest.approx(float((rounded - exact).abs().max()))
            assert layer["cosine"] > 0.999
        (judged,) = found["runs"]
        assert judged["change"] == pytest.approx(judged["iou"][1] - judged["iou"][0])

    def test_a_store_equals_itself(self, program, tiny_store):
        found = json.loads(
            program("cache", "compare", tiny_store.location, tiny_store.location, "--json").out
        )
        for layer in found["layers"]:
            assert layer["relative_error"] == 0
            assert layer["cosine"] == pytest.approx(1)

    @pytest.mark.slow
    def test_other_features_are_refused(
        self, refused, program, tiny_store, shared_dataset, tmp_path
    ):
        other = program(
            *("extract", shared_dataset, "--arch", "efficientnet-lite0", "--layers", "2"),
            *("--cache", tmp_path / "cache"),
        )
        line = refused("cache", "compare", tiny_store.location, other.last_line, code=1)
        assert "backbone differs" in line
