"""Each kind of bad input gives one clear line and a non-zero exit, and leaves nothing behind."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.damaged_store import seal_metadata

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.store import format as fmt


@pytest.fixture
def extraction(tiny_arch, tmp_path):
    """Arguments of an extraction with the tiny ViT into the test's own cache."""

    def arguments(data, *options):
        return (
            *("extract", data, *tiny_arch, "--layers", "layer0"),
            *("--cache", tmp_path / "cache", *options),
        )

    return arguments


@pytest.fixture
def nothing_left(tmp_path):
    """No store may be there after the test."""
    yield
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("nothing_left")
class TestDatasets:
    def test_a_folder_that_is_not_there(self, refused, extraction, tmp_path):
        assert "does not exist; expected the folder" in refused(*extraction(tmp_path / "nowhere"))

    def test_a_folder_without_images(self, refused, extraction, tmp_path):
        (tmp_path / "empty").mkdir()
        line = refused(*extraction(tmp_path / "empty"))
        assert "no images found under" in line
        assert "expected" in line

    @pytest.mark.parametrize("missing", ["images", "masks"])
    def test_what_does_not_pair(self, refused, program, extraction, dataset, missing):
        next((dataset / missing / "train").iterdir()).unlink()
        line = refused(*extraction(dataset))
        assert "p0000" in line or "p0001" in line or "train/" in line
        assert "--allow-unpaired" in line

    @pytest.mark.parametrize("value", [0, 255])
    def test_masks_of_one_colour(self, refused, extraction, dataset, value):
        for file in (dataset / "masks").rglob("*.png"):
            with Image.open(file) as mask:
                size = mask.size
            Image.new("L", size, value).save(file)
        line = refused(*extraction(dataset))
        assert "all 15 masks are entirely" in line
        assert "expected masks that mark a part of their image" in line
        assert "--polarity" not in line, "the other polarity has no such mask either"

    def test_a_split_without_a_mask_that_can_be_used(self, refused, extraction, dataset):
        for mask in (dataset / "masks" / "valid").iterdir():
            mask.write_text("not a mask")
        line = refused(*extraction(dataset))
        assert "noisy noisy valid: none of its 3 masks can be used; mask" in line
        assert "p0008.png: is not an image PIL can read" in line

    def test_names_that_are_not_there(self, refused, extraction, dataset):
        line = refused(*extraction(dataset, "--split", "tset"))
        assert "unknown split 'tset'; did you mean 'test'? known: test, train, valid" in line
        line = refused(*extraction(dataset, "--generators", "lama"))
        assert "unknown generator 'lama'; known: noisy" in line
        for text in ("", "test,,valid"):
            line = refused(*extraction(dataset, "--split", text))
            assert f"{text!r} has an empty item; expected names separated by commas" in line
        line = refused(*extraction(dataset, "--assign-splits", "80,20"))
        assert "expected three whole percents such as 80,10,10" in line

    def test_splits_and_generators_that_do_not_meet(self, refused, extraction, dataset, tmp_path):
        tree = tmp_path / "tree" / "celebahq"
        for kind in ("images", "masks"):
            shutil.copytree(dataset / kind / "test", tree / "fake" / "ldm" / kind / "test")
        shutil.copytree(dataset / "images" / "train", tree / "real" / "train")
        line = refused(*extraction(tree, "--split", "test", "--generators", "real"))
        assert line == ("no image of generator real is in split test; test has ldm; train has real")

    @pytest.mark.parametrize("name", ["", " ", ".", "..", "../esc", "a/b", "a\\b", "x" * 101])
    def test_names_that_are_no_folders(self, refused, extraction, dataset, name):
        line = refused(*extraction(dataset, "--name", name))
        assert "expected 1 to 100 characters without / and" in line


@pytest.mark.slow
def test_unpaired_files_may_be_left_out(program, extraction, dataset):
    (dataset / "masks" / "train" / "p0001.png").unlink()
    outcome = program(*extraction(dataset, "--allow-unpaired"))
    assert outcome.code == 0
    assert "left out, no partner: images/train/p0001.png" in outcome.err


