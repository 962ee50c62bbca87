import warnings
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.backbones.weights import read_tensors
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
        "pickled module": (folder / "pickled_module.pt", unreadable),
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
        "pickled module",
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
