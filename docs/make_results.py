"""Write docs/results.md and the tables of measurements in the other documents.

python docs/make_results.py [--check]

All figures come from benchmarks/results. In a document they stand between `<!-- result: NAME -->`
and `<!-- end of result -->`, where NAME is a key of `TABLES`. With `--check` nothing is written,
and the exit code is 1 where a document is not up to date.
"""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "cache" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"(<!-- result: (\w+) -->\n).*?(<!-- end of result -->)", re.DOTALL)

Row = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """A file of results: its title, the command that writes it, and what it says."""

    title: str
    command: str
    about: str


MEASUREMENTS = {
    "store": Measurement(
        "Reading and writing a store",
        "python benchmarks/store.py",
        "Shapes of one layer of ViT-L/14 in float16, contestants in turns, medians.",
    ),
    "store_breakdown": Measurement(
        "What each check of a store costs",
        "python benchmarks/store.py --breakdown",
        "One shard, CPU time of the thread that works, the best and the median of all turns.",
    ),
    "report_page": Measurement(
        "A report in the browser",
        "python benchmarks/report_page.py",
        "A report of a small demo set, opened from the disk by a Chromium that has just started, "
        "medians. Ready is when every image is decoded and drawn. The time of writing has the maps "
        "in it, which the decoders compute from the store.",
    ),
    "report_charts": Measurement(
        "Ways to draw a report's charts",
        "python benchmarks/report_page.py --part charts",
        "One chart of four lines over 24 layers, in a page of its own with whatever draws it "
        "inside, opened as the report is.",
    ),
    "scale": Measurement(
        "A store of a million samples",
        "python benchmarks/scale.py",
        "Opening, selecting and planning with the records of so many samples.",
    ),
    "evaluate_memory": Measurement(
        "Memory of an evaluation",
        "python benchmarks/evaluate_memory.py",
        "What a process held at most beyond one that evaluates a single image of 256x256 pixels. "
        "Values of fake pixels that differ are thresholds: random maps, whose values mostly do, "
        "and masks that are fake everywhere take the most.",
    ),
    "dtypes_features": Measurement(
        "Stored dtypes: size, speed and error of features",
        "python benchmarks/dtypes.py",
        "Against float32; the error is the length of the difference over that of the features.",
    ),
    "dtypes_iou": Measurement(
        "Stored dtypes: change in IoU",
        "python benchmarks/dtypes.py",
        "Change in IoU (points) of a decoder trained on float32 that reads the dtype, mean and "
        "largest over seeds; of decoders trained and tested on the dtype; and the spread of the "
        "seeds themselves.",
    ),
    "codecs": Measurement(
        "Lossless codecs",
        "python benchmarks/codecs.py",
        "Range over the layers, one chunk an image; size as a share of the uncompressed.",
    ),
    "extract_ViT-B-32": Measurement(
        "Extraction beside the bare forward pass, ViT-B/32",
        "python benchmarks/extract.py",
        "One layer, random weights; seconds of each stage overlap.",
    ),
    "extract_ViT-L-14": Measurement(
        "Extraction beside the bare forward pass, ViT-L/14",
        "python benchmarks/extract.py --model ViT-L-14 --images 64",
        "One layer, random weights; seconds of each stage overlap.",
    ),
    "extract_dinov2-vit-s14": Measurement(
        "Extraction beside the bare forward pass, DINOv2 ViT-S/14",
        "python benchmarks/extract.py --model dinov2-vit-s14 --images 128",
        "One layer; seconds of each stage overlap.",
    ),
    "predict_rates": Measurement(
        "Prediction beside the bare forward pass",
        "python benchmarks/predict.py",
        "JPEG files of 512x512 pixels, a linear decoder; bare: backbone and decoder on batches "
        "that are tensors already. Medians of ratios within a round, and their range; the ratio of "
        "processor time is what a machine that does nothing else would come near to.",
    ),
    "encoding": Measurement(
        "Encoders of a prediction's files",
        "python benchmarks/encoding.py",
        "One photograph of 512x512, a smooth map and its mask; processor time.",
    ),
    "predict_tiles": Measurement(
        "Prediction of a large image in tiles",
        "python benchmarks/predict.py",
        "One image in windows of 224 pixels that overlap by a quarter; bare: backbone and decoder "
        "on as many windows.",
    ),
    "resolution": Measurement(
        "Resolution: large images whole and in tiles",
        "python benchmarks/resolution.py --folder DIR",
        "The demo's large set: canvases of 2 to 12 megapixels, of which 0.05% to 1% is forged. "
        "Each canvas is there with one forgery, by four generators in turn, so all were learned. "
        "The same images, layers, decoder, seeds and number of steps in all rows. IoU at the "
        "images' own size, with its interval over scenes (canvases, which share photographs) and "
        "seeds, and how many times that of the whole image at 224 pixels. A region is a connected "
        "part of the mask; recall is the share of regions of which at least half of the pixels are "
        "called fake. Prediction is from file to map; growth is the largest image's seconds a "
        "megapixel over the smallest one's.",
    ),
    "resolution_choice": Measurement(
        "Decoders for the comparison of resolutions",
        "python benchmarks/resolution.py --folder DIR --choose",
        "Best validation IoU of the first seed, by what the backbone sees: on whole images at the "
        "decoder's 256x256, on tiles of all of an image's pixels. No test image is looked at.",
    ),
    "predict_memory": Measurement(
        "Memory of prediction",
        "python benchmarks/predict.py",
        "Peaks of processes of their own, with the image itself as backbone; bytes a pixel above "
        "the smallest image.",
    ),
    "engines": Measurement(
        "Engines of a ViT on a CPU",
        "python benchmarks/engines.py",
        "Forward passes as deep as one layer. The difference is the largest from PyTorch's "
        "features, over their range. ViT-L/14 has random weights.",
    ),
    "train_cache": Measurement(
        "An epoch with and without a cache",
        "python benchmarks/train.py --images 32 --batch-size 8",
        "Shapes of ViT-L/14, validation included.",
    ),
    "train_bare": Measurement(
        "Training beside the bare decoder",
        "python benchmarks/train.py --images 32 --batch-size 8",
        "Bare: steps of the decoder on tensors that are in memory already.",
    ),
    "train_ablation": Measurement(
        "Linear decoders on 24 layers",
        "python benchmarks/train.py --images 32 --batch-size 8",
        "Seconds for the whole grid.",
    ),
    "light_decoders": Measurement(
        "Parts of light decoders",
        "python benchmarks/light_decoders.py --part parts",
        "Operations that a linear decoder's step is made of.",
    ),
    "light_steps": Measurement(
        "Steps of light decoders",
        "python benchmarks/light_decoders.py --part steps",
        "Training steps on layers of 16x16x1024 beside one of conv-4, in batches of 8 and the "
        "precision that `auto` takes.",
    ),
    "choices": Measurement(
        "Choices of the light decoders and of their recipe",
        "python benchmarks/choices.py --folder DIR --train-on telea texture-copy",
        "On a demo set of another seed than the study's: trained on single generators, evaluated "
        "on photographs that were held out, forged by all four; no test split is read. Each "
        "candidate differs from the recipe in the settings by what its name says. `score` is the "
        "mean of ID and OOD; `chosen without` names the generators that can be left out, neither "
        "learned nor evaluated, with the candidate the best of its part.",
    ),
    "recipes": Measurement(
        "Recipes",
        "python benchmarks/recipes.py --folder DIR",
        "Best validation IoU in percent, by decoder and number of training images, one training a "
        "cell. auto: with no option but store, layer and decoder, in the batches and epochs and at "
        "the highest learning rate of the columns before, which took so many seconds on a machine "
        "that others used. The others change its learning rate or its epochs, or are the demo's "
        "and the paper's for as many epochs. below: points that auto lies below the best of its "
        "row. The demo set with fakes of all four generators, and its large set in tiles, of which "
        "those that are learned are counted; features of EfficientNet-Lite0, conv-4 with widths "
        "of 32, 16, 16 and 16.",
    ),
    "bounds_grid": Measurement(
        "What the grid bounds",
        "python benchmarks/bounds.py --folder DIR --part grid",
        "Masks of the demo's test split as means over the positions of a grid, enlarged to 256x256 "
        "and compared with the masks themselves.",
    ),
    "bounds_data": Measurement(
        "What the training images bound",
        "python benchmarks/bounds.py --folder DIR --part data",
        "A light decoder trained on one generator, on crops of more or fewer photographs, in "
        "domain: on other photographs of the split valid (two) and of the split test (four).",
    ),
    "bounds_generators": Measurement(
        "What the generators bound",
        "python benchmarks/bounds.py --folder DIR --part generators",
        "The discriminant of the study on the ViT's odd layers at 224 pixels, trained on every "
        "choice of one to four of the demo's generators and tested on each.",
    ),
    "activations": Measurement(
        "Standardised features",
        "python benchmarks/activations.py",
        "Deviations of the channels of DINOv2 ViT-S/14, and magnitudes of its features once they "
        "are standardised by these, in deviations.",
    ),
    "robustness_mutations": Measurement(
        "Damaged inputs",
        "python benchmarks/robustness.py --part mutations",
        "Cases by kind of input and by outcome; nothing should stand right of the refusals that "
        "are clear. Bytes, values, files, folders and command lines are changed at random; what is "
        "a right result is said in the functions of the kinds.",
    ),
    "robustness_kills": Measurement(
        "Killed commands",
        "python benchmarks/robustness.py --part kills",
        "Each run is killed at a random instant, then the same command runs to its end: how many "
        "ended otherwise than with exit code 0, and left other files than an undisturbed run.",
    ),
    "metrics": Measurement(
        "Localization metrics",
        "python benchmarks/metrics.py",
        "All metrics and image scores of an image of 256x256 pixels, as `evaluate` computes them. "
        "SciPy and scikit-learn compute IoU, both best F1, AP, AUC, MCC, precision, recall and the "
        "mean of the highest values. Processor time is that of both cores together.",
    ),
}


