"""The report in a real browser: opened from the disk with the network off, and used."""

import csv
import io

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from support.browser import overflow, tab
from support.made_maps import maps_of, write_maps

from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.files import EVALUATIONS
from declip_pipeline.evaluation.map_folder import MapFolder
from declip_pipeline.evaluation.methods import methods_of
from declip_pipeline.reports.page.report import ReportContent, write_html_report
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run

LONG_NAME = "a method, of which the name says all that it has, of several layers and real images"

ROBUSTNESS = """view,family,strength,generator,images,iou,iou_low,iou_high
clean,,,ldm,4,60.0,50.0,70.0
jpeg:70,jpeg,70.0,ldm,4,40.0,30.0,50.0
jpeg:40,jpeg,40.0,ldm,4,20.0,,
"""


@pytest.fixture(scope="module")
def evaluations(mixed_store, tmp_path_factory):
    """Two runs on each generator alone, on two layers; one has a table of robustness."""
    folder = tmp_path_factory.mktemp("runs")
    data = TrainingData([mixed_store], device=torch.device("cpu"))
    recipe = Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2)
    found = []
    for layer in ("layer1", "layer2"):
        for name in ("ldm", "lama"):
            run = train_run(data, folder, layer=layer, recipe=recipe, train_on=[name])
            found.append(evaluate(run, mixed_store, device="cpu"))
    (place,) = found[0].save(found[0].run / EVALUATIONS)
    (place / "robustness.csv").write_text(ROBUSTNESS)
    return found


@pytest.fixture(scope="module")
def file(evaluations, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    content = ReportContent(
        "A report",
        commands=["declip-pipe evaluate RUN --on STORE"],
        methods={"": methods_of([(LONG_NAME, evaluations)])},
    )
    write_html_report(path, evaluations, content, device="cpu")
    return path


@pytest.fixture
def opened(browser, file):
    with tab(browser) as one:
        one.page.goto(file.as_uri())
        yield one
        assert one.asked_elsewhere == [] and one.errors == []


@pytest.fixture
def page(opened):
    return opened.page


def copied(page, form: str, table: str = "runs") -> str:
    """Return a table as a user would paste it into another program, once it is there."""
    # What is said goes after 2.5 seconds, which a busy machine may take to look.
    page.evaluate("window.setTimeout = () => 0")
    page.locator(f"[data-copy={form.lower()}][data-table={table}]").click()
    expect(page.locator("#said")).to_contain_text(f"Copied the table as {form}", timeout=20_000)
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('textarea'), {id: 'paste'}))"
    )
    page.locator("#paste").focus()
    page.keyboard.press("Control+V")
    return page.locator("#paste").input_value()


def column(page, table, number) -> list[str]:
    cells = page.locator(f"#table-{table} tbody tr > :nth-child({number})")
    return [text.split(" [")[0] for text in cells.all_inner_texts()]


def test_it_opens_without_a_network(opened, file):
    assert opened.requests == [file.as_uri()]
    assert opened.page.title() == "A report"
    for name in (
        "Methods",
        "IoU across generators",
        "IoU by layer",
        "Robustness",
        "Images",
        "Runs",
    ):
        assert opened.page.get_by_role("heading", name=name, exact=True).is_visible()
    broken = opened.page.evaluate("[...document.images].filter((one) => !one.naturalWidth).length")
    assert broken == 0 and opened.page.locator("img").count() >= 3 * 21


def test_a_table_is_sorted_by_mouse_and_by_keyboard(page):
    header = page.locator("#table-runs thead th", has_text="IoU, %")
    before = column(page, "runs", 7)
    # Cards on the way are laid out when they are passed, which moves what is below them.
    header.scroll_into_view_if_needed()
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "descending")
    assert column(page, "runs", 7) == sorted(before, key=float, reverse=True)
    header.get_by_role("button").press("Enter")
    expect(header).to_have_attribute("aria-sort", "ascending")
    assert column(page, "runs", 7) == sorted(before, key=float)
    page.locator("#table-runs thead th", has_text="trained on").get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "none")
    assert column(page, "runs", 3) == sorted(column(page, "runs", 3))


def test_a_table_is_copied_as_csv(page, evaluations):
    names, *rows = csv.reader(io.StringIO(copied(page, "CSV")))
    assert len(rows) == len(evaluations) and {len(row) for row in rows} == {len(names)}
    first = dict(zip(names, rows[0], strict=True))
    figures = evaluations[0].figures()
    mark = "!" if evaluations[0].problem else ""
    assert first["run"] == evaluations[0].run.name + mark
    # Copied whole, whatever is shown.
    assert float(first["IoU, %"]) == figures["iou"]
    assert float(first["IoU, % low"]) == pytest.approx(figures["iou_low"], abs=0.05)


def test_a_table_of_methods_is_copied_with_its_intervals(page, evaluations):
    names, *rows = csv.reader(io.StringIO(copied(page, "CSV", "methods")))
    methods = methods_of([(LONG_NAME, evaluations)])
    assert len(rows) == len(methods) == 2 and {len(row) for row in rows} == {len(names)}
    for row, method in zip(rows, methods, strict=True):
        found = dict(zip(names, row, strict=True))
        assert found["method"] == method.name + method.mark and LONG_NAME in found["method"]
        assert float(found["OOD"]) == method.domains["OOD"].value
        assert float(found["OOD low"]) == pytest.approx(
            method.domains["OOD"].interval.low, abs=0.05
        )
        assert float(found["MMAC"]) == method.cost.macs / 1e6
        assert (found["runs"], found["ID - baseline"]) == ("2", "")


