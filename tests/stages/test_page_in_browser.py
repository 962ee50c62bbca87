"""The page of `declip-pipe app` in a browser: images in, results out, nothing kept."""

import base64
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect
from support.browser import overflow, tab
from support.made_dataset import forged_picture
from support.running_page import running_page

from declip_pipeline.prediction.analysis import Analyzer
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run
from stages.page import texts

pytestmark = pytest.mark.slow

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()

LINEAR = Recipe("linear", epochs=3, batch_size=4, learning_rate=0.01, initialization="pytorch")


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Wait as long as a busy machine needs to start a page, and to compute."""
    expect.set_options(timeout=60_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture(scope="module")
def runs(mixed_store, tiled_store, tmp_path_factory):
    """A run that was validated on real images, and one on tiles."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        train_run(
            TrainingData([store], device=torch.device("cpu")), folder, layer="layer1", recipe=recipe
        )
        for store, recipe in (
            (mixed_store, replace(LINEAR, with_real=0.3)),
            (tiled_store, LINEAR),
        )
    ]


@pytest.fixture(scope="module")
def served(runs, tmp_path_factory):
    """The page of both runs, which takes files of 1 MB."""
    folder = tmp_path_factory.mktemp("page")
    paths = [run.path for run in runs]
    with running_page(folder, *paths, "--device", "cpu", "--max-megabytes", 1) as page:
        yield page


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "holiday.png"
    Image.fromarray(forged_picture(5, 150, 210)[0]).save(path)
    return path


@pytest.fixture(scope="module")
def found(runs, photo):
    """What the library finds in the photo."""
    return Analyzer(runs, device="cpu")(photo, photo.name)


def open_page(one, served):
    """Open the page in a tab, which waits as long as a busy machine needs."""
    one.page.set_default_timeout(60_000)
    one.page.goto(served.url)
    expect(one.page.locator("#upload input[type=file]")).to_be_attached()
    return one


@pytest.fixture
def opened(browser, served):
    """The page in an empty tab."""
    with tab(browser, offline=False) as one:
        yield open_page(one, served)


def verdicts_of(page):
    return page.locator(".card.run .verdict").all_inner_texts()


def expect_results(page, found, threshold=0.5):
    expected = [texts.verdict(one, threshold) for one in found.findings]
    expect(page.locator(".card.run .verdict")).to_have_text(expected)
    rates = [texts.rate(one, threshold) for one in found.findings]
    expect(page.locator(".card.run .rate")).to_have_text(rates)
    assert page.evaluate("[...document.querySelectorAll('.card img')].every(i => i.naturalWidth)")