def rows_of(name: str) -> list[Row]:
    """Return the rows of benchmarks/results/NAME.json."""
    rows: list[Row] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return rows


def shown(value: Any) -> str:
    """Return a value as a cell: floats with three significant digits, no exponent."""
    if isinstance(value, float) and value:
        digits = max(2 - floor(log10(abs(value))), 0)
        return f"{round(value, 2 - floor(log10(abs(value)))):,.{digits}f}"
    return "" if value is None else str(value).replace("|", "\\|")


def markdown_table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table; columns that are empty in all rows are left out."""
    columns = [name for name in rows[0] if any(row.get(name) not in ("", None) for row in rows)]
    numeric = {
        name
        for name in columns
        if all(re.fullmatch(r"[-+\d.,%x]*", shown(row.get(name))) for row in rows)
    }
    lines = [columns, ["---:" if name in numeric else "---" for name in columns]]
    lines += [[shown(row.get(name)) for name in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def source(names: Iterable[str], document: Path) -> str:
    """Return the line under a table: the command, and links to the files that it wrote."""
    names = list(names)
    files = ", ".join(
        f"[{name}.json]({os.path.relpath(RESULTS / f'{name}.json', document.parent)})"
        for name in names
    )
    return f"From `{MEASUREMENTS[names[0]].command}`: {files}."


def some(name: str, column: str | None, *starts: str) -> Callable[[Path], str]:
    """Return the maker of a table of the rows whose `column` begins with one of `starts`.

    Of a column with one value, only the rows are kept; None takes all rows.
    """

    def table(document: Path) -> str:
        rows = rows_of(name)
        if column is not None:
            rows = [row for row in rows if str(row[column]).startswith(starts)]
            if len({row[column] for row in rows}) == 1:
                rows = [{key: cell for key, cell in row.items() if key != column} for row in rows]
        return f"{markdown_table(rows)}\n\n{source([name], document)}"

    return table


def whole(name: str) -> Callable[[Path], str]:
    """Return the maker of a table of all rows."""
    return some(name, None)


def codecs(document: Path) -> str:
    """Return the table of lossless codecs: ranges over layers."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows_of("codecs"):
        groups.setdefault((row["dtype"], row["codec"]), []).append(row)
    speed = "decode and check MB/s"
    rows = []
    for (dtype, codec), members in groups.items():
        sizes = sorted(float(row["size"]) for row in members)
        span = f"{sizes[0]:.2f} to {sizes[-1]:.2f}"
        middle = float(f"{median(float(row[speed]) for row in members):.3g}")
        rows.append({"dtype": dtype, "codec": codec, "size": span, f"median {speed}": middle})
    return f"{markdown_table(rows)}\n\n{source(['codecs'], document)}"


