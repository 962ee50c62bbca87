"""Size of a report, how fast Chromium opens it, and what its charts would take otherwise.

python benchmarks/report_page.py [--part page|charts] [--images 200] [--rounds 5]

A small demo set is forged, extracted and learned, so images and maps are real ones. Opened from the
disk, with the network off. "ready" is when every image is decoded and drawn.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from reporting import report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import chromium, tab  # noqa: E402

from declip_pipeline.datasets.demo.build import build_demo_set  # noqa: E402
from declip_pipeline.evaluation.cells import Estimate  # noqa: E402
from declip_pipeline.evaluation.evaluate import evaluate  # noqa: E402
from declip_pipeline.evaluation.evaluation import Evaluation  # noqa: E402
from declip_pipeline.evaluation.table import Table  # noqa: E402
from declip_pipeline.extraction.extract import extract  # noqa: E402
from declip_pipeline.metrics.bootstrap import Interval  # noqa: E402
from declip_pipeline.reports.domain_figure import draw_domains  # noqa: E402
from declip_pipeline.reports.figure_file import FigureStyle  # noqa: E402
from declip_pipeline.reports.page.charts import percent_chart  # noqa: E402
from declip_pipeline.reports.page.report import ReportContent, write_html_report  # noqa: E402
from declip_pipeline.training.runs import train  # noqa: E402

WIDTHS = (1280, 390)

READY = """async () => {
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
  const ready = performance.now();
  const [navigation] = performance.getEntriesByType("navigation");
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {
    "first paint": paint ? paint.startTime : NaN, loaded: navigation.loadEventEnd, ready,
    images: document.images.length,
  };
}"""

LAYERS = [f"layer{number}" for number in range(24)]
LINES = {
    name: [(40.0 + number + 3 * place, 35.0 + number, 50.0 + number) for number in range(24)]
    for place, name in enumerate(("linear, ID", "linear, OOD", "conv-4, ID", "conv-4, OOD"))
}


def evaluations_of(folder: Path, images: int) -> list[Evaluation]:
    """Forge, extract, train and evaluate as little as fills a report."""
    # A fifth of a gallery is real images, and each photograph is forged in four ways.
    count = max(4, -(-images // 4))
    build_demo_set(folder / "data", seed=0, train_count=16, valid_count=4, test_count=count)
    store = extract(
        folder / "data", "efficientnet-lite0", layers=["layer3", "layer4"], cache=folder / "cache"
    )
    found = []
    for layer in ("layer3", "layer4"):
        for generator in store.generators:
            run = train(
                store,
                layer=layer,
                decoder="conv-4",
                widths=(32, 16, 16, 16),
                train_on=[generator],
                epochs=4,
                batch_size=8,
                learning_rate=5e-3,
                runs=folder / "runs",
            )
            found.append(evaluate(run, store, split="test"))
    return found


def opening_times(page: Path, width: int, rounds: int) -> dict[str, float]:
    """Return medians of milliseconds, of a window that has opened nothing before."""
    found = []
    for _ in range(rounds):
        with chromium() as browser, tab(browser, width=width) as one:
            one.page.set_default_navigation_timeout(120_000)
            one.page.goto(page.as_uri(), wait_until="load")
            found.append(one.page.evaluate(READY))
            assert not one.errors and not one.asked_elsewhere
    return {name: median(one[name] for one in found) for name in found[0]}


def page_rows(folder: Path, images: int, rounds: int) -> list[dict[str, object]]:
    """Return a row for each width of a window."""
    evaluations = evaluations_of(folder, images)
    file = folder / "report.html"
    started = time.perf_counter()
    write_html_report(file, evaluations, ReportContent("Report", images=images))
    seconds = time.perf_counter() - started
    rows = []
    for width in WIDTHS:
        times = opening_times(file, width, rounds)
        rows.append(
            {
                "images": int(times["images"]) // 3,
                "window": width,
                "MB": file.stat().st_size / 1e6,
                "first paint ms": times["first paint"],
                "loaded ms": times["loaded"],
                "ready ms": times["ready"],
                "written in s": seconds,
            }
        )
    return rows


def by_template() -> str:
    """Return a page with a chart, as the report draws it."""
    from declip_pipeline.reports.page.report import _environment
    from declip_pipeline.reports.page.sections import Curve
    from declip_pipeline.reports.page.tables import PageTable

    template = _environment().from_string(
        '{% from "parts.html.j2" import curve %}'
        '<!DOCTYPE html><meta charset="utf-8">{{ curve(one) }}'
    )
    chart = percent_chart("IoU by layer", "layer", LAYERS, LINES)
    return template.render(one=Curve("IoU by layer", [chart], PageTable("t", "", [], [])))


def by_matplotlib(folder: Path) -> str:
    """Return a page with the SVG that Matplotlib writes; its points say nothing on hover."""
    cells = {
        (layer, name): Estimate(value, Interval(low, high))
        for name, points in LINES.items()
        for layer, (value, low, high) in zip(LAYERS, points, strict=True)
    }
    table = Table("layer", tuple(LAYERS), tuple(LINES), cells)
    style = FigureStyle("svg")
    path = draw_domains(table, folder / "curve.png", "t", "IoU", connected=True, style=style)
    svg = path.read_text().partition("?>")[2].partition(">")[2]
    return f'<!DOCTYPE html><meta charset="utf-8">{svg}'


def by_plotly() -> str:
    """Return a page with Plotly's script inside, which draws the chart."""
    import plotly.graph_objects as go  # type: ignore[import-not-found]

    figure = go.Figure(
        [
            go.Scatter(
                x=LAYERS,
                y=[value for value, *_ in points],
                name=name,
                error_y={
                    "array": [high - value for value, _, high in points],
                    "arrayminus": [value - low for value, low, _ in points],
                },
            )
            for name, points in LINES.items()
        ]
    )
    page: str = figure.to_html(include_plotlyjs=True)
    return page


