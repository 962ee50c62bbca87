"""`declip-pipe data check`: what a dataset holds, and what in it would spoil a result."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.options import (
    AllowUnpairedOption,
    AssignSplitsOption,
    ColumnsOption,
    JsonOption,
    LayoutOption,
    MegapixelsOption,
    PolarityOption,
    columns_named,
    fake_is_white,
    percents,
)

if TYPE_CHECKING:
    from declip_pipeline.datasets.counterparts import Comparison, Group
    from declip_pipeline.datasets.findings import GroupFacts


def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A dataset, as `extract` takes it.")],
    layout: LayoutOption = "auto",
    polarity: PolarityOption = None,
    assign_splits: AssignSplitsOption = None,
    columns: ColumnsOption = None,
    allow_unpaired: AllowUnpairedOption = False,
    counterparts: Annotated[
        int,
        typer.Option(
            min=1,
            help="Fakes of each generator and split to compare with the real images that they "
            "were made from.",
        ),
    ] = 50,
    max_megapixels: MegapixelsOption = 178.0,
    as_json: JsonOption = False,
) -> None:
    """Check a dataset: print what was found, and what would spoil a result.

    First the layout, the splits, and how the field's protocols use the dataset where it is known.
    Then a row for each generator and split: images, sizes, the mean share of fake pixels (percent),
    and of the fakes compared with their real images how many differ where the mask says fake.
    Then notes, problems, and ok or their number. Every file is read and decoded, as by `extract`.
    Exit codes: 0 no problem, 1 problems, 2 no dataset that can be read.
    """
    from declip_pipeline.datasets.checks import find_duplicates
    from declip_pipeline.datasets.counterparts import compare_with_real
    from declip_pipeline.datasets.findings import facts_of_groups, findings_of, other_sizes
    from declip_pipeline.datasets.layouts import list_dataset, recognise_layout, use_of
    from declip_pipeline.datasets.scan import scan_dataset
    from stages.screen import json_result, progress, result
    from stages.table import format_table
    from stages.texts import printable, spelled

    recognised = recognise_layout(path, layout)
    dataset = list_dataset(
        path,
        layout=recognised,
        fake_is_white=fake_is_white(polarity),
        allow_unpaired=True,
        assign_splits=percents(assign_splits),
        columns=columns_named(columns),
    )
    with progress("reading files", "files") as tell:
        scan = scan_dataset(dataset, decode=True, max_megapixels=max_megapixels, progress=tell)
    with progress("comparing with real images", "pairs") as tell:
        compared = compare_with_real(
            dataset, most_per_group=counterparts, max_megapixels=max_megapixels, progress=tell
        )
    facts = facts_of_groups(scan)
    findings = findings_of(
        scan,
        facts,
        compared,
        find_duplicates(scan.dataset.samples),
        polarity_is_given=polarity is not None,
        unpaired_is_allowed=allow_unpaired,
    )
    rows = [
        _row(group, found, compared.get(group, []))
        for group, found in sorted(facts.items(), key=lambda item: str(item[0]))
    ]
    if as_json:
        value = {
            "name": dataset.name,
            "layout": recognised,
            "splits": list(dataset.splits),
            "use": use_of(recognised),
            "fake_is_white": dataset.fake_is_white,
            "images": len(dataset),
            "groups": rows,
            "unpaired": list(dataset.unpaired),
            "left_out": [one.to_json() for one in dataset.left_out],
            "unreadable": [
                {"file": file, "reason": reason} for file, reason in sorted(scan.unreadable.items())
            ],
            "other_sizes": [
                {"image": image, "mask": mask, "image_size": size, "mask_size": mask_size}
                for image, (mask, size, mask_size) in sorted(other_sizes(scan).items())
            ],
            "unusual_masks": [
                {"mask": mask, "values": values, "clear": is_clear}
                for mask, (values, is_clear) in sorted(scan.unusual_masks.items())
            ],
            "notes": findings.notes,
            "problems": findings.problems,
        }
        json_result(value)
    else:
        colour = "white" if dataset.fake_is_white else "black"
        said = "as --polarity says" if polarity else f"as in layout {recognised}"
        result(
            f"{dataset.name}: layout {recognised}, {len(dataset)} images; {colour} is fake, {said}"
        )
        use = spelled(use_of(recognised))
        result(f"taken as: split {', '.join(dataset.splits)}{f'; {use}' if use else ''}")
        header = ["source", "generator", "split", "images", "sizes", "fake %", "differ as masked"]
        result(format_table(header, [_cells(row) for row in rows]))
        for note in findings.notes:
            result(printable(spelled(f"note: {note}")))
        for problem in findings.problems:
            result(printable(spelled(f"problem: {problem}")))
        count = len(findings.problems)
        result(f"{count} problem{'' if count == 1 else 's'}" if count else "ok: no problem found")
    if findings.problems:
        raise typer.Exit(1)


def _row(group: "Group", facts: "GroupFacts", comparisons: "list[Comparison]") -> dict[str, Any]:
    from declip_pipeline.datasets.counterparts import Verdict, votes
    from declip_pipeline.datasets.findings import sizes_text

    verdicts = [comparison.verdict for comparison in comparisons]
    return {
        "source": group.source,
        "generator": group.generator,
        "split": group.split,
        "images": facts.images,
        "sizes": sizes_text(list(facts.sizes)),
        "fake_share": facts.mean_fake_share,
        "decided": dict(zip(("agree", "flipped"), votes(comparisons), strict=True)),
        "compared": {verdict.value: verdicts.count(verdict) for verdict in Verdict},
    }


def _cells(row: dict[str, Any]) -> list[object]:
    agreeing, flipped = row["decided"].values()
    share = row["fake_share"]
    return [
        *(row[key] for key in ("source", "generator", "split", "images", "sizes")),
        "-" if share is None else f"{100 * share:.1f}",
        f"{agreeing} of {agreeing + flipped}" if agreeing + flipped else "-",
    ]