def cache_epochs(document: Path) -> str:
    """Return the table of epochs: decoders as columns."""
    table: dict[str, Row] = {}
    for row in rows_of("train_cache"):
        decoder = row["measure"].split(",")[0]
        found = table.setdefault(row["contestant"], {"an epoch": row["contestant"]})
        found[decoder] = f"{shown(row['seconds'])} s, {row['ratio'].removesuffix(' faster')}"
    return f"{markdown_table(list(table.values()))}\n\n{source(['train_cache'], document)}"


DEMO = RESULTS / "demo"
ABOUT_DOMAINS = (
    "ID: tested on a generator that the decoder was trained on; OOD: on another. In brackets: 95% "
    "bootstrap intervals over scenes, and over seeds where there are several."
)
ABOUT_MARK = "! of a run that learned nothing: `declip-pipe runs ls` says why."
FROM_DEMO = "From `make demo`"


def demo_rows(name: str) -> list[Row]:
    """Return the rows of a table that the demo wrote."""
    return list(csv.DictReader(io.StringIO((DEMO / name).read_text())))


def estimate(row: Row, names: tuple[str, str, str] = ("value", "low", "high")) -> str:
    """Return a mean with its mark and its interval."""
    value, low, high = (row[name] for name in names)
    if not value:
        return "-"
    interval = f" [{float(low):.1f}, {float(high):.1f}]" if low else ""
    return f"{float(value):.1f}{row.get('mark', '')}{interval}"


