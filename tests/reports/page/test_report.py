"""The whole page: what it says, and that names are text and nothing else is asked for."""

import base64
import csv
import hashlib
import html
import re
import shutil

import pytest
import torch
from support.made_dataset import write_mixed_dataset
from support.made_maps import maps_of, write_maps

from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.map_folder import MapFolder
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.reports.page.report import ReportContent, write_html_report
from declip_pipeline.reports.page.sections import heat_matrix, layer_curves, localization_matrices
from declip_pipeline.reports.table_csv import write_table_csv
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def evaluations(tiny_backbone, tmp_path_factory):
    """Runs on two layers, of a dataset with an evil generator, whose files are gone since."""
    folder = tmp_path_factory.mktemp("evil")
    root = write_mixed_dataset(folder / "mixed")
    (root / "made" / "fake" / "lama").rename(root / "made" / "fake" / EVIL.replace("/", "-"))
    extraction = extract_store(
        open_dataset(root), tiny_backbone, layers=["layer1", "layer2"], root=folder / "cache"
    )
    shutil.rmtree(root)
    store = Store(extraction.location)
    data = TrainingData([store], device=torch.device("cpu"))
    recipe = Recipe("linear", epochs=1, batch_size=4, learning_rate=1e-2)
    runs = [train_run(data, folder, layer=name, recipe=recipe) for name in ("layer1", "layer2")]
    return [evaluate(run, store, device="cpu") for run in runs]