def test_a_table_is_copied_as_latex(page, evaluations):
    text = copied(page, "LaTeX")
    lines = text.strip().splitlines()
    assert lines[1].startswith("\\begin{tabular}{lllr") and lines[-1] == "\\end{tabular}"
    name = evaluations[0].run.name.replace("_", "\\_")
    (line,) = (line for line in lines if line.startswith(name))
    assert " & linear on layer1 of " in line
    assert all(line.endswith("\\\\") for line in lines if "&" in line)
    assert "IoU, \\%" in text and "{\\scriptsize [" in text


def shown(page) -> list[dict[str, str]]:
    return page.evaluate(
        "[...document.querySelectorAll('#cards > .card:not([hidden])')].map((one) => "
        "({...one.dataset}))"
    )


def test_images_are_filtered_and_ordered(page):
    filters = page.locator("#filters")
    everything = shown(page)
    ious = [float(one["iou"]) for one in everything]
    assert len(everything) == 16 and ious == sorted(ious)
    filters.get_by_label("Generator").select_option("ldm")
    assert {one["generator"] for one in shown(page)} == {"ldm"}
    filters.get_by_label("Domain").select_option("OOD")
    assert {one["trained"] for one in shown(page)} == {"lama"}
    assert page.locator("#count").inner_text() == f"{len(shown(page))} of 16 images"
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function("document.getElementById('count').textContent === '16 of 16 images'")
    middle = round(float(np.median(ious)))
    filters.get_by_label("IoU from").fill(str(middle))
    assert len(shown(page)) == sum(round(one) >= middle for one in ious)
    filters.get_by_label("Order").select_option("best")
    assert [float(one["iou"]) for one in shown(page)] == sorted(
        (one for one in ious if round(one) >= middle), reverse=True
    )
    filters.get_by_label("IoU from").fill("101")
    assert shown(page) == [] and page.locator("#count").inner_text() == "0 of 16 images"


def test_the_slider_blends_image_truth_and_map(page):
    slider = page.get_by_role("slider", name="Show")

    def opacities() -> list[float]:
        return page.evaluate(
            "['truth', 'map'].map((name) => Number(getComputedStyle("
            "document.querySelector(`#cards .${name}`)).opacity))"
        )

    def shows(text: str, expected: list[float]) -> None:
        expect(slider).to_have_attribute("aria-valuetext", text)
        assert opacities() == pytest.approx(expected)

    shows("map", [0, 1])
    slider.fill("1")
    shows("truth", [1, 0])
    slider.press("ArrowRight")
    shows("truth, 5% map", [0.95, 0.05])
    slider.press("Home")
    shows("image", [0, 0])


def test_an_image_is_shown_larger_and_the_next_one_by_an_arrow_key(page):
    first, second = (one["id"] for one in shown(page)[:2])
    card = page.locator("#cards > .card").first.get_by_role("button")
    card.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text(first)
    expect(dialog.locator("img")).to_have_count(9)
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_have_text(second)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(card).to_be_focused()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window_in_both_colour_schemes(browser, file, width, dark):
    with tab(browser, width=width, dark=dark) as one:
        one.page.goto(file.as_uri())
        assert overflow(one.page) == 0
        colours = one.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.body).color].map((one) => one.match(/\\d+/g).map(Number))"
        )
        page_is_dark = sum(colours[0]) < sum(colours[1])
        assert page_is_dark is dark


def test_whoever_sees_nothing_is_told_all(page):
    nameless = page.evaluate(
        "[...document.querySelectorAll('button')].filter((one) => "
        "!one.textContent.trim() && !one.getAttribute('aria-label')).length"
    )
    assert nameless == 0
    assert page.evaluate("[...document.images].every((one) => one.hasAttribute('alt'))")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((one) => one.tagName)")
    assert levels[:2] == ["H1", "H2"] and levels.count("H1") == 1
    for role in ("banner", "navigation", "main"):
        assert page.get_by_role(role).count() == 1
    # The first key leads past the navigation.
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the results")


def test_on_paper_are_figures_and_no_controls(page):
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for name in ("#filters", ".blend", "nav", ".tools"):
        assert not page.locator(name).first.is_visible()
    assert page.locator("#table-matrix-1").is_visible()
    assert len(page.pdf()) > 10_000


def test_images_are_filtered_by_what_their_maps_are_of(browser, evaluations, mixed_store, tmp_path):
    folder = write_maps(tmp_path / "maps", maps_of(mixed_store))
    sources = [Ensemble([one.run for one in evaluations[::2]]), MapFolder(folder, "TruFor")]
    others = [evaluate(source, mixed_store, device="cpu") for source in sources]
    path = tmp_path / "report.html"
    write_html_report(path, [evaluations[0], *others], ReportContent("t"), device="cpu")
    for width in (1280, 390):
        with tab(browser, width=width) as one:
            one.page.goto(path.as_uri())
            assert one.errors == [] and overflow(one.page) == 0
            assert len(shown(one.page)) == 24
            filters = one.page.locator("#filters")
            for evaluation in (evaluations[0], *others):
                filters.get_by_label("Maps of").select_option(evaluation.method)
                assert [card["run"] for card in shown(one.page)] == [evaluation.run.name] * 8
            filters.get_by_label("Trained on").select_option("not stated")
            assert len(shown(one.page)) == 8
            one.page.locator("#cards > .card:not([hidden]) button").first.click()
            facts = " ".join(one.page.locator("#large-facts").inner_text().split())
            assert "map of TruFor trained on not stated IoU " in facts and "run" not in facts
            assert one.page.evaluate(
                "[...document.querySelectorAll('.panes .map')].every((one) => one.naturalWidth)"
            )
