import logging
import time
import warnings
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from declip_pipeline.backbones import from_open_clip, weights
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import DownloadError


class NoNetwork:
    """Stands in for the hub's client on a machine without a network."""

    def head(self, url: str, timeout: float) -> None:
        assert timeout <= weights.PROBE_SECONDS
        raise OSError(f"[Errno -2] Name or service not known: {url}")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(huggingface_hub, "get_session", NoNetwork)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("ViT-L/14", "CLIP:ViT-L/14"),
        ("RN50", "CLIP:RN50"),
        ("ViT-L/14,RN50", "CLIP:ViT-L/14"),
        ("ViT-B-32/laion2b_s34b_b79k", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
        ("timm:test_vit", "timm:test_vit"),
    ],
)
def test_a_failed_download_names_the_model_and_the_ways_out_at_once(
    arch: str, name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert from_open_clip  # imported before the clock starts
    start = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        open_backbone(arch)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith(
        f"cannot download the weights of {name} (no answer from {constants.ENDPOINT}: "
    )
    assert "`weights=FILE` (an OpenAI .pt, TorchScript archive or state dict" in message
    assert "open_clip .safetensors or .bin" in message
    # Of a decoder's own backbone, another one is no way out.
    assert "`arch" not in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_what_was_downloaded_before_opens_without_a_network(no_network: Path) -> None:
    network = timm.create_model("test_vit")
    repository = no_network / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    safetensors.torch.save_file(network.state_dict(), snapshot / "model.safetensors")
    safetensors.torch.save_file(network.state_dict(), no_network / "same.safetensors")
    cached = open_backbone("timm:test_vit")
    given = open_backbone("timm:test_vit", weights=[str(no_network / "same.safetensors")])
    assert cached.name == "timm:test_vit.r160_in1k"
    assert cached.weights_sha256 == given.weights_sha256
    images = torch.rand(1, 3, 160, 160)
    assert torch.equal(
        cached.features(images, ["layer5"])["layer5"], given.features(images, ["layer5"])["layer5"]
    )


def test_the_clients_state_is_put_back() -> None:
    before = (constants.HF_HUB_OFFLINE, logging.root.manager.disable, list(warnings.filters))
    assert weights.from_hub("a model", lambda: constants.HF_HUB_OFFLINE) is True
    with pytest.raises(DownloadError, match="the weights of a model"):
        weights.from_hub("a model", lambda: 1 / 0)
    after = (constants.HF_HUB_OFFLINE, logging.root.manager.disable, list(warnings.filters))
    assert after == before


def test_a_hub_that_answers_is_used_and_its_errors_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Answers:
        def head(self, url: str, timeout: float) -> str:
            return f"{url} within {timeout}"

    monkeypatch.setattr(huggingface_hub, "get_session", Answers)
    assert weights.from_hub("a model", lambda: constants.HF_HUB_OFFLINE) is False

    def missing() -> None:
        raise FileNotFoundError("404 no such repository\nwith more lines")

    with pytest.raises(DownloadError, match=r"of a model \(404 no such repository\); connect"):
        weights.from_hub("a model", missing)
