"""Identities name what differs, and paths follow them."""

from dataclasses import replace
from pathlib import Path

import pytest

from declip_pipeline.errors import IdentityMismatchError
from declip_pipeline.features import FeatureShape
from declip_pipeline.store.identity import (
    StoreIdentity,
    feature_identity,
    require_same_features,
    store_location,
)

IDENTITY = StoreIdentity(
    backbone="CLIP:ViT-L/14",
    weights_sha256="a" * 64,
    preprocessing={"height": 224, "width": 224},
    view="clean",
    layers=("layer8", "layer20"),
    dtype="float16",
    manifest_sha256="b" * 64,
    format_version=1,
)


def test_every_field_changes_the_identity():
    changed = [
        replace(IDENTITY, backbone="CLIP:RN50"),
        replace(IDENTITY, weights_sha256="c" * 64),
        replace(IDENTITY, preprocessing={"height": 336, "width": 336}),
        replace(IDENTITY, view="jpeg-70"),
        replace(IDENTITY, layers=("layer20",)),
        replace(IDENTITY, dtype="float32"),
        replace(IDENTITY, manifest_sha256="d" * 64),
        replace(IDENTITY, format_version=2),
    ]
    assert len({identity.sha256 for identity in [IDENTITY, *changed]}) == 9
    assert StoreIdentity.from_json(IDENTITY.to_json()) == IDENTITY


def test_a_store_lies_under_dataset_and_backbone():
    path = store_location(Path("cache"), "celebahq", IDENTITY)
    folder = f"clean-float16-{IDENTITY.sha256[:16]}"
    assert path == f"cache/celebahq/CLIP-ViT-L-14/{folder}"


def features(**changes):
    return (
        feature_identity("CLIP:ViT-L/14", "a" * 64, {}, "layer20", FeatureShape(8, 2, 2)) | changes
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("backbone", "RN50"), ("weights_sha256", "b" * 64), ("layer", "layer3"), ("preprocessing", 1)],
)
def test_the_field_that_differs_is_named(field, value):
    with pytest.raises(IdentityMismatchError, match=f"^{field} differs: the run was trained on"):
        require_same_features(
            features(), features(**{field: value}), decoder="the run", features="the store"
        )


def test_the_same_features_pass():
    require_same_features(features(), features(), decoder="the run", features="the store")
