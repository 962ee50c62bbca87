"""`declip-pipe cache show`: the page and the figure, and what it refuses."""

import re

import pytest
from PIL import Image
from support.browser import overflow, tab

FILES = ("features.html", "features.png")


@pytest.fixture
def shown(program, mixed_store, tmp_path):
    """The page of a store with masks, two layers and three images."""
    outcome = program(
        "cache", "show", mixed_store.location, "--images", 3, "-o", tmp_path / "features.html"
    )
    assert outcome.code == 0, outcome
    assert outcome.out.split() == [str(tmp_path / "features.png"), str(tmp_path / "features.html")]
    return tmp_path / "features.html"


def test_the_page_and_the_figure_hold_every_layer_and_image(shown, mixed_store):
    page = shown.read_text()
    assert page.count('<td class="map">') == 3 * 2 * 3, "kinds, layers, images"
    for name in (*mixed_store.layers, mixed_store.identity.sha256):
        assert name in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page) and "<script" not in page
    with Image.open(shown.with_suffix(".png")) as figure:
        assert figure.format == "PNG" and figure.height > figure.width > 500
    assert sorted(path.name for path in shown.parent.iterdir()) == list(FILES)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser(shown, browser, width):
    with tab(browser, width=width) as opened:
        page = opened.page
        page.goto(shown.as_uri())
        assert page.locator("section:visible").count() == 1
        for kind in ("Norms", "Massive activations", "Principal components"):
            page.get_by_text(kind, exact=True).first.click()
            assert page.locator("section:visible").get_attribute("aria-label") == kind
        broken = "[...document.images].filter(i => !i.naturalWidth).length"
        assert page.evaluate(broken) == 0
        assert overflow(page) == 0
        assert opened.asked_elsewhere == [] and opened.errors == []


def test_a_run_is_shown_beside_the_layers(program, tiny_store, tiny_run, tmp_path):
    page = tmp_path / "own.html"
    chosen = (
        "--layers",
        "1-2",
        "--images",
        "images/test/p0011,images/test/p0012",
        "--run",
        tiny_run,
    )
    outcome = program("cache", "show", tiny_store.location, *chosen, "-o", page)
    assert outcome.code == 0, outcome
    text = page.read_text()
    assert text.count("map of ") == 3 * 2 and "layer3" not in text
    assert "p0011" in text and "p0013" not in text


def test_what_is_there_stays_unless_overwritten(program, refused, mixed_store, tmp_path):
    page = tmp_path / "features.html"
    page.write_text("mine")
    command = ("cache", "show", mixed_store.location, "--images", 1, "-o", page)
    assert refused(*command, code=1) == (
        f"{page} is there; name another file with -o, or replace it with --overwrite"
    )
    assert page.read_text() == "mine" and not page.with_suffix(".png").exists()
    assert program(*command, "--overwrite").code == 0
    assert page.read_text() != "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "features.pdf"), "-o features.pdf; expected a file that ends in .html"),
        (("--images", "0"), "-i is 0; expected at least 1, or names of images"),
        (("--images", "a,a"), "'a' is given twice in 'a,a'; give each once"),
        (("--layers", "9"), "unknown layer 'layer9'"),
        (("--device", "cpu"), "--device is for the maps of a run; add --run, or leave it out"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_line(
    refused, mixed_store, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    assert refused("cache", "show", mixed_store.location, *options).startswith(message)
    assert list(tmp_path.iterdir()) == []