@pytest.fixture(scope="module")
def page(evaluations, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    content = ReportContent(
        title=EVIL,
        notes=[f"a note {EVIL}"],
        commands=[f"declip-pipe train {EVIL}"],
        left_out={f"lost {EVIL}": f"because {EVIL}"},
        seconds={f"step {EVIL}": 1.5},
    )
    write_html_report(path, evaluations, content, device="cpu")
    return path.read_text()


def test_names_are_text(page):
    assert EVIL not in page and "<script>alert" not in page
    assert html.escape(EVIL) in page
    for said in ("a note", "declip-pipe train", "lost", "because", "step"):
        assert f"{said} {html.escape(EVIL)}" in page
    assert page.count("<script") == 1


def test_nothing_else_is_asked_for(page):
    addresses = re.findall(r"""(?:src|href|action|xlink:href)\s*=\s*["']([^"']*)""", page)
    assert addresses and all(one.startswith(("#", "data:")) for one in addresses)
    assert "url(" not in page and "@import" not in page


def test_the_policy_allows_its_own_script_alone(page):
    (script,) = re.findall(r"<script>(.*)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in html.unescape(policy)
    assert f"script-src 'sha256-{digest}';" in html.unescape(policy)


def test_every_section_is_there(page):
    for name in ("generators", "layers", "gallery", "false-alarms", "runs", "left-out"):
        assert f'<section id="{name}"' in page
        assert f'href="#{name}"' in page
    # 8 fakes of two runs that learned the same, so of the better one, and 5 real images.
    assert page.count('<li class="card"') == 13
    assert page.count("data:image/webp") == 13


def test_figures_are_those_of_the_evaluations(page, evaluations):
    for one in evaluations:
        figures = one.figures()
        low, high = figures["iou_low"], figures["iou_high"]
        cell = f'data-value="{figures["iou"]!r}" data-low="{low:.1f}" data-high="{high:.1f}"'
        assert cell in page
    assert "2 runs evaluated on 8 fake images of 2 generators" in page
    assert "Of 5 real images, " in page


def test_captions_say_the_protocol_and_all_scores_are_in_percent(page, evaluations, tmp_path):
    text = " ".join(html.unescape(page).split())
    assert "Figures are in percent, means over images with a fake pixel" in text
    assert "F1 (TruFor): leaves out a band" in text
    assert text.count("so it is not 2 IoU / (1 + IoU)") == 2
    figures = evaluations[0].figures()
    for name in ("f1", "auc"):
        assert f'data-value="{100 * figures[name]!r}"' in page
    store = Store(evaluations[0].stores[0].location)
    found = evaluate(evaluations[0].run, store, task="detection", device="cpu")
    write_html_report(tmp_path / "r.html", [found], ReportContent("t"), device="cpu")
    said = (tmp_path / "r.html").read_text()
    assert "Figures are in percent, over all images together" in said
    assert f'data-value="{100 * found.mean("auc")!r}"' in said
    assert f"an AUC of {100 * found.mean('auc'):.1f} and an AP of" in said


def test_maps_without_a_stated_training_are_in_neither_domain(evaluations, tmp_path):
    store = Store(evaluations[0].stores[0].location)
    folder = write_maps(tmp_path / "maps", maps_of(store))
    both = [evaluations[0], evaluate(MapFolder(folder, "TruFor"), store, device="cpu")]
    (matrix,) = localization_matrices(both, {})
    heat = heat_matrix(matrix, "matrix-1")
    place = heat.columns.index("TruFor")
    expected = ["", "ID"] if place == 0 else ["ID", ""]
    assert [[cell.domain for cell in cells] for _, cells in heat.rows] == [expected] * 2
    assert heat.rows[0][1][place].hover.startswith("TruFor, tested on ")
    # Maps are of no layer.
    assert layer_curves(both, {}) == []
    path = write_table_csv(tmp_path / "matrix.png", matrix.table, matrix.domain)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert {(row["column"] == "TruFor", row["domain"]) for row in rows} == {
        (True, ""),
        (False, "ID"),
    }
    write_html_report(tmp_path / "r.html", both, ReportContent("t"), device="cpu")
    said = (tmp_path / "r.html").read_text()
    assert "<option>TruFor</option>" in said and said.count('data-method="TruFor"') == 13
    assert said.count("training not stated") == 13
    assert 'id="layers"' not in said


def test_a_report_says_what_is_gone(evaluations, tmp_path):
    location, kept = evaluations[0].stores[0].location, tmp_path / "kept"
    shutil.copytree(location, kept)
    gone = tmp_path / "gone"
    shutil.copytree(evaluations[1].run, gone)
    folder = write_maps(tmp_path / "maps", maps_of(Store(location)))
    found = [
        evaluate(source, kept, device="cpu")
        for source in (evaluations[0].run, gone, MapFolder(folder, "TruFor"))
    ]
    shutil.rmtree(gone)
    shutil.rmtree(folder)
    write_html_report(tmp_path / "r.html", found, ReportContent("t"), device="cpu")
    said = html.unescape((tmp_path / "r.html").read_text())
    about = "Maps are missing of"
    assert f"{about} TruFor: {folder} is no folder; expected one of maps." in said
    assert f"{about} gone: {gone} is not a run; expected a folder that " in said
    assert said.count('<li class="card"') == 13
    # Their figures were computed before.
    for one in found:
        assert f'data-value="{one.figures()["iou"]!r}"' in said
    shutil.rmtree(kept)
    write_html_report(tmp_path / "r.html", found[:1], ReportContent("t"), device="cpu")
    said = html.unescape((tmp_path / "r.html").read_text())
    assert "A store is not described: " in said and '<section id="gallery"' in said
    assert '<li class="card"' not in said and 'id="filters"' not in said


def test_the_same_report_is_the_same_file(evaluations, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    for name in ("one.html", "two.html"):
        write_html_report(tmp_path / name, evaluations, ReportContent("t", images=3), device="cpu")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.html", "two.html"))
    assert one == two and b"1970-01-02" in one
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.html", "two.html"]


def test_no_evaluation_and_a_folder_are_refused(evaluations, tmp_path):
    with pytest.raises(InputError, match="a report of no evaluation"):
        write_html_report(tmp_path / "r.html", [], ReportContent("t"))
    with pytest.raises(InputError, match="is a folder; expected the name of the HTML file"):
        write_html_report(tmp_path, evaluations, ReportContent("t"))
