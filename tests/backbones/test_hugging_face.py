"""DINOv2 with SwiGLU in the layout of transformers computes in timm what it means there."""

import pytest
import timm
import torch
from torch.nn import functional

from declip_pipeline.backbones.hugging_face import in_timm_names, is_hugging_face_vit

WIDTH, HEADS, HIDDEN, PATCH, SIDE, BLOCKS = 16, 2, 24, 14, 3, 2


def random_weights(seed=0):
    """Tensors by transformers' names; `weights_in` makes the gate's half first, then the other."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator) / 4

    def linear(name, inputs, outputs):
        return {f"{name}.weight": normal(outputs, inputs), f"{name}.bias": normal(outputs)}

    def norm(name):
        return {f"{name}.weight": 1 + normal(WIDTH), f"{name}.bias": normal(WIDTH)}

    found = {
        "embeddings.cls_token": normal(1, 1, WIDTH),
        "embeddings.position_embeddings": normal(1, 1 + SIDE**2, WIDTH),
        "embeddings.patch_embeddings.projection.weight": normal(WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": normal(WIDTH),
        **norm("layernorm"),
    }
    for block in range(BLOCKS):
        below = f"encoder.layer.{block}"
        found |= norm(f"{below}.norm1") | norm(f"{below}.norm2")
        for part in ("query", "key", "value"):
            found |= linear(f"{below}.attention.attention.{part}", WIDTH, WIDTH)
        found |= linear(f"{below}.attention.output.dense", WIDTH, WIDTH)
        found |= linear(f"{below}.mlp.weights_in", WIDTH, 2 * HIDDEN)
        found |= linear(f"{below}.mlp.weights_out", HIDDEN, WIDTH)
        found |= {f"{below}.layer_scale{n}.lambda1": normal(WIDTH) for n in (1, 2)}
    return found


def computed(tensors, images):
    """Tokens after the last norm, written from the definition of the network."""

    def linear(name, values):
        return functional.linear(values, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(name, values):
        parameters = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return functional.layer_norm(values, (WIDTH,), *parameters, eps=1e-6)

    def heads(values):
        return values.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    projection = "embeddings.patch_embeddings.projection"
    patches = functional.conv2d(
        images, tensors[f"{projection}.weight"], tensors[f"{projection}.bias"], stride=PATCH
    )
    tokens = patches.flatten(2).transpose(1, 2)
    first = tensors["embeddings.cls_token"].expand(len(images), -1, -1)
    values = torch.cat([first, tokens], 1) + tensors["embeddings.position_embeddings"]
    for block in range(BLOCKS):
        below = f"encoder.layer.{block}"
        normed = norm(f"{below}.norm1", values)
        parts = [
            heads(linear(f"{below}.attention.attention.{part}", normed))
            for part in ("query", "key", "value")
        ]
        mixed = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        attended = linear(f"{below}.attention.output.dense", mixed)
        values = values + attended * tensors[f"{below}.layer_scale1.lambda1"]
        gate, other = linear(f"{below}.mlp.weights_in", norm(f"{below}.norm2", values)).chunk(2, -1)
        gated = linear(f"{below}.mlp.weights_out", functional.silu(gate) * other)
        values = values + gated * tensors[f"{below}.layer_scale2.lambda1"]
    return norm("layernorm", values)


@pytest.mark.parametrize("prefix", ["", "dinov2."])
def test_a_swiglu_s_weights_compute_in_timm_what_they_mean_in_transformers(prefix):
    tensors = random_weights()
    given = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    assert is_hugging_face_vit(given)
    network = timm.create_model(
        "vit_giant_patch14_dinov2",
        embed_dim=WIDTH,
        depth=BLOCKS,
        num_heads=HEADS,
        mlp_ratio=2 * HIDDEN / WIDTH,
        img_size=SIDE * PATCH,
        num_classes=0,
    ).eval()
    network.load_state_dict(in_timm_names(given))
    images = torch.rand(
        2, 3, SIDE * PATCH, SIDE * PATCH, generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode():
        found, expected = network.forward_features(images), computed(tensors, images)
    assert found.shape == (2, 1 + SIDE**2, WIDTH)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
