"""Maps of features: components as scikit-learn's, norms, massive activations, choice of images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.errors import IdentityMismatchError, InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.reports import feature_maps as maps_of
from declip_pipeline.reports.feature_figure import OUTLIER_COLOUR, PEAKS, coloured_maps
from declip_pipeline.reports.feature_maps import choose_rows, feature_maps
from declip_pipeline.training.run import Run


class MadeStore:
    """A store of one layer whose features are given."""

    def __init__(self, features: np.ndarray, shape: FeatureShape) -> None:
        self.layers = {"layer0": shape}
        self._features = torch.from_numpy(features)

    def read_layer(self, layer, rows):
        return SimpleNamespace(decoded=lambda: self._features[torch.from_numpy(rows)])


def mapped(features, shape):
    return maps_of._map_layer(MadeStore(features, shape), "layer0", np.arange(len(features)))


def random_features(count, *shape):
    # Of falling variance, so that the first components are distinct.
    values = np.random.default_rng(0).normal(size=(count, *shape)) @ np.diag(
        1.0 / np.arange(1, shape[-1] + 1)
    )
    return (values @ np.random.default_rng(1).normal(size=(shape[-1], shape[-1]))).astype("float32")


def test_components_are_those_of_scikit_learn_over_all_patches():
    features = random_features(3, 1 + 12, 8)
    found = mapped(features, FeatureShape(8, 3, 4, 1))
    patches = StandardScaler().fit_transform(features[:, 1:].reshape(-1, 8).astype(np.float64))
    pca = PCA(3).fit(patches)
    weights = pca.components_
    signs = np.sign(weights[np.arange(3), np.abs(weights).argmax(1)])
    expected = patches @ (weights * signs[:, None]).T
    low, high = np.percentile(expected, (1, 99), axis=0)
    colours = (((expected - low) / (high - low)).clip(0, 1) * 255).reshape(3, 3, 4, 3)
    np.testing.assert_allclose(found.components, colours, atol=1)
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, rtol=1e-4)
    assert found.components.dtype == np.uint8


def test_norms_leave_out_the_class_token():
    features = random_features(2, 1 + 6, 4)
    features[:, 0] = 1e6
    found = mapped(features, FeatureShape(4, 2, 3, 1))
    expected = np.linalg.norm(features[:, 1:], axis=2).reshape(2, 2, 3)
    np.testing.assert_allclose(found.norms, expected, rtol=1e-5)


def test_a_grid_of_channels_gives_the_maps_of_the_same_tokens():
    tokens = random_features(2, 6, 4)
    grid = np.ascontiguousarray(tokens.transpose(0, 2, 1).reshape(2, 4, 2, 3))
    one, other = mapped(tokens, FeatureShape(4, 2, 3, 0)), mapped(grid, FeatureShape(4, 2, 3))
    np.testing.assert_array_equal(one.components, other.components)
    np.testing.assert_array_equal(one.norms, other.norms)


def test_a_massive_activation_is_found_and_marked():
    features = random_features(4, 16, 6)
    features[2, 5, 3] = 5000 * float(np.median(np.abs(features)))
    found = mapped(features, FeatureShape(6, 4, 4, 0))
    assert (found.massive, found.massive_channels) == (1, (3,))
    assert np.argwhere(found.outliers).tolist() == [[2, 1, 1]]
    assert found.peaks.argmax() == 2 * 16 + 5 and found.peaks.max() > 1000
    colours = coloured_maps(found, PEAKS)
    assert tuple(colours[2, 1, 1]) == OUTLIER_COLOUR
    assert (colours == OUTLIER_COLOUR).all(axis=-1).sum() == 1


def test_large_features_without_a_peak_are_not_massive():
    found = mapped(1000 * random_features(4, 16, 6), FeatureShape(6, 4, 4, 0))
    assert (found.massive, found.massive_channels) == (0, ())


def test_a_constant_layer_of_two_channels_has_maps():
    found = mapped(np.zeros((2, 4, 2), np.float32), FeatureShape(2, 2, 2, 0))
    assert np.isfinite(found.explained).all() and not found.outliers.any()
    assert len(np.unique(found.components)) == 1


def test_the_same_store_gives_the_same_maps(tiny_store):
    one, other = (feature_maps(tiny_store, images=3) for _ in range(2))
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        np.testing.assert_array_equal(mine.components, theirs.components)
    assert [layer.layer for layer in one.layers] == list(tiny_store.layers)
    np.testing.assert_array_equal(one.images, tiny_store.read_thumbnails(one.rows))
    np.testing.assert_array_equal(one.masks, tiny_store.read_targets(one.rows))


@pytest.mark.slow
def test_int8_gives_nearly_the_maps_of_float16(store_in):
    exact, coarse = (feature_maps(store_in(d), images=4) for d in ("float16", "int8"))
    for mine, theirs in zip(exact.layers, coarse.layers, strict=True):
        np.testing.assert_allclose(mine.norms, theirs.norms, rtol=0.05)


def test_a_run_maps_the_stores_features(tiny_store, tiny_run):
    found = feature_maps(tiny_store, layers=["layer1"], images=3, runs=[tiny_run], device="cpu")
    features = tiny_store.read_layer("layer1", found.rows).decoded()
    with torch.inference_mode():
        expected = probability_maps(Run(tiny_run).decoder()(features), 128, 128)
    (prediction,) = found.predictions.values()
    np.testing.assert_allclose(prediction, expected, atol=1e-6)


def test_a_run_on_other_features_is_refused(tiled_store, tiny_run):
    with pytest.raises(IdentityMismatchError, match="tiles differs: the run"):
        feature_maps(tiled_store, images=1, runs=[tiny_run])


def test_images_are_spread_over_generators(mixed_store):
    def generators(count):
        rows = choose_rows(mixed_store, count)
        assert len(set(rows.tolist())) == len(rows)
        return mixed_store.samples.take(rows).strings("generator")

    assert generators(3) == ["lama", "ldm", "real"]
    assert generators(8) == ["lama"] * 3 + ["ldm"] * 3 + ["real"] * 2
    assert len(generators(10_000)) == len(mixed_store)


def test_tiles_with_a_fake_pixel_come_first_and_an_image_stands_for_its_tiles(tiled_store):
    rows = choose_rows(tiled_store, 4)
    assert (tiled_store.read_targets(rows) > 127).any(axis=(1, 2)).all()
    tile = tiled_store.samples[int(rows[0])].id
    assert tiled_store.samples.take(choose_rows(tiled_store, [tile])).ids == [tile]
    image = tile.rpartition("@")[0]
    own = tiled_store.samples.take(choose_rows(tiled_store, [image])).ids
    assert own == [name for name in tiled_store.samples.ids if name.startswith(f"{image}@")]
    assert len(own) > 1
    found = feature_maps(tiled_store, images=[image])
    assert found.ids == tuple(own)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": 0}, InputError, "`images` is 0; expected at least 1, or names of images"),
        (
            {"images": ["nowhere"]},
            InputError,
            "has no image 'nowhere'; its ids are such as images/test/p0011, images/test/p0012, ",
        ),
        (
            {"images": []},
            InputError,
            "no image was chosen; expected their number, or names of some",
        ),
        ({"layers": ["layer9"]}, UnknownNameError, "'layer9'"),
    ],
)
def test_what_is_not_there_is_refused(tiny_store, options, error, message):
    with pytest.raises(error) as caught:
        feature_maps(tiny_store, **options)
    assert message in str(caught.value)