def damage(kind: str, picture: Path) -> str:
    """Spoil an image; returns what the status table must say of it."""
    if kind == "truncated":
        with Image.open(picture) as whole:
            whole.load()
        whole.save(picture, "JPEG", quality=95)
        picture.write_bytes(picture.read_bytes()[:-200])
        return "is truncated or damaged"
    if kind == "text":
        picture.write_text("this is not an image")
        return "is not an image PIL can read"
    if kind == "empty":
        picture.write_bytes(b"")
        return "empty file, zero bytes"
    side = {"small": 1, "large": 20_000}[kind]
    Image.new("1", (side, side)).save(picture)
    mask = picture.parents[2] / "masks" / "train" / picture.name
    Image.new("1", (side, side)).save(mask)
    return {
        "small": "1x1 pixels; at least 16x16 expected",
        "large": "20000x20000 pixels = 400 megapixels; at most 178 megapixels are read",
    }[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "small", "large"])
def test_a_picture_that_cannot_be_used_is_a_row_with_its_reason(program, extraction, dataset, kind):
    reason = damage(kind, dataset / "images" / "train" / "p0002.png")
    outcome = program(*extraction(dataset))
    assert outcome.code == 1
    assert f"failed: images/train/p0002.png: {reason}" in " ".join(outcome.err.split())
    assert "1 of 15 images could not be used, --max-failures is 0" in outcome.err
    complete = json.loads((Path(outcome.last_line) / fmt.COMPLETE).read_text())
    assert reason in " ".join(complete["failures"].values())
    again = program(*extraction(dataset))
    assert again.code == 1, "a second run does not forget"
    assert program(*extraction(dataset, "--max-failures", 1)).code == 0


def test_a_mask_that_cannot_be_used_is_a_row_though_it_sorts_first(program, extraction, dataset):
    mask = dataset / "masks" / "test" / "p0011.png"
    assert mask == min((dataset / "masks").rglob("*.png"))
    mask.write_bytes(mask.read_bytes()[:-30])
    outcome = program(*extraction(dataset, "--max-failures", 1))
    assert outcome.code == 0, outcome.err
    assert "its mask masks/test/p0011.png: is truncated or damaged" in outcome.err


def test_masks_of_another_size_are_rows_and_are_listed_in_full(program, extraction, dataset):
    masks = sorted((dataset / "masks" / "train").glob("*.png"))[:7]
    for mask in masks:
        Image.open(mask).crop((0, 0, 30, 31)).save(mask)
    outcome = program(*extraction(dataset, "--max-failures", 6))
    assert outcome.code == 1
    assert "7 of 15 images could not be used, --max-failures is 6" in outcome.err
    name = masks[1].name
    assert (
        f"failed: images/train/{name}: its mask masks/train/{name} has "
        "30x31 pixels, its image 64x64"
    ) in outcome.err
    found = json.loads(program("data", "check", dataset, "--json").out)
    assert [one["mask"] for one in found["other_sizes"]] == [f"masks/train/{m.name}" for m in masks]
    assert found["other_sizes"][1] == {
        "image": f"images/train/{name}",
        "mask": f"masks/train/{name}",
        "image_size": [64, 64],
        "mask_size": [31, 30],
    }
    (said,) = [problem for problem in found["problems"] if "another size" in problem]
    assert "--max-failures 7" in said, "a way out that works:"
    assert program(*extraction(dataset, "--max-failures", 7)).code == 0


def test_the_check_of_masks_keeps_to_the_largest_picture(program, extraction, dataset, monkeypatch):
    from declip_pipeline.datasets import checks
    from declip_pipeline.images.masks import Mask

    decoded = []

    def read(path, **options):
        decoded.append(options["max_megapixels"])
        return Mask(np.eye(40, 56) > 0)

    monkeypatch.setattr(checks, "read_mask", read)
    assert program(*extraction(dataset, "--max-megapixels", 1.5)).code == 0
    assert set(decoded) == {1.5}


def test_pictures_all_unusable_leave_no_store(refused, extraction, dataset, tmp_path):
    for picture in (dataset / "images").rglob("*.png"):
        picture.write_text("text")
    line = refused(*extraction(dataset), code=1)
    assert "none of the 15 images could be used" in line
    assert not list((tmp_path / "cache").rglob("*.json"))


