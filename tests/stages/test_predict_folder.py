"""`predict` goes on where it stopped, and neither replaces nor predicts what it must not."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from declip_pipeline.errors import RunBusyError
from declip_pipeline.prediction import folder as prediction_folder
from declip_pipeline.prediction.folder import PredictionFolder
from declip_pipeline.training.run_records import sealed


@pytest.fixture
def pictures(shared_dataset, tmp_path) -> Path:
    """A folder a.png, b.png, c.png."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, file in zip(
        "abc", sorted((shared_dataset / "images" / "test").iterdir()), strict=False
    ):
        shutil.copy(file, folder / f"{name}.png")
    return folder


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Names of the images whose files are written."""
    calls: list[str] = []
    real = PredictionFolder.add

    def add_and_count(self, name, files, row):
        calls.append(name)
        return real(self, name, files, row)

    monkeypatch.setattr(PredictionFolder, "add", add_and_count)
    return calls


class Killed(BaseException):
    """What nothing handles."""


def content(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def masks(table: str) -> list[str]:
    return [row["mask"] for row in csv.DictReader(Path(table).read_text().splitlines())]


class TestGoingOn:
    @pytest.mark.slow
    def test_an_interrupted_prediction_ends_as_an_undisturbed_one(
        self, program, tiny_run, pictures, tmp_path, monkeypatch, counted
    ):
        command = ("predict", tiny_run, "-i", pictures, "-o")
        assert program(*command, tmp_path / "one").code == 0
        counting = PredictionFolder.add

        def interrupted(self, name, files, row):
            if name == "b":
                raise OSError("pulled")
            return counting(self, name, files, row)

        with monkeypatch.context() as patch:
            patch.setattr(PredictionFolder, "add", interrupted)
            assert program(*command, tmp_path / "two").code == 1
        there = {name for name in "ac" if (tmp_path / "two" / f"{name}_mask.png").exists()}
        assert "a" in there
        counted.clear()
        ledger = tmp_path / "two" / "predictions.jsonl"
        ledger.write_bytes(ledger.read_bytes() + b'{"name": "to')
        assert program(*command, tmp_path / "two").code == 0
        assert set(counted) == set("abc") - there
        one, two = content(tmp_path / "one"), content(tmp_path / "two")
        assert one.keys() == two.keys()
        assert {name for name in one if one[name] != two[name]} <= {"predictions.jsonl"}

    def test_killed_at_any_write_it_ends_as_an_undisturbed_one(
        self, program, tiny_run, pictures, tmp_path, monkeypatch
    ):
        command = ("predict", tiny_run, "-i", pictures, "-o")
        assert program(*command, tmp_path / "one").code == 0
        one = content(tmp_path / "one")
        replace, unlink = Path.replace, Path.unlink
        # The ledger, three files of each of three images, the table.
        for step in range(11):
            out = tmp_path / f"killed{step}"
            count = [0]

            def kill(self, target, step=step, count=count):
                count[0] += 1
                if count[0] == step + 1:
                    raise Killed
                return replace(self, target)

            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", kill)
                # Nothing is cleaned up after a kill.
                patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
                with pytest.raises(Killed):
                    program(*command, out)
            assert Path.unlink is unlink
            assert program(*command, out).code == 0
            two = content(out)
            assert one.keys() == two.keys(), step
            assert {name for name in one if one[name] != two[name]} <= {"predictions.jsonl"}

    @pytest.mark.slow
    def test_a_finished_one_has_nothing_to_do_until_pictures_come_or_change(
        self, program, tiny_run, pictures, tmp_path, counted
    ):
        command = ("predict", tiny_run, "-i", pictures, "-o", tmp_path / "out")
        first = program(*command)
        again = program(*command)
        assert (again.code, again.out) == (0, first.out)
        assert "all images are predicted already, nothing to do" in again.err
        assert len(counted) == 3
        shutil.copy(pictures / "a.png", pictures / "new.png")
        os.utime(pictures / "b.png", ns=(1, 1))
        assert masks(program(*command).last_line) == [
            f"{n}_mask.png" for n in ("a", "b", "c", "new")
        ]
        assert len(counted) == 5

    @pytest.mark.slow
    def test_a_failed_picture_is_tried_again(self, program, tiny_run, pictures, tmp_path):
        whole = (pictures / "b.png").read_bytes()
        (pictures / "b.png").write_bytes(b"")
        command = ("predict", tiny_run, "-i", pictures, "-o", tmp_path / "out")
        assert program(*command).code == program(*command).code == 1
        (pictures / "b.png").write_bytes(whole)
        assert program(*command).code == 0

    def test_other_options_or_pictures_are_refused(
        self, program, refused, tiny_run, pictures, tmp_path
    ):
        command = ("predict", tiny_run, "-i", pictures, "-o", tmp_path / "out")
        assert program(*command).code == 0
        before = content(tmp_path / "out")
        line = refused(*command, "--threshold", 0.4, code=1)
        assert (
            "holds predictions of another --threshold, 0.5 instead of 0.4; pass --overwrite" in line
        )
        line = refused(*command, "--min-region", 0.1, code=1)
        assert "predictions of another --min-region, 0 instead of 0.1; pass --overwrite" in line
        (pictures / "a.png").unlink()
        line = refused(*command, code=1)
        assert f"predictions of other images, such as {pictures / 'a.png'}; pass" in line
        assert content(tmp_path / "out") == before


class TestOverwriting:
    @pytest.mark.slow
    def test_only_predictions_are_removed(self, program, tiny_run, pictures, tmp_path):
        out = tmp_path / "out"
        command = ("predict", tiny_run, "-o", out, "-i")
        assert program(*command, pictures).code == 0
        (out / "mine_mask.png").write_text("keep me")
        outcome = program(*command, pictures / "c.png", "--overwrite")
        assert outcome.code == 0, outcome.err
        assert sorted(content(out)) == [
            *("c_map.npz", "c_mask.png", "c_overlay.jpg", "mine_mask.png"),
            *("predictions.csv", "predictions.jsonl"),
        ]
        assert (out / "mine_mask.png").read_text() == "keep me"

    def test_a_file_in_the_way_is_not_replaced(
        self, program, refused, tiny_run, pictures, tmp_path
    ):
        out = tmp_path / "out"
        command = ("predict", tiny_run, "-o", out, "-i")
        assert program(*command, pictures / "a.png").code == 0
        (out / "b_mask.png").write_text("the truth")
        before = content(out)
        for options in ((), ("--overwrite",)):
            line = refused(*command, pictures, *options, code=1)
            assert line.startswith(f"{out / 'b_mask.png'} is in the way and no earlier prediction")
        assert content(out) == before

    @pytest.mark.parametrize(
        "ledger",
        [
            *("", "[]\n", "{\n", '{"other": 1}\n'),
            pytest.param("[" * 99999 + "\n", id="deep"),
            *(
                f'{{"declip_pipe_predictions": 2}}\n{line}\n'
                for line in (
                    *('{"name": "../x", "image": "x"}', '{"name": "x"}', "[]"),
                    '{"name": "x", "image": "x", "row": {"image": "x", "status": "ok", "odd": 1}}',
                )
            ),
        ],
    )
    def test_a_ledger_that_is_not_ours_is_not_believed(
        self, refused, tiny_run, pictures, tmp_path, ledger
    ):
        (tmp_path / "x_mask.png").write_text("keep me")
        out = tmp_path / "out"
        out.mkdir()
        (out / "predictions.jsonl").write_text(ledger)
        command = ("predict", tiny_run, "-i", pictures, "-o", out, "--overwrite")
        line = refused(*command, code=1)
        assert "predictions.jsonl is damaged or of another program; name another folder" in line
        assert (tmp_path / "x_mask.png").exists()


class TestInputs:
    def test_results_may_not_lie_among_pictures(
        self, refused, tiny_run, pictures, tmp_path, monkeypatch
    ):
        before = content(tmp_path)
        monkeypatch.chdir(pictures)
        for inputs in (pictures, pictures / "a.png", f"{pictures}/*.png", "a.png"):
            for out in (pictures, tmp_path, Path()):
                line = refused("predict", tiny_run, "-i", inputs, "-o", out, "--overwrite")
                assert "would lie among the images of" in line
                assert "name another folder with -o" in line
        assert content(tmp_path) == before

    @pytest.mark.slow
    def test_results_below_pictures_are_no_pictures(self, program, tiny_run, pictures, counted):
        for inputs in (pictures, pictures / "**" / "*.png"):
            command = ("predict", tiny_run, "-i", inputs, "-o", pictures / "out")
            table = program(*command).last_line
            assert masks(table) == ["a_mask.png", "b_mask.png", "c_mask.png"]
        assert len(counted) == 3

    def test_a_picture_given_twice_is_one(self, program, tiny_run, pictures, tmp_path, monkeypatch):
        monkeypatch.chdir(pictures)
        inputs = [pictures / "a.png", "a.png", "./a.png", pictures, pictures]
        options = [option for text in inputs for option in ("-i", text)]
        outcome = program("predict", tiny_run, *options, "-o", tmp_path / "out")
        assert masks(outcome.last_line) == ["a_mask.png", "b_mask.png", "c_mask.png"]

    def test_a_folder_with_brackets_in_its_name(self, program, tiny_run, pictures, tmp_path):
        scans = pictures.rename(tmp_path / "scans [1]")
        outcome = program("predict", tiny_run, "-i", scans / "[ab].png", "-o", tmp_path / "out")
        assert masks(outcome.last_line) == ["a_mask.png", "b_mask.png"]

    def test_a_pattern_that_climbs_up_keeps_to_the_output(
        self, program, tiny_run, pictures, tmp_path
    ):
        (pictures / "below").mkdir()
        (pictures / "below" / "a.png").write_bytes((pictures / "a.png").read_bytes())
        pattern = pictures / "be*" / ".." / ".." / "images" / "b.png"
        outcome = program("predict", tiny_run, "-i", pattern, "-o", tmp_path / "out")
        assert masks(outcome.last_line) == ["b_mask.png"]

    def test_an_empty_input(self, refused, tiny_run):
        line = refused("predict", tiny_run, "-i", "")
        assert line == "an input is empty; expected a file, a folder or a pattern"

    def test_a_name_that_is_not_utf8(self, refused, tiny_run, pictures, tmp_path):
        odd = Path(os.fsdecode(os.fsencode(pictures) + b"/caf\xe9.png"))
        shutil.copy(pictures / "a.png", odd)
        for inputs in (odd, pictures, pictures / "c*.png"):
            line = refused("predict", tiny_run, "-i", inputs, "-o", tmp_path / "out")
            assert "a name that is not UTF-8; rename it" in line
        assert not (tmp_path / "out").exists()


class TestWeights:
    @pytest.mark.slow
    def test_a_relative_file_is_found_from_any_folder(
        self, program, shared_dataset, golden, tiny_run, pictures, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(golden)
        store = program(
            *("extract", shared_dataset, "--arch", "CLIP:from-file", "--layers", "layer1"),
            *("--weights", "tiny_vit_openai.pt", "--cache", tmp_path / "cache"),
        ).last_line
        run = program(
            *("train", store, "--feature-layer", "layer1", "--decoder-type", "linear"),
            *("--epochs", 1, "--batch-size", 4, "-o", tmp_path / "runs"),
        ).last_line
        monkeypatch.chdir(tmp_path)
        outcome = program("predict", run, "-i", pictures, "-o", tmp_path / "out")
        assert outcome.code == 0, outcome.err

    def test_a_file_that_moved_is_named(self, refused, tiny_run, golden, pictures, tmp_path):
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        config = yaml.safe_load(
            (run / "config.yaml").read_text().replace(str(golden), "/elsewhere")
        )
        del config["record_sha256"]
        (run / "config.yaml").write_text(yaml.safe_dump(sealed(config)))
        line = refused("predict", run, "-i", pictures, "-o", tmp_path / "out", code=1)
        assert line == (
            "the run was trained with /elsewhere/tiny_vit_openai.pt, which is not there; "
            "pass --weights"
        )
        assert not (tmp_path / "out").exists()


def test_two_processes_do_not_share_a_folder(program, refused, tiny_run, pictures, tmp_path):
    out = tmp_path / "out"
    other = PredictionFolder(out, {"decoder": "1"}, {})
    other.start()
    line = refused("predict", tiny_run, "-i", pictures, "-o", out, code=1)
    assert line == (
        f"another process predicts into {out}; wait for it, or name another folder with -o"
    )
    late = [PredictionFolder(tmp_path / "late", {"decoder": "1"}, {}) for _ in range(2)]
    late[0].start()
    with pytest.raises(RunBusyError, match="another process predicts into"):
        late[1].start()
    del other, late
    shutil.rmtree(out)
    assert program("predict", tiny_run, "-i", pictures, "-o", out).code == 0


class TestOneBadImage:
    """It is a row with its reason; the others are predicted."""

    def predicted(self, program, run, pictures, out, code=1):
        outcome = program("predict", run, "-i", pictures, "-o", out)
        assert outcome.code == code, outcome.err
        with (out / "predictions.csv").open(newline="") as file:
            return outcome, {Path(row["image"]).name: row for row in csv.DictReader(file)}

    def test_a_long_name_is_predicted_as_long_as_a_result_can_have_it(
        self, program, tiny_run, pictures, tmp_path
    ):
        # NAME_overlay.jpg is the longest of them; a name has 255 bytes at most.
        longest, longer = "l" * 243 + ".png", "m" * 244 + ".png"
        for name in (longest, longer):
            shutil.copy(pictures / "a.png", pictures / name)
        for _ in range(2):
            outcome, rows = self.predicted(program, tiny_run, pictures, tmp_path / "out")
            assert rows[longest]["status"] == rows["c.png"]["status"] == "ok"
            assert rows[longer]["reason"] == "its results cannot be written: File name too long"
            assert "1 of 5 images could not be used" in outcome.err
        assert not [name for name in content(tmp_path / "out") if name.startswith(("m", "."))]

    def test_a_named_pipe_is_not_waited_for(self, program, tiny_run, pictures, tmp_path):
        os.mkfifo(pictures / "d.png")
        outcome, rows = self.predicted(program, tiny_run, pictures, tmp_path / "out", code=0)
        assert "left out: 1 irregular file, such as d.png" in outcome.err
        assert [row["status"] for row in rows.values()] == ["ok", "ok", "ok"]
        _, rows = self.predicted(program, tiny_run, pictures / "d.png", tmp_path / "alone")
        assert rows["d.png"]["reason"] == "is no regular file; an image was expected"

    def test_names_that_a_disk_does_not_tell_apart_are_not_replaced(
        self, program, tiny_run, pictures, tmp_path, monkeypatch
    ):
        shutil.copy(pictures / "a.png", pictures / "A.png")
        there = prediction_folder._is_there

        def in_any_case(path):
            return there(path) or (
                path.parent.is_dir()
                and any(file.name.lower() == path.name.lower() for file in path.parent.iterdir())
            )

        # Where the disk tells them apart, both are predicted.
        _, rows = self.predicted(program, tiny_run, pictures, tmp_path / "other", code=0)
        assert rows["A.png"]["status"] == rows["a.png"]["status"] == "ok"
        monkeypatch.setattr(prediction_folder, "_is_there", in_any_case)
        for _ in range(2):
            _, rows = self.predicted(program, tiny_run, pictures, tmp_path / "out")
            assert rows["A.png"]["status"] == "ok"
            assert rows["a.png"]["reason"] == (
                f"its results would replace those of {pictures / 'A.png'}, the disk does not tell "
                "their names apart; rename it"
            )


class TestWhatCannotBeFound:
    def test_small_regions_of_large_images_are_named(
        self, program, tiny_run, pictures, tmp_path, tiny_backbone
    ):
        wanted = tiny_backbone.preprocessing
        shape = tiny_backbone.layers["layer1"]
        sides = {"twice.png": (2 * wanted.width, 2 * wanted.height)}
        sides["large.png"] = (10 * wanted.width, 5 * wanted.height)
        for name, size in sides.items():
            Image.fromarray(np.full((*size[::-1], 3), 90, np.uint8)).save(pictures / name)
        outcome = program("predict", tiny_run, "-i", pictures, "-o", tmp_path / "out")
        region = f"{-(-sides['large.png'][0] // shape.width)}x"
        region += str(-(-sides["large.png"][1] // shape.height))
        (line,) = [line for line in outcome.err.splitlines() if "cannot be found" in line]
        assert line == (
            "1 of 5 images are much larger than the backbone's input: regions smaller than "
            f"`smallest_region` of predictions.csv, {region} pixels in {pictures / 'large.png'}, "
            "cannot be found; predict parts of such images, or train on --tiles"
        )
        with Path(outcome.last_line).open(newline="") as file:
            rows = {Path(row["image"]).name: row for row in csv.DictReader(file)}
        assert rows["large.png"]["smallest_region"] == region
        # Of the others they are as small as the grid, and nothing is remarked.
        width, height = sides["twice.png"]
        small = f"{-(-width // shape.width)}x{-(-height // shape.height)}"
        assert rows["twice.png"]["smallest_region"] == small


def test_the_ledger_says_how_predictions_were_made(program, tiny_run, pictures, tmp_path):
    program("predict", tiny_run, "-i", pictures, "-o", tmp_path / "out")
    header, *lines = map(
        json.loads, (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    )
    assert header["made_with"]["threshold"] == 0.5
    assert header["made_with"]["save"] == ["mask", "map", "overlay"]
    (decoder,) = header["made_with"]["decoder"]
    assert len(decoder) == 64
    for name in "abc":
        before, after = (line for line in lines if line["name"] == name)
        assert "row" not in before and after["row"]["status"] == "ok"


class TestWhatIsSaved:
    def test_named_kinds_are_saved_and_no_others(self, program, tiny_run, pictures, tmp_path):
        out = tmp_path / "out"
        command = ("predict", tiny_run, "-i", pictures / "a.png", "-o", out)
        assert program(*command, "--save", "map-full, mask").code == 0
        assert content(out).keys() == {
            *("a_mask.png", "a_map-full.png", "predictions.csv", "predictions.jsonl"),
        }
        (row,) = csv.DictReader((out / "predictions.csv").read_text().splitlines())
        assert (row["mask"], row["map_full"]) == ("a_mask.png", "a_map-full.png")
        assert row["map"] == row["overlay"] == row["each"] == ""

    def test_another_choice_is_refused_in_one_line(
        self, program, refused, tiny_run, pictures, tmp_path
    ):
        command = ("predict", tiny_run, "-i", pictures / "a.png", "-o", tmp_path / "out")
        assert program(*command, "--save", "mask").code == 0
        assert (
            "holds predictions of another --save, mask instead of mask,map,overlay; pass "
            "--overwrite to replace them" in refused(*command, code=1)
        )
        assert refused(*command, "--save", "masks").startswith(
            "unknown kind of --save 'masks'; did you mean 'mask'?"
        )
        assert refused(*command, "--save", "mask,") == (
            "'mask,' has an empty item; expected names separated by commas"
        )

    def test_a_folder_of_an_earlier_version_is_replaced_whole(
        self, program, refused, tiny_run, pictures, tmp_path
    ):
        out = tmp_path / "out"
        out.mkdir()
        image = str((pictures / "a.png").absolute())
        for name in ("a_mask.png", "a_map.npz", "a_overlay.png"):
            (out / name).write_text("old")
        lines = [{"declip_pipe_predictions": 2, "made_with": {}}, {"name": "a", "image": image}]
        (out / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        command = ("predict", tiny_run, "-i", pictures / "a.png", "-o", out)
        assert "holds predictions of another version; pass" in refused(*command, code=1)
        assert program(*command, "--overwrite").code == 0
        assert not (out / "a_overlay.png").exists()


def test_several_runs_are_named_one_after_the_other(
    program, tiny_store, tiny_run, pictures, tmp_path
):
    other = program(
        *("train", tiny_store.location, "--feature-layer", "layer2", "--decoder-type", "linear"),
        *("--epochs", 1, "--batch-size", 4, "-o", tmp_path / "runs"),
    ).last_line
    again = Path(shutil.copytree(tiny_run, tmp_path / "again"))
    out = tmp_path / "out"
    outcome = program("predict", tiny_run, other, again, "-i", pictures, "-o", out, "--each")
    assert outcome.code == 0, outcome.err
    assert f"given more than once, taken once: {again}" in outcome.err
    with np.load(out / "a_each.npz") as each, np.load(out / "a_map.npz") as mean:
        assert each["runs"].tolist() == [tiny_run.name, Path(other).name]
        assert (np.abs(each["maps"] - mean["map"]) > 0).any()
