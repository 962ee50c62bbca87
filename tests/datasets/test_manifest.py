from dataclasses import replace
from pathlib import Path

import pytest

from declip_pipeline.datasets.manifest import Manifest, Sample
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.files import sha256_of_bytes
from declip_pipeline.store.identity import manifest_sha256


def fake(sample_id: str, split: str = "train", generator: str = "ldm") -> Sample:
    image, mask = f"images/{sample_id}.png", f"masks/{sample_id}.png"
    return Sample(sample_id, image, mask, split, generator, 1, "celebahq")


def real(sample_id: str, split: str = "train") -> Sample:
    return Sample(sample_id, f"real/{sample_id}.png", None, split, "real", 0, "celebahq")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    samples = (fake("b", "test", "lama"), real("c"), fake("a"))
    manifest = Manifest("dolos", tmp_path, False, samples, ("masks/z.png",))
    for sample in samples:
        for path in (sample.image, sample.mask):
            if path:
                (tmp_path / path).parent.mkdir(exist_ok=True)
                (tmp_path / path).write_text(path)
    return manifest


def test_sorts_samples_and_names(manifest: Manifest) -> None:
    assert [sample.id for sample in manifest.samples] == ["a", "b", "c"]
    assert manifest.splits == ("test", "train")
    assert manifest.generators == ("lama", "ldm", "real")


def test_selects_by_split_and_generator(manifest: Manifest) -> None:
    assert manifest.select() == manifest
    assert [s.id for s in manifest.select(splits=["train"]).samples] == ["a", "c"]
    assert [s.id for s in manifest.select(["train"], ["ldm", "lama"]).samples] == ["a"]
    with pytest.raises(InputError) as caught:
        manifest.select(["test"], ["real", "ldm"])
    assert str(caught.value) == (
        "no picture of generator ldm, real is in split test; test has lama; train has ldm, real"
    )


def test_selecting_an_unknown_name_lists_the_existing_ones(manifest: Manifest) -> None:
    with pytest.raises(UnknownNameError) as caught:
        manifest.select(splits=["valid"])
    assert str(caught.value) == "unknown split 'valid'; known: test, train"
    with pytest.raises(UnknownNameError) as caught:
        manifest.select(generators=["ldm", "lam"])
    message = "unknown generator 'lam'; did you mean 'lama'? known: lama, ldm, real"
    assert str(caught.value) == message


def test_json_holds_all_but_the_root(manifest: Manifest, tmp_path: Path) -> None:
    value = manifest.to_json()
    assert list(value) == ["name", "fake_is_white", "samples", "unpaired"]
    assert value["samples"][2] == {
        "id": "c",
        "image": "real/c.png",
        "mask": None,
        "split": "train",
        "generator": "real",
        "label": 0,
        "source": "celebahq",
    }
    assert str(tmp_path) not in str(value)
    assert Manifest.from_json(value, tmp_path) == manifest


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    twin = replace(fake("a"), image="images/other.png")
    with pytest.raises(InputError) as caught:
        Manifest("x", tmp_path, True, (fake("a"), twin))
    assert str(caught.value) == (
        "two samples have the id a (images/a.png and images/other.png); "
        "give each picture its own name"
    )


def test_label_and_mask_must_agree() -> None:
    with pytest.raises(InputError, match="sample a: a fake has a mask, and a real picture has non"):
        replace(fake("a"), mask=None)
    with pytest.raises(InputError, match="a fake has a mask, and a real picture has none"):
        replace(fake("a"), label=0)
    with pytest.raises(InputError, match="sample a has label 2; 1 fake or 0 real expected"):
        replace(fake("a"), label=2)


def test_hashes_every_file_and_reports_progress(manifest: Manifest) -> None:
    calls: list[tuple[int, int]] = []
    hashes = manifest.content_hashes(lambda done, total: calls.append((done, total)))
    paths = ["images/a.png", "images/b.png", "masks/a.png", "masks/b.png", "real/c.png"]
    assert list(hashes) == paths
    assert hashes == {path: sha256_of_bytes(path.encode()) for path in paths}
    assert calls == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_file_that_went_missing_is_named(manifest: Manifest) -> None:
    missing = manifest.root / "masks/a.png"
    missing.unlink()
    with pytest.raises(InputError) as caught:
        manifest.content_hashes()
    assert str(caught.value) == f"{missing} cannot be read: No such file or directory"


def fingerprint(manifest, hashes):
    return manifest_sha256(manifest.fake_is_white, manifest.records(hashes))


def test_fingerprint_depends_on_content_fields_and_polarity_but_not_on_name_or_root(
    manifest: Manifest, tmp_path: Path
) -> None:
    hashes = manifest.content_hashes()
    before = fingerprint(manifest, hashes)
    assert len(before) == 64
    moved = replace(manifest, name="other", root=tmp_path / "elsewhere", unpaired=())
    assert fingerprint(moved, hashes) == before
    assert fingerprint(replace(manifest, fake_is_white=True), hashes) != before
    for path in hashes:
        assert fingerprint(manifest, {**hashes, path: "0" * 64}) != before
    first, *others = manifest.samples
    for changed in (
        replace(first, id="A"),
        replace(first, split="valid"),
        replace(first, generator="lama"),
        replace(first, source="ffhq"),
    ):
        other = replace(manifest, samples=(changed, *others))
        assert fingerprint(other, hashes) != before