class TestNames:
    def test_an_unknown_arch(self, refused, shared_dataset):
        line = refused("extract", shared_dataset, "--arch", "CLIP:ViT-L/15")
        assert "'CLIP:ViT-L/15'" in line
        assert "ViT-L/14" in line
        assert "efficientnet-lite0" in line

    def test_an_unknown_layer(self, refused, shared_dataset, tiny_arch, tmp_path):
        for layers in ("layer9", "0-9"):
            line = refused(
                *("extract", shared_dataset, *tiny_arch, "--layers", layers),
                *("--cache", tmp_path / "cache"),
            )
            assert "known: layer0, layer1, layer2, layer3" in line

    @pytest.mark.slow
    def test_an_unknown_layer_or_decoder_of_a_store(self, refused, tiny_store, tmp_path):
        options = ("-o", tmp_path / "runs")
        line = refused("train", tiny_store.location, "--feature-layer", "layer20", *options)
        assert "'layer20'" in line
        assert "known: layer0, layer1, layer2, layer3" in line
        line = refused(
            *("train", tiny_store.location, "--feature-layer", "layer2"),
            *("--decoder-type", "transformer", *options),
        )
        assert "known: linear, attention, conv-4, conv-12, conv-20" in line
        assert not (tmp_path / "runs").exists()

    def test_an_unknown_option_or_value(self, program, refused, tiny_store):
        line = refused("train", tiny_store.location, "--layer", "x")
        assert line.startswith("no such option: --layer")
        assert line.endswith("; see declip-pipe train --help")
        line = refused("extract", tiny_store.location, "--arch", "RN50", "--dtype", "int4")
        assert line.startswith("invalid value for '--dtype': ")
        assert "'float16', " in line
        line = refused("trian")
        assert line.startswith("no such command 'trian'")
        assert line.endswith(" see declip-pipe --help")
        line = refused("train", tiny_store.location)
        assert line == "missing option '--feature-layer' / '--layers'; see declip-pipe train --help"
        for group in ((), ("cache",)):
            outcome = program(*group)
            assert outcome.code == 2
            assert "Usage: declip-pipe" in outcome.out + outcome.err

    @pytest.mark.slow
    def test_numbers_that_are_not_finite(self, refused, tiny_store, tiny_run):
        training = ("train", tiny_store.location, "--feature-layer", "layer1", "--learning-rate")
        for text in ("inf", "nan", "0"):
            line = refused(*training, text)
            assert line == f"--learning-rate {text!r}; expected a number of at least 1e-06"
        expected = "inf is not a number that can be used; expected a finite one"
        assert refused("predict", tiny_run, "-i", tiny_run, "--max-megapixels", "inf") == expected

    def test_widths(self, refused, tiny_store, tmp_path):
        command = (
            "train",
            tiny_store.location,
            "--feature-layer",
            "layer2",
            "-o",
            tmp_path / "runs",
        )
        assert "expected four" in refused(*command, "--decoder-type", "conv-4", "--widths", "8,8")
        assert "whole numbers" in refused(*command, "--widths", "8,8,4,x")
        for absurd in ("9" * 5000, "999999999"):
            line = refused(*command, "--decoder-type", "conv-4", "--widths", f"8,8,4,{absurd}")
            assert "whole numbers" in line
        line = refused(*command, "--decoder-type", "linear", "--widths", "8,8,4,4")
        assert line == (
            "--widths 8,8,4,4 are for conv-N, mlp, fcn or pup, and there is only linear; leave "
            "them out or choose one of these"
        )
        both = ("--decoders", "mlp,fcn", "--widths", "8,8,4,4")
        assert refused(*command, *both) == (
            "--widths 8,8,4,4 are 4; expected one positive whole number for mlp; two positive "
            "whole numbers, one for each stage for fcn"
        )


