"""The whole page: what it says, and that names are text and nothing else is asked for."""

import base64
import hashlib
import html
import re
import shutil

import pytest
import torch
from support.made_dataset import write_mixed_dataset

from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.reports.page.report import ReportContent, write_html_report
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
