import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.errors import WeightsError

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_VIT = GOLDEN / "tiny_vit_openai.pt"
TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(2, dtype=torch.int64)}


def save_torchscript(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A TorchScript archive whose state dict is `tensors`, as OpenAI published its weights."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *folders, leaf = name.split(".")
        module = root
        for folder in folders:
            if folder not in dict(module.named_children()):
                module.add_module(folder, torch.nn.Module())
            module = module.get_submodule(folder)
        module.register_buffer(leaf, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the format that the files are in
        torch.jit.save(torch.jit.script(root), path)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_safetensors_under_any_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(TENSORS, path)
    assert_same(read_tensors(path), TENSORS)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_tensors(path), TENSORS)


def test_torchscript_archive(tmp_path: Path) -> None:
    save_torchscript(TENSORS, tmp_path / "weights.pt")
    assert_same(read_tensors(tmp_path / "weights.pt"), TENSORS)


def test_training_checkpoint_is_unwrapped(tmp_path: Path) -> None:
    parallel = {f"module.{name}": tensor for name, tensor in TENSORS.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": parallel}, tmp_path / "epoch_3.pt")
    assert_same(read_tensors(tmp_path / "epoch_3.pt"), TENSORS)


@pytest.mark.parametrize(
    "prefixes", ["module.", "_orig_mod.", "clip.", "module._orig_mod.", "_orig_mod.module.clip."]
)
@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "model"])
def test_prefixes_that_all_names_have_are_dropped(
    tmp_path: Path, prefixes: str, entry: str | None
) -> None:
    wrapped = {f"{prefixes}{name}": tensor for name, tensor in TENSORS.items()}
    torch.save(wrapped if entry is None else {entry: wrapped}, tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / "a.pt"), TENSORS)


def test_a_prefix_of_some_names_is_part_of_them(tmp_path: Path) -> None:
    tensors = {"clip.a": torch.ones(2), "b": torch.ones(2)}
    torch.save(tensors, tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / "a.pt"), tensors)


class RunsCode(torch.nn.Module):
    """A module whose archive writes a file when torch.jit.load reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(3))
        self.training = False

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):  # type: ignore[no-untyped-def]
        self.w = state[0]
        self.training = state[1]
        torch.save(torch.zeros(3), "written_by_weights")


@pytest.mark.filterwarnings("ignore")  # torch deprecates TorchScript
def test_torchscript_that_runs_code_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(RunsCode()), tmp_path / "a.pt")
    written = tmp_path / "written_by_weights"
    assert not written.exists()
    with pytest.raises(
        WeightsError, match=r"asks to run a __setstate__ of its own .* nothing of it was run"
    ):
        read_tensors(tmp_path / "a.pt")
    assert not written.exists()
    torch.jit.load(tmp_path / "a.pt")
    assert written.exists()  # the charge was live


@pytest.mark.filterwarnings("ignore")  # torch deprecates TorchScript
def test_torchscript_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    root = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4)).half()
    both = torch.arange(12.0)
    root[0].register_buffer("part", both[2:10:2])
    root[0].register_buffer("turned", both.view(3, 4).T)
    root.register_buffer("number", torch.tensor(7))
    root.register_buffer("flags", torch.tensor([True, False]))
    torch.jit.save(torch.jit.script(root), tmp_path / "a.pt")
    assert_same(read_tensors(tmp_path / "a.pt"), torch.jit.load(tmp_path / "a.pt").state_dict())


@pytest.mark.filterwarnings("ignore")  # torch deprecates TorchScript
def test_a_torchscript_pickle_cannot_call_or_overrun(tmp_path: Path) -> None:
    save_torchscript(TENSORS, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    data = next(name for name in members if name.endswith("/data.pkl"))

    def message(change) -> str:
        with zipfile.ZipFile(tmp_path / "changed.pt", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, change(content) if name == data else content)
        with pytest.raises(WeightsError) as caught:
            read_tensors(tmp_path / "changed.pt")
        return str(caught.value)

    system = message(lambda content: content.replace(b"collections\nOrderedDict", b"os\nsystem"))
    assert "asks to run os.system when it is loaded; refused" in system
    larger = message(lambda content: content.replace(b"(K\x02K\x03t", b"(K\x02K\x09t"))
    assert "a tensor is larger than its storage" in larger


@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_scalars_are_refused_in_one_line_without_escapes(
    tmp_path: Path, zipped: bool
) -> None:
    content = {"state_dict": TENSORS, "best": np.float64(0.5)}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError) as caught:
        read_tensors(tmp_path / "a.pt")
    assert str(caught.value) == (
        f"weights {tmp_path / 'a.pt'} asks to run numpy._core.multiarray.scalar when it is loaded; "
        "refused, nothing of it was run; expected tensors and plain values alone, such as its "
        "`state_dict()`"
    )


def test_an_error_of_torch_is_told_without_escapes(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("\x1b[1mbold\x1b[0m\x07 and\x1b]0;title")

    monkeypatch.setattr(torch, "load", fail)
    (tmp_path / "a.pt").write_text("text")
    with pytest.raises(WeightsError, match=r"damaged \(bold and \]0;title\)"):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.slow
def test_every_container_gives_the_same_backbone(tmp_path: Path) -> None:
    tensors = torch.load(TINY_VIT, weights_only=True)
    safetensors.torch.save_file(dict(tensors), tmp_path / "a.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "b.bin")
    save_torchscript(tensors, tmp_path / "c.pt")
    torch.save({name: tensor.float() for name, tensor in tensors.items()}, tmp_path / "d.pt")
    paths = [TINY_VIT, *sorted(tmp_path.iterdir())]
    hashes = [
        open_backbone("CLIP:from-file", weights=[str(path)], device="cpu").weights_sha256
        for path in paths
    ]
    assert len(paths) == 5
    assert len(set(hashes)) == 1


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Each kind of file that is no weights file, and what its message says."""
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("these are not weights\n")
    whole = TINY_VIT.read_bytes()
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.safetensors").write_bytes((1000).to_bytes(8, "little") + b"{" + b" " * 20)
    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "no weights")
    torch.save(torch.nn.Linear(2, 2), folder / "pickled_module.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save({"epoch": 1}, folder / "no_tensors.pt")
    unreadable = "not a weights file, or damaged"
    return {
        "missing": (folder / "nowhere.pt", "no such file"),
        "folder": (folder, "a folder"),
        "empty": (folder / "empty.pt", "the file is empty"),
        "text": (folder / "text.pt", unreadable),
        "cut": (folder / "cut.pt", unreadable),
        "cut safetensors": (folder / "cut.safetensors", unreadable),
        "other archive": (folder / "other.zip", unreadable),
        "list": (folder / "list.pt", "holds no named tensors"),
        "no tensors": (folder / "no_tensors.pt", "holds no named tensors"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "folder",
        "empty",
        "text",
        "cut",
        "cut safetensors",
        "other archive",
        "list",
        "no tensors",
    ],
)
def test_what_is_no_weights_file_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    path, reason = broken_files(tmp_path)[kind]
    with pytest.raises(WeightsError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"weights {path}: {reason}")
    assert message.endswith("or a timm state dict")
    assert "\n" not in message


def test_a_long_reason_is_cut_between_words(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("reason " * 30)

    monkeypatch.setattr(torch, "load", fail)
    (tmp_path / "a.pt").write_text("text")
    with pytest.raises(WeightsError, match=r"damaged \((reason ){16}\.\.\.\); expected"):
        read_tensors(tmp_path / "a.pt")
