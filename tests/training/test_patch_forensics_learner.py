"""Patch Forensics is learned by the patch, from pixels, with or without ImageNet weights."""

import huggingface_hub
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.decoders.file import load_decoder
from declip_pipeline.errors import InputError, WeightsError
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.features import FeatureShape
from declip_pipeline.files import sha256_of_file
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.learner_choice import decoder_of, learner_of
from declip_pipeline.training.patch_forensics import PatchForensicsLearner
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import plan_run, train_run

CPU = torch.device("cpu")
SHAPE = FeatureShape(3, 64, 64)


@pytest.fixture(scope="module")
def pixel_store(shared_dataset, tmp_path_factory):
    """The shared dataset's pixels, 64x64."""
    opened = open_dataset(shared_dataset)
    extraction = extract_store(
        opened,
        open_backbone("pixels:64", device="cpu"),
        layers=["pixels"],
        root=tmp_path_factory.mktemp("cache"),
        provenance={"arch": "pixels:64", "weights": []},
    )
    return Store(extraction.location)


@pytest.fixture(scope="module")
def imagenet_file(tmp_path_factory):
    """A file as timm's: all tensors of the network, and none that were learned."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "xception-43020ad28.pth"
    torch.save(timm.create_model("legacy_xception", num_classes=2).state_dict(), path)
    return path


def recipe(**changes) -> Recipe:
    options = {"decoder_type": "patch-forensics", "epochs": 2, "batch_size": 4}
    return Recipe(**(options | changes))


def a_batch():
    draw = torch.Generator().manual_seed(0)
    targets = torch.zeros(2, 256, 256)
    targets[0, 32:96, 64:160] = 1
    targets[1, :128] = 0.6
    return [torch.randn(2, 3, 64, 64, generator=draw)], targets


def test_the_loss_is_the_cross_entropy_of_two_logits_over_patches():
    inputs, targets = a_batch()
    learner = learner_of(recipe(), [SHAPE], "concat", CPU)
    assert isinstance(learner, PatchForensicsLearner)
    learner.begin_epoch(1e-3)
    loss, gradients = learner.compute(inputs, targets, 1.0)
    logits = learner.decoder.position_logits(inputs[0]).detach()
    assert logits.shape == (2, 8, 8)
    labels = F.avg_pool2d(targets[:, None], 32)[:, 0] > 0.5
    assert labels.sum() == 6 + 32
    pairs = torch.stack([torch.full_like(logits, 0.3), logits + 0.3], 1)
    expected = F.cross_entropy(pairs, labels.long())
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    assert len(gradients) == len(list(learner.decoder.parameters()))


def test_its_steps_are_adams():
    inputs, targets = a_batch()
    learner, other = (learner_of(recipe(), [SHAPE], "concat", CPU) for _ in range(2))
    adam = torch.optim.Adam(other.decoder.parameters(), lr=1e-3)
    other.begin_epoch(1e-3)
    learner.begin_epoch(1e-3)
    for _ in range(3):
        learner.accumulate(learner.compute(inputs, targets, 1.0))
        learner.update()
        adam.zero_grad()
        other.loss(inputs, targets).backward()
        adam.step()
    for name, value in learner.decoder.state_dict().items():
        torch.testing.assert_close(value, other.decoder.state_dict()[name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_it_learns(pixel_store, tmp_path):
    data = TrainingData([pixel_store], device=CPU)
    run = train_run(data, tmp_path, layer="pixels", recipe=recipe(epochs=30, learning_rate=3e-3))
    shares = [
        float((pixel_store.read_targets(pixel_store.fake_rows("valid")[[n]]) > 127).mean())
        for n in range(3)
    ]
    all_is_fake = 100 * sum(shares) / 3
    assert 5 < all_is_fake < 20
    assert run.summary()["best_valid_iou"] > 2.5 * all_is_fake
    assert run.epochs()[-1]["train_loss"] < 0.4 * run.epochs()[0]["train_loss"]
    decoder, features = run.best_decoder()
    assert decoder.decoder_type == "patch-forensics"
    assert features["backbone"] == "pixels:64"


@pytest.mark.slow
def test_without_a_cache_it_learns_the_same(pixel_store, tmp_path):
    records = []
    for uncached in (False, True):
        data = TrainingData([pixel_store], device=CPU, uncached=uncached)
        run = train_run(data, tmp_path, layer="pixels", recipe=recipe(epochs=1))
        records.append(run.epochs()[0]["train_loss"])
    # float16 pixels, and float32.
    assert records[0] == pytest.approx(records[1], rel=1e-3)


class TestImageNet:
    """Weights that were learned on ImageNet; here, some of the same names and shapes."""

    @pytest.mark.slow
    def test_all_but_the_decision_is_theirs(self, imagenet_file):
        given = torch.load(imagenet_file, weights_only=True)
        options = {"initialization": "imagenet", "initial_weights": str(imagenet_file)}
        learner = learner_of(recipe(**options), [SHAPE], "concat", CPU)
        drawn = learner_of(recipe(initialization="pytorch"), [SHAPE], "concat", CPU).decoder
        for name, value in learner.decoder.trunk.state_dict().items():
            assert torch.equal(value, given[name]), name
        assert torch.equal(learner.decoder.fc[0].weight, drawn.fc[0].weight)
        assert not torch.equal(drawn.trunk.conv1.weight, given["conv1.weight"])

    @pytest.mark.slow
    def test_a_run_is_named_by_their_content(self, pixel_store, imagenet_file, tmp_path):
        data = TrainingData([pixel_store], device=CPU)

        def plan(file):
            options = {"initialization": "imagenet", "initial_weights": str(file)}
            return plan_run(data, tmp_path, layer="pixels", recipe=recipe(**options))

        moved = tmp_path / "moved.pth"
        moved.write_bytes(imagenet_file.read_bytes())
        one = plan(imagenet_file)
        assert one.folder.path == plan(moved).folder.path
        assert one.config["initial_weights_sha256"] == sha256_of_file(moved)
        assert str(imagenet_file) not in str(one.config)
        tensors = torch.load(imagenet_file, weights_only=True)
        tensors["conv1.weight"] += 1
        save_file(tensors, moved)
        assert one.folder.path != plan(moved).folder.path
        # Whoever has none is the run that it always was.
        assert "initial_weights" not in str(recipe().to_json())

    @pytest.mark.slow
    def test_files_that_do_not_fit_are_refused(self, imagenet_file, tmp_path):
        tensors = torch.load(imagenet_file, weights_only=True)
        del tensors["bn1.bias"]
        tensors["conv2.weight"] = tensors["conv2.weight"][:, :16]
        wrong = tmp_path / "wrong.pth"
        torch.save(tensors, wrong)
        options = {"initialization": "imagenet", "initial_weights": str(wrong)}
        with pytest.raises(WeightsError) as caught:
            decoder_of(recipe(**options), [SHAPE], "concat")
        assert str(caught.value) == (
            f"weights {wrong} are not those of timm's legacy_xception (1 of another shape: "
            "conv2.weight 64x16x3x3 instead of 64x32x3x3; 1 missing: bn1.bias 32); give a file of "
            "them with `initial_weights`, or leave it out to download them"
        )
        with pytest.raises(InputError, match="initial weights no.pth: no such file; expected one"):
            recipe(initialization="imagenet", initial_weights="no.pth")
        message = f'initial weights {wrong} for `initialization="paper"`, which draws them; take'
        with pytest.raises(InputError, match=message):
            recipe(initial_weights=str(wrong))

    @pytest.mark.parametrize("name", ["conv-4", "linear", "probe"])
    def test_other_decoders_have_none(self, name):
        message = f'`initialization="imagenet"` for {name}, of which there are no such weights; exp'
        with pytest.raises(InputError, match=message):
            decoder_of(recipe(decoder_type=name, initialization="imagenet"), [SHAPE], "concat")

    def test_they_come_from_torchs_cache_or_the_network(self, monkeypatch, imagenet_file, tmp_path):
        class NoNetwork:
            def head(self, url, timeout):
                assert timeout <= 5
                raise OSError("[Errno -2] Name or service not known")

        monkeypatch.setattr(huggingface_hub, "get_session", NoNetwork)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        asked = recipe(initialization="imagenet")
        with pytest.raises(WeightsError) as caught:
            decoder_of(asked, [SHAPE], "concat")
        message = str(caught.value)
        assert message.startswith(
            "cannot download the weights of timm's legacy_xception (no answer from https://github"
        )
        assert message.endswith(
            "; connect to the internet once, give the file with `initial_weights`, or take another "
            "`initialization`"
        )
        assert "\n" not in message
        place = tmp_path / "checkpoints" / imagenet_file.name
        place.parent.mkdir()
        place.write_bytes(imagenet_file.read_bytes())
        learner = learner_of(asked, [SHAPE], "concat", CPU)
        given = torch.load(imagenet_file, weights_only=True)
        assert torch.equal(learner.decoder.trunk.conv1.weight, given["conv1.weight"])


def test_its_file_gives_the_same_maps(tmp_path):
    from declip_pipeline.decoders.file import save_decoder

    learner = learner_of(recipe(), [SHAPE], "concat", CPU)
    inputs, _ = a_batch()
    learner.decoder.eval()
    save_decoder(tmp_path / "d.safetensors", learner.decoder, {"shape": SHAPE.to_json()})
    decoder, _ = load_decoder(tmp_path / "d.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(decoder(*inputs), learner.logits(inputs), rtol=0, atol=1e-5)