def from_demo(file: str, document: Path) -> str:
    """Return the line that says where a table of the demo comes from."""
    return f"{FROM_DEMO}: [{Path(file).name}]({os.path.relpath(DEMO / file, document.parent)})."


def demo_pairings(document: Path) -> str:
    """Return the best decoder and layer of each backbone of the demo."""
    lines = ["| backbone | decoder and layer | ID | OOD |", "|---|---|---:|---:|"]
    for row in demo_rows("pairings.csv"):
        means = (estimate(row, (d, f"{d}_low", f"{d}_high")) for d in ("ID", "OOD"))
        lines.append(f"| {row['backbone']} | {row['pairing']} | {' | '.join(means)} |")
    return "\n".join([*lines, "", ABOUT_DOMAINS, "", from_demo("pairings.csv", document)])


def demo_layers(name: str) -> Callable[[Path], str]:
    """Return the maker of a backbone's table of layers."""

    def table(document: Path) -> str:
        file = f"figures/{name}/layers.csv"
        rows = demo_rows(file)
        columns = list(dict.fromkeys(row["column"] for row in rows))
        lines = [f"| layer | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
        best = {
            c: max(float(row["value"]) for row in rows if row["column"] == c and row["value"])
            for c in columns
        }
        for layer in dict.fromkeys(row["row"] for row in rows):
            cells = []
            for row in (row for row in rows if row["row"] == layer):
                text = estimate(row)
                is_best = row["value"] and float(row["value"]) == best[row["column"]]
                number, space, interval = text.partition(" ")
                cells.append(f"**{number}**{space}{interval}" if is_best else text)
            lines.append(f"| {layer} | {' | '.join(cells)} |")
        about = "Bold: the best of a column."
        about += f" {ABOUT_MARK}" if any(row["mark"] for row in rows) else ""
        return "\n".join([*lines, "", about, "", from_demo(file, document)])

    return table


def demo_matrix(name: str) -> Callable[[Path], str]:
    """Return the maker of a backbone's train x test matrix."""

    def table(document: Path) -> str:
        file = f"figures/{name}/matrix.csv"
        rows = demo_rows(file)
        columns = list(dict.fromkeys(row["column"] for row in rows))
        lines = [
            f"| tested on \\ trained on | {' | '.join(columns)} |",
            "|---" + "|---:" * len(columns) + "|",
        ]
        for tested in dict.fromkeys(row["row"] for row in rows):
            cells = []
            for row in (row for row in rows if row["row"] == tested):
                text = f"{float(row['value']):.1f}{row['mark']}"
                cells.append(f"**{text}**" if row["domain"] == "ID" else text)
            lines.append(f"| {tested} | {' | '.join(cells)} |")
        (pairing,) = (row for row in demo_rows("pairings.csv") if row["backbone"] == name)
        means = ", ".join(
            f"{d} {estimate(pairing, (d, f'{d}_low', f'{d}_high'))} "
            f"({sum(row['domain'] == d for row in rows)} cells)"
            for d in ("ID", "OOD")
        )
        about = (
            f"{means}. {pairing['pairing']}; ID (bold): tested on a generator it was trained on; "
            "OOD: on another."
        )
        return "\n".join([*lines, "", about, "", from_demo(file, document)])

    return table


def demo_times(document: Path) -> str:
    """Return the seconds of each step of the demo."""
    rows = demo_rows("times.csv")
    lines = ["| step | seconds |", "|---|---:|"]
    lines += [f"| {row['step']} | {float(row['seconds']):.1f} |" for row in rows]
    lines.append(f"| **total** | **{sum(float(row['seconds']) for row in rows):.1f}** |")
    return "\n".join([*lines, "", from_demo("times.csv", document)])


STUDY = RESULTS / "study"
STUDY_COMMAND = "declip-pipe reproduce configs/light_decoders.yaml --out study"


def study(with_figure: bool) -> Callable[[Path], str]:
    """Return the maker of the table of the study of light decoders, without its commands."""

    def table(document: Path) -> str:
        page = (STUDY / "table.md").read_text().partition("```sh")[0].partition("\n")[2].strip()
        figure = os.path.relpath(STUDY / "table.png", document.parent)
        shown = f"![Methods of the study]({figure})" if with_figure else ""
        text = page.replace("![](table.png)", shown).replace("\n## ", "\n### ")
        link = os.path.relpath(STUDY / "table.csv", document.parent)
        text = re.sub(r"\n{3,}", "\n\n", text)
        return f"{text}\n\nFrom `{STUDY_COMMAND}`: [table.csv]({link})."

    return table


def methods_by_name(text: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table in Markdown by their first cell, each by its columns."""
    lines = [line for line in text.splitlines() if line[:2] == "| "]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    head, rows = (cells[0], cells[2:]) if cells else ([], [])
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def study_rows(*methods: str) -> Callable[[Path], str]:
    """Return the maker of a short table of some methods of that study, from both of its tables."""
    found = ("ID", "OOD", "ID - baseline", "OOD - baseline")
    regions = ("ID", "OOD", "false alarms, pixels")

    def table(document: Path) -> str:
        first, _, second = (STUDY / "table.md").read_text().partition("\n## ")
        of_first, of_second = methods_by_name(first), methods_by_name(second)
        lines = [
            ["method", *found, *(f"{column} *" for column in regions), "parameters, M", "MMAC"],
            ["---", *["---:"] * (len(found) + len(regions) + 2)],
        ]
        for name in methods:
            own, cleaned = of_first[name], of_second.get(name, {})
            cells = [own[column] for column in found]
            cells += [cleaned.get(column, "-") for column in regions]
            lines.append([name, *cells, own["parameters, M"], own["MMAC"]])
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        link = os.path.relpath(STUDY / "table.csv", document.parent)
        return f"{text}\n\nFrom `{STUDY_COMMAND}`: [table.csv]({link})."

    return table


# Backbones of the demo.
VIT, CNN = "dinov2-vit-s14", "efficientnet-lite0"

TABLES: dict[str, Callable[[Path], str]] = {
    "demo_pairings": demo_pairings,
    "demo_matrix": demo_matrix(VIT),
    "demo_layers": demo_layers(VIT),
    "report_page": whole("report_page"),
    "report_charts": whole("report_charts"),
    "study": study(with_figure=True),
    "study_rows": study_rows(
        "ViT, layer 9, as published, conv-4",
        "ViT, several layers, mlp",
        "ViT, odd layers, lda",
        "ViT at 448, odd layers, lda",
        "ViT, several layers, real images, pup",
        "CNN, fcn",
        "ViT + CNN, ensemble",
        "ViT at 448 + CNN, discriminant and fcn",
        "ViT + CNN, ensemble, real images",
    ),
    "choices": whole("choices"),
    "bounds_grid": whole("bounds_grid"),
    "bounds_data": whole("bounds_data"),
    "bounds_generators": whole("bounds_generators"),
    "store": whole("store"),
    "scale": whole("scale"),
    "store_writing": some("store", "measure", "write"),
    "store_reading": some("store", "measure", "random", "sequential"),
    "store_tensorstore": some("store", "measure", "TensorStore's settings"),
    "checks_writing": some("store_breakdown", "step", "finite", "checksum", "hash", "all checks"),
    "checks_copying": some("store_breakdown", "step", "write", "encode"),
    "checks_reading": some("store_breakdown", "step", "read"),
    "dtypes_features": whole("dtypes_features"),
    "dtypes_iou": whole("dtypes_iou"),
    "codecs": codecs,
    "train_cache": cache_epochs,
    "train_bare": whole("train_bare"),
    "train_ablation": whole("train_ablation"),
    "light_decoders": whole("light_decoders"),
    "light_steps": whole("light_steps"),
    "recipes": whole("recipes"),
    "activations": whole("activations"),
    "metrics": whole("metrics"),
    "predict_rates": whole("predict_rates"),
    "encoding": whole("encoding"),
    "predict_tiles": whole("predict_tiles"),
    "predict_memory": whole("predict_memory"),
    "resolution": whole("resolution"),
    "engines": whole("engines"),
    "extract_vit_b": whole("extract_ViT-B-32"),
    "extract_vit_l": whole("extract_ViT-L-14"),
}


def machine_line(name: str) -> str:
    """Return what a file of results says of its machine and settings."""
    content = json.loads((RESULTS / f"{name}.json").read_text())
    machine = content.get("machine", {})
    where = [
        f"{machine.get('accelerator') or machine.get('processor', 'unknown processor')}",
        f"threads: {machine.get('threads', '?')}",
        f"torch {machine.get('torch', '?')}",
    ]
    settings = ", ".join(
        f"{key} {json.dumps(value) if isinstance(value, dict | list) else value}"
        for key, value in content.get("settings", {}).items()
        if value not in (None, False)
    )
    return f"Machine: {', '.join(where)}. Settings: {settings}."


def results_page() -> str:
    """Return docs/results.md."""
    parts = [
        "# Results",
        "Written by `python docs/make_results.py` from the files in "
        "[benchmarks/results](../benchmarks/results); [benchmarks](../benchmarks/README.md) lists "
        "the commands that write those. Do not edit this page by hand: a test compares it with "
        "what the script prints.",
        "Machines are shared and noisy. What counts is the ratio of two things measured in one "
        "run. IoU is in percent, intervals are 95% bootstrap intervals over scenes.",
        "No figure on Dolos is among these: the paper's tables are rehearsed in the tests on small "
        "trees with small weights, and `declip-pipe reproduce` prints ours beside the published "
        "ones ([guide](guide.md#reproduce-the-papers-tables)).",
        "## The demo: best pairings",
        demo_pairings(PAGE),
        *(
            part
            for name in (VIT, CNN)
            for what, table in (
                ("IoU by layer", demo_layers(name)),
                ("IoU across generators", demo_matrix(name)),
            )
            for part in (f"## The demo: {what}, {name}", table(PAGE))
        ),
        "## The demo: times",
        demo_times(PAGE),
    ]
    parts += ["## Light decoders beside those of the paper", study(with_figure=True)(PAGE)]
    found = sorted(file.stem for file in RESULTS.glob("*.json"))
    for name in [
        *(n for n in MEASUREMENTS if n in found),
        *(n for n in found if n not in MEASUREMENTS),
    ]:
        about = MEASUREMENTS.get(name)
        parts.append(f"## {about.title if about else name}")
        if about:
            parts.append(about.about)
        parts.append(machine_line(name))
        if name == "codecs":
            parts.append(codecs(PAGE))
        elif about:
            parts.append(whole(name)(PAGE))
        else:
            parts.append(
                f"{markdown_table(rows_of(name))}\n\nFrom `benchmarks/results/{name}.json`."
            )
    return "\n\n".join(parts) + "\n"


def filled(document: Path) -> str:
    """Return the text of a document with every block of results up to date."""
    if document == PAGE:
        return results_page()

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match[2]](document)}\n{match[3]}"

    return BLOCK.sub(block, document.read_text())


def main() -> int:
    """Write all documents, or check them; return the exit code."""
    check = "--check" in sys.argv[1:]
    stale = []
    for document in [PAGE, *(one for one in DOCUMENTS if one != PAGE)]:
        text = filled(document)
        if not document.exists() or document.read_text() != text:
            stale.append(document.relative_to(ROOT).as_posix())
            if not check:
                document.write_text(text)
    for name in stale:
        print(f"{name} is not up to date" if check else f"{name} written")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