def transfer_of(page, path):
    """A file as the browser hands it to a drop or a paste."""
    content = base64.b64encode(path.read_bytes()).decode()
    return page.evaluate_handle(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const files = new DataTransfer();
            files.items.add(new File([bytes], name, { type: "image/png" }));
            return files;
        }""",
        [path.name, content],
    )


def test_an_image_is_chosen_by_click(opened, served, found, photo):
    page = opened.page
    with page.expect_file_chooser() as chooser:
        page.locator("#upload button").first.click()
    chooser.value.set_files(photo)
    expect_results(page, found)
    expect(page.locator(".results .file")).to_contain_text("holiday.png")
    expect(page.locator(".results .file")).to_contain_text("210 x 150 pixels")
    assert opened.asked_elsewhere == [] and opened.errors == []
    assert not any(path.name == photo.name for path in served.kept), "an upload is removed"


def test_an_image_is_dropped(opened, found, photo):
    files = transfer_of(opened.page, photo)
    opened.page.locator("#upload button").first.dispatch_event("drop", {"dataTransfer": files})
    expect_results(opened.page, found)


def test_an_image_is_pasted_anywhere_and_another_one_after_it(opened, photo, tmp_path):
    page, other = opened.page, tmp_path / "other.png"
    Image.fromarray(forged_picture(6, 60, 80)[0]).save(other)
    for path in (photo, other):
        # As long as nothing takes the paste, the event's default is not prevented.
        page.wait_for_function(
            "(files) => !document.body.dispatchEvent(new ClipboardEvent('paste',"
            " { clipboardData: files, bubbles: true, cancelable: true }))",
            arg=transfer_of(page, path),
        )
        expect(page.locator(".results .file")).to_contain_text(path.name)
        expect(page.locator(".card.run")).to_have_count(2)


def test_the_threshold_moves_without_another_forward(opened, served, found, photo):
    page = opened.page
    page.locator("#upload input[type=file]").set_input_files(photo)
    expect_results(page, found)
    # The image is gone: only what was computed can give these results.
    assert not any(path.name == photo.name for path in served.kept)
    shown = found.findings[0].maps.full
    for threshold in np.quantile(shown, [0.2, 0.9]).round(2).tolist():
        page.locator("#threshold input[type=number]").fill(str(threshold))
        page.locator("#threshold input[type=number]").press("Tab")
        expect_results(page, found, threshold)
    assert len(set(verdicts_of(page))) >= 1
    for view in ("Mask", "Map", "Overlay"):
        page.get_by_label(view, exact=True).check()
        expect(page.locator(".card.run img").first).to_have_attribute(
            "alt", re.compile(f"^{view.lower()} of ")
        )


def test_all_results_are_downloaded(opened, served, found, photo, runs):
    page = opened.page
    button = page.locator("#download")
    expect(button).to_be_disabled()
    page.locator("#upload input[type=file]").set_input_files(photo)
    expect_results(page, found)
    with page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == "holiday.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        names = set(archive.namelist())
        assert names == {
            f"{run.name}/{name}"
            for run in runs
            for name in (
                *("holiday_mask.png", "holiday_map.npz", "holiday_overlay.jpg"),
                "predictions.csv",
            )
        }
        with Image.open(io.BytesIO(archive.read(f"{runs[0].name}/holiday_mask.png"))) as mask:
            expected = found.findings[0].maps.full > 0.5
            np.testing.assert_array_equal(np.asarray(mask) > 0, expected)


@pytest.fixture
def bad_files(tmp_path):
    """Files that cannot be used, with what is said of them."""
    text = tmp_path / "claims.png"
    text.write_text("not an image at all\n")
    wide = tmp_path / "wide.png"
    Image.fromarray(np.zeros((20, 20_000), np.uint8)).save(wide)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    bomb = tmp_path / "bomb.png"
    Image.fromarray(np.zeros((15_000, 15_000), np.uint8)).save(bomb)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    reader = "is not an image PIL can read; one of PNG, "
    return {
        text: f"claims.png {reader}",
        wide: "wide.png 20000x20 pixels; at most 16384 a side can be shown",
        packed: f"packed.zip {reader}",
        bomb: "bomb.png 15000x15000 pixels = 225 megapixels; at most 50 megapixels are read",
        empty: "empty.jpg empty file, zero bytes; an image was expected",
    }


def test_a_bad_upload_gets_a_sentence_and_nothing_else(opened, served, bad_files, found, photo):
    page = opened.page
    for path, said in bad_files.items():
        page.locator("#upload input[type=file]").set_input_files(path)
        expect(page.locator(".refusal")).to_contain_text(said)
        expect(page.locator(".card")).to_have_count(0)
        expect(page.locator("#download")).to_be_disabled()
    page.locator("#upload input[type=file]").set_input_files(photo)
    expect_results(page, found)
    assert not {path.name for path in served.kept} & {path.name for path in bad_files}


def test_a_file_of_too_many_bytes_gets_a_sentence(opened, served, tmp_path, found, photo):
    page = opened.page
    large = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(large)
    assert large.stat().st_size > 1_000_000
    page.locator("#upload input[type=file]").set_input_files(large)
    expect(page.get_by_test_id("toast-body")).to_contain_text("maximum allowed size")
    page.get_by_test_id("toast-close").click()
    page.locator("#upload input[type=file]").set_input_files(photo)
    expect_results(page, found)


def test_two_at_once_get_their_own_results(browser, served, runs, tmp_path):
    analyzer = Analyzer(runs, device="cpu")
    with ExitStack() as tabs:
        waiting = []
        for number, size in ((1, (120, 90)), (2, (300, 260))):
            path = tmp_path / f"image{number}.png"
            Image.fromarray(forged_picture(number, *size)[0]).save(path)
            one = open_page(tabs.enter_context(tab(browser, offline=False)), served)
            waiting.append((one.page, path))
        for page, path in waiting:
            page.locator("#upload input[type=file]").set_input_files(path)
        for page, path in waiting:
            expect_results(page, analyzer(path, path.name))
            expect(page.locator(".results .file")).to_contain_text(path.name)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(browser, served, photo, found, dark):
    with tab(browser, width=390, height=844, dark=dark, offline=False) as one:
        open_page(one, served)
        one.page.locator("#upload input[type=file]").set_input_files(photo)
        expect_results(one.page, found)
        assert overflow(one.page) == 0


def test_programs_call_the_example_of_the_guide(served, found, photo):
    (example,) = re.findall(r"```python\n(from gradio_client.*?)```", GUIDE, re.DOTALL)
    code = example.replace("http://127.0.0.1:7860", served.url).replace(
        "suspicious.jpg", str(photo)
    )
    assert code.count(served.url) == code.count(str(photo)) == 1
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json\nprint(json.dumps([found, archive]))"],
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, last = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [one.run.name for one in found.findings]
    answer, archive = json.loads(last)
    assert (answer["image"], answer["height"], answer["width"]) == ("holiday.png", 150, 210)
    for one, own in zip(answer["runs"], found.findings, strict=True):
        assert one["run"] == own.run.name
        assert one["score"] == pytest.approx(own.maps.score, abs=1e-6)
        assert one["fake_share"] == own.fake_share(0.5)
        assert one["verdict"] == texts.verdict(own, 0.5)
    assert len(zipfile.ZipFile(archive).namelist()) == 8


def test_a_program_gets_a_sentence_for_a_bad_image_and_no_file_of_the_machine(served, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(served.url, verbose=False)
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    with pytest.raises(AppError, match="bad.png: is not an image PIL can read"):
        client.predict(handle_file(bad), 0.5, api_name="/predict")
    theirs = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises((AppError, ValueError)):
        client.predict(theirs, 0.5, api_name="/predict")


def test_a_program_cannot_make_the_page_download_anything(served):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    there = {"path": f"{served.url}theme.css", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match="an address was given, expected a file"):
        Client(served.url, verbose=False).predict(there, 0.5, api_name="/predict")


def test_nothing_is_left_when_it_ends(runs, photo, browser, tmp_path):
    with running_page(tmp_path, runs[0].path, "--device", "cpu") as page:
        with tab(browser, offline=False) as one:
            open_page(one, page)
            one.page.locator("#upload input[type=file]").set_input_files(photo)
            expect(one.page.locator(".card.run")).to_have_count(1)
            with one.page.expect_download():
                one.page.locator("#download").click()
        content = photo.read_bytes()
        assert all(path.read_bytes() != content for path in page.kept)
        code, said = page.close()
    assert code == 0 and said.splitlines()[-1] == "the page is closed"
    assert "Traceback" not in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not list(tmp_path.glob("declip-pipe*"))