class TestWeights:
    def test_of_another_architecture(self, refused, shared_dataset, golden, tmp_path):
        line = refused(
            *("extract", shared_dataset, "--arch", "RN50", "--cache", tmp_path / "cache"),
            *("--weights", golden / "tiny_rn_openai.pt"),
            code=1,
        )
        assert "does not hold the weights of CLIP:RN50" in line
        assert "of another" in line
        assert "give a file of CLIP:RN50, or the --arch of this file" in line
        assert not (tmp_path / "cache").exists()

    def test_a_file_that_is_not_there(self, refused, shared_dataset, tmp_path):
        line = refused(
            *("extract", shared_dataset, "--arch", "RN50", "--weights", tmp_path / "no.pt"), code=1
        )
        assert "no.pt" in line

    def test_no_network(self, refused, shared_dataset, tmp_path, monkeypatch):
        # An empty cache and the hub's own switch for "do not ask the network": what a machine
        # without a network comes to, without the wait.
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        line = refused(
            *("extract", shared_dataset, "--arch", "CLIP:ViT-L/14"),
            *("--cache", tmp_path / "cache"),
            code=1,
        )
        assert "ViT-L/14" in line
        assert "--weights FILE" in line
        assert "efficientnet-lite0" in line

    @pytest.mark.parametrize(
        ("arch", "weights", "line"),
        [
            ("CLIP:from-file", (), "reads the architecture off a file; give --weights FILE"),
            ("CLIP:from-file", ("random:0",), "reads the architecture off a file"),
            ("ViT-B-32", (), "ViT-B-32 alone does not say which weights; give a tag"),
            ("ViT-B-32/laion", (), "unknown tag of open_clip's ViT-B-32 'laion'"),
            ("RN50", ("no.pt",), "weights no.pt: no such file"),
            ("RN50", ("no.pt", "no.pt"), "2 weights for the 1 parts of 'RN50'"),
        ],
    )
    def test_weights_that_are_missing_are_said_before_files_are_read(
        self, refused, monkeypatch, shared_dataset, arch, weights, line
    ):
        def fail(*args, **options):
            pytest.fail("files were read")

        monkeypatch.setattr("declip_pipeline.study.extraction.open_dataset", fail)
        options = [option for file in weights for option in ("--weights", file)]
        code = 2 if "unknown" in line or "parts" in line else 1
        command = ("extract", shared_dataset, "--arch", arch, *options)
        assert line in refused(*command, code=code)


@pytest.fixture
def copied_store(tiny_store, tmp_path):
    return Path(shutil.copytree(tiny_store.location, tmp_path / "store"))