def by_altair() -> str:
    """Return a page with Vega's scripts inside, which draw the chart."""
    import altair  # type: ignore[import-not-found]

    rows = [
        {"layer": layer, "IoU": point[0], "name": name}
        for name, points in LINES.items()
        for layer, point in zip(LAYERS, points, strict=True)
    ]
    chart = altair.Chart(altair.Data(values=rows)).mark_line(point=True)
    encoded = chart.encode(x=altair.X("layer:O", sort=LAYERS), y="IoU:Q", color="name:N")
    page: str = encoded.to_html(inline=True)
    return page


def chart_rows(folder: Path, rounds: int) -> list[dict[str, object]]:
    """Return a row for each way to draw one chart; those that are not installed are left out."""
    ways: dict[str, tuple[str | None, Callable[[], str]]] = {
        "the report's template, SVG": (None, by_template),
        "Matplotlib, SVG": (None, lambda: by_matplotlib(folder)),
        "Plotly": ("plotly", by_plotly),
        "Vega, by Altair": ("altair", by_altair),
    }
    rows = []
    for name, (module, make) in ways.items():
        if module and importlib.util.find_spec(module) is None:
            print(f"{name}: {module} is not installed")
            continue
        started = time.perf_counter()
        content = make()
        seconds = time.perf_counter() - started
        file = folder / "chart.html"
        file.write_text(content)
        times = opening_times(file, WIDTHS[0], rounds)
        rows.append(
            {
                "drawn by": name,
                "MB": file.stat().st_size / 1e6,
                "first paint ms": times["first paint"],
                "loaded ms": times["loaded"],
                "ready ms": times["ready"],
                "written in s": seconds,
            }
        )
    return rows


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["page", "charts"], default="page")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if asked.part == "page":
            rows = page_rows(place, asked.images, asked.rounds)
        else:
            rows = chart_rows(place, asked.rounds)
    report(f"report_{asked.part}", rows, vars(asked))


if __name__ == "__main__":
    main()
