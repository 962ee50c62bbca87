"""A mask from files equals the mask through the store."""

import numpy as np
import pytest
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.errors import IdentityMismatchError
from declip_pipeline.images.decode import decode_image
from declip_pipeline.training.predictor import Predictor


def test_predict_equals_the_chain_through_the_store(tiny_store, tiny_backbone, shared_dataset):
    decoder = build_decoder("conv-4", tiny_store.layers["layer1"], widths=[8, 8, 4, 4])
    initialize(decoder, "pytorch", seed=3)
    features = tiny_store.feature_identity("layer1")
    predictor = Predictor([tiny_backbone], decoder, features, dtypes=["float16"])
    for row in (0, 1, 2):
        picture = decode_image(shared_dataset / tiny_store.samples[row].image)
        stored = tiny_store.read_layer("layer1", np.asarray([row])).decoded()
        with torch.inference_mode():
            expected = probability_maps(decoder(stored), *picture.shape[:2])[0].numpy()
        found = predictor.map(picture)
        assert found.shape == picture.shape[:2]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_another_backbone_is_refused_by_its_field(tiny_store):
    decoder = build_decoder("linear", tiny_store.layers["layer1"])
    features = tiny_store.feature_identity("layer1")
    other = open_backbone("efficientnet-lite0", device="cpu")
    with pytest.raises(
        IdentityMismatchError, match="^backbone differs: the run was trained on 'CL"
    ):
        Predictor([other], decoder, features, dtypes=["float16"])