class TestStores:
    @pytest.fixture(params=["train", "evaluate"])
    def command(self, request, tiny_run, tmp_path):
        """A command that reads a store."""
        if request.param == "train":
            return lambda store: (
                *(
                    "train",
                    store,
                    "--feature-layer",
                    "layer1",
                    "--decoder-type",
                    "linear",
                    "--batch-size",
                    4,
                ),
                *("--epochs", 1, "-o", tmp_path / "runs"),
            )
        return lambda store: ("evaluate", tiny_run, "--on", store)

    def test_incomplete(self, refused, command, copied_store):
        (copied_store / fmt.COMPLETE).unlink()
        assert "is incomplete: 1 of 1 shards; run the same" in refused(
            *command(copied_store), code=1
        )

    def test_of_another_version(self, refused, command, copied_store):
        group = json.loads((copied_store / fmt.GROUP).read_text())
        group["attributes"][fmt.ATTRIBUTES]["format_version"] = 7
        (copied_store / fmt.GROUP).write_text(json.dumps(group))
        assert "format version 7, this program reads 4; upgrade" in refused(
            *command(copied_store), code=1
        )

    def test_not_a_store(self, refused, command, tmp_path):
        for path in (tmp_path, tmp_path / "nowhere"):
            assert "is not a feature store" in refused(*command(path), code=1)

    def test_damaged_or_missing_metadata(self, refused, command, copied_store):
        (copied_store / fmt.MANIFEST).write_text("{")
        assert "its manifest.parquet was edited" in refused(*command(copied_store), code=1)
        (copied_store / fmt.MANIFEST).unlink()
        assert "its manifest.parquet is missing" in refused(*command(copied_store), code=1)

    def test_an_edited_manifest(self, refused, command, copied_store):
        samples = Samples.from_parquet((copied_store / fmt.MANIFEST).read_bytes())
        edited = samples.replace(split=["train"] * len(samples))
        (copied_store / fmt.MANIFEST).write_bytes(edited.to_parquet())
        assert "its manifest.parquet was edited" in refused(*command(copied_store), code=1)

    def test_a_store_of_format_2(self, refused, command, copied_store):
        group = json.loads((copied_store / fmt.GROUP).read_text())
        group["attributes"][fmt.ATTRIBUTES]["format_version"] = 2
        (copied_store / fmt.GROUP).write_text(json.dumps(group))
        (copied_store / fmt.MANIFEST).rename(copied_store / "manifest.json")
        line = refused(*command(copied_store), code=1)
        assert "format version 2, this program reads 4; extract it again" in line

    def test_a_missing_array(self, refused, command, copied_store):
        array = copied_store / fmt.layer_key("layer1")
        for shard in array.glob("c.*"):
            shard.unlink()
        line = refused(*command(copied_store), code=1)
        assert "of layers/layer1 cannot be read, its shard is missing; run" in line
        shutil.rmtree(array)
        line = refused(*command(copied_store), code=1)
        assert "its layers/layer1/zarr.json is missing; run" in line

    def test_damaged(self, refused, command, copied_store):
        for shard in (copied_store / fmt.layer_key("layer1")).glob("c.*"):
            data = np.fromfile(shard, np.uint8)
            data[1000 : len(data) // 2 : 10_000] ^= 1
            data.tofile(shard)
        line = refused(*command(copied_store), code=1)
        assert "of layers/layer1 cannot be read, a chunk's checksum differs" in line


class TestIdentity:
    @pytest.mark.slow
    def test_a_run_of_other_features(self, refused, program, shared_dataset, tiny_run, tmp_path):
        other = program(
            *("extract", shared_dataset, "--arch", "efficientnet-lite0", "--layers", "5"),
            *("--cache", tmp_path / "cache"),
        )
        line = refused("evaluate", tiny_run, "--on", other.last_line, code=1)
        assert line.startswith("backbone differs: the run ")
        assert "'efficientnet-lite0'" in line

    def test_a_run_of_other_weights(self, refused, tiny_run, copied_store):
        group = json.loads((copied_store / fmt.GROUP).read_text())
        attributes = group["attributes"][fmt.ATTRIBUTES]
        attributes["identity"]["weights_sha256"] = "0" * 64
        from declip_pipeline.store.identity import StoreIdentity

        identity = StoreIdentity.from_json(attributes["identity"])
        attributes["identity_sha256"] = identity.sha256
        (copied_store / fmt.GROUP).write_text(json.dumps(group))
        seal_metadata(copied_store)
        line = refused("evaluate", tiny_run, "--on", copied_store, code=1)
        assert line.startswith("weights_sha256 differs: the run ")

    @pytest.mark.slow
    def test_prediction_with_other_weights(
        self, refused, tiny_run, golden, shared_dataset, tmp_path
    ):
        line = refused(
            *("predict", tiny_run, "-i", shared_dataset / "images", "-o", tmp_path / "out"),
            *("--weights", golden / "tiny_rn_openai.pt"),
            code=1,
        )
        assert "differs: the run was trained on" in line
        assert not (tmp_path / "out").exists()


class TestOutputs:
    def test_predictions_are_not_replaced_unasked(
        self, refused, tiny_run, shared_dataset, tmp_path
    ):
        out = tmp_path / "out"
        out.mkdir()
        (out / "mine.txt").write_text("keep me")
        command = ("predict", tiny_run, "-i", shared_dataset / "images" / "test", "-o", out)
        for options in ((), ("--overwrite",)):
            line = refused(*command, *options, code=1)
            assert "exists, is not empty and holds no predictions; name another folder" in line
        assert [file.name for file in out.iterdir()] == ["mine.txt"]

    def test_an_output_that_is_a_file(self, refused, tiny_run, shared_dataset, tmp_path):
        (tmp_path / "file").write_text("")
        line = refused(
            *("predict", tiny_run, "-i", shared_dataset / "images", "-o", tmp_path / "file"),
            code=1,
        )
        assert "is a file; name a folder" in line
        assert "is a file; name a folder" in refused("demo", "-o", tmp_path / "file", code=1)
        line = refused(
            *("train", tmp_path, "--feature-layer", "layer1", "-o", tmp_path / "file" / "runs"),
            code=1,
        )
        assert line == f"{tmp_path / 'file'} is a file; name a folder with -o"
        line = refused(
            *("extract", shared_dataset, "--arch", "RN50", "--cache", tmp_path / "file"), code=1
        )
        assert line == f"{tmp_path / 'file'} is a file; name a folder with --cache"

    @pytest.mark.slow
    def test_a_demo_does_not_replace_what_is_there(self, refused, tmp_path):
        (tmp_path / "mine.txt").write_text("keep me")
        for options in ((), ("--overwrite",)):
            line = refused("demo", "-o", tmp_path, *options, code=1)
            assert "exists, is not empty and holds no demo; name another folder" in line
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_predicting_nothing(self, refused, tiny_run, tmp_path):
        line = refused("predict", tiny_run, "-i", tmp_path / "no*.png", "-o", tmp_path / "out")
        assert "names no image; expected a file, a folder or a pattern" in line
        line = refused("predict", tiny_run, "-i", tmp_path, "-o", tmp_path / "out")
        assert "no images found under" in line

    def test_what_is_not_a_run(self, refused, tiny_store, shared_dataset, tmp_path):
        line = refused("evaluate", tmp_path, "--on", tiny_store.location)
        assert "is not a run; expected a folder that `declip-pipe train` printed" in line
        line = refused("predict", tmp_path, "-i", shared_dataset / "images", "-o", tmp_path / "o")
        assert "is not a run" in line


class TestSettings:
    def test_an_unknown_key_names_the_nearest(self, refused, tmp_path):
        config = tmp_path / "demo.yaml"
        config.write_text("arch: efficientnet-lite0\ntrain_cuont: 3\n")
        line = refused("demo", "--config", config, "-o", tmp_path / "out")
        assert "unknown key" in line or "train_count" in line
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\0"])
    def test_what_is_not_settings(self, refused, tmp_path, text):
        config = tmp_path / "demo.yaml"
        config.write_text(text)
        assert f"config {config}" in refused("demo", "--config", config, "-o", tmp_path / "out")


class TestOptionsThatMeanNothing:
    """They are refused, as they would otherwise be passed over in silence."""

    @pytest.mark.parametrize(
        ("command", "options", "said"),
        [
            (
                "export",
                ("--checkpoint", "x.pth", "--weights", "nowhere"),
                "--weights is for --onnx",
            ),
            (
                "export",
                ("--checkpoint", "x.pth", "--check-on", "nowhere"),
                "--check-on is for --on",
            ),
            ("verify", ("--device", "cpu"), "--device says how to repair; pass --repair too"),
            ("verify", ("--data", "nowhere"), "--data says how to repair; pass --repair too, or"),
            ("verify", ("--weights", "nowhere"), "--weights says how to repair; pass --repair too"),
            ("prune", ("--all", "--keep"), "--keep keeps the whole store, which --all removes"),
            ("compare", ("--device", "cpu"), "--device says where to evaluate; add --run, or lea"),
            ("evaluate", ("--views", "all", "--alias", "a=b"), "--alias is for the means in domai"),
            (
                "train",
                ("--precision", "bfloat16"),
                "--precision bfloat16 means nothing to probe, f",
            ),
            (
                "train",
                ("--compile",),
                "--compile means nothing to probe, fitted without a step that ",
            ),
        ],
    )
    def test_they_are_refused(
        self, refused, tiny_store, tiny_run, tmp_path, monkeypatch, command, options, said
    ):
        monkeypatch.chdir(tmp_path)
        store = tiny_store.location
        before = {
            "export": ("export", tiny_run),
            "verify": ("cache", "verify", store),
            "prune": ("cache", "prune", store),
            "compare": ("cache", "compare", store, store),
            "evaluate": ("evaluate", tiny_run, "--on", store),
            "train": ("train", store, "--layers", "layer1", "--decoders", "probe"),
        }
        assert refused(*before[command], *options).startswith(said)
        assert list(tmp_path.iterdir()) == []
