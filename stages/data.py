"""`declip-pipe data check`: what a data set holds, and what in it would spoil a result."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.cache.ls import JsonOption
from stages.options import (
    AllowUnpairedOption,
    AssignSplitsOption,
    Layout,
    LayoutOption,
    MegapixelsOption,
    PolarityOption,
    fake_is_white,
    percents,
)

if TYPE_CHECKING:
    from declip_pipeline.datasets.counterparts import Comparison
    from declip_pipeline.datasets.survey import Group, GroupFacts


def check(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A data set, as `extract` takes it.")
    ],
    layout: LayoutOption = Layout.auto,
    polarity: PolarityOption = None,
    assign_splits: AssignSplitsOption = None,
    allow_unpaired: AllowUnpairedOption = False,
    counterparts: Annotated[
        int,
        typer.Option(
            min=1,
            help="Fakes of each generator and split to compare with the real pictures that they "
            "were made from.",
        ),
    ] = 50,
    max_megapixels: MegapixelsOption = 178.0,
    as_json: JsonOption = False,
) -> None:
    """Check a data set: print what was found, and what would spoil a result.

    A row for each generator and split: pictures, sizes, the mean share of fake pixels (percent),
    and of the fakes compared with their real pictures how many differ where the mask says fake.
    Then notes, problems, and ok or their number. Every file is read. Exit codes: 0 no problem, 1
    problems, 2 no data set that can be read.
    """
    import json
    from functools import partial

    from declip_pipeline.datasets.counterparts import compare_with_real
    from declip_pipeline.datasets.dataset_findings import judge_dataset
    from declip_pipeline.datasets.duplicates import find_duplicates
    from declip_pipeline.datasets.layouts import open_dataset, recognise_layout, scene_of
    from declip_pipeline.datasets.survey import survey_dataset
    from declip_pipeline.images.decode import decode_image, image_size
    from declip_pipeline.images.masks import decode_mask
    from stages.cache.table import format_table
    from stages.screen import progress, result

    recognised = recognise_layout(path, layout.value)
    manifest = open_dataset(
        path,
        layout=recognised,
        fake_is_white=fake_is_white(polarity),
        allow_unpaired=True,
        assign_splits=percents(assign_splits),
    )
    read_mask = partial(
        decode_mask, fake_is_white=manifest.fake_is_white, max_megapixels=max_megapixels
    )
    with progress("reading masks", "pictures") as tell:
        survey = survey_dataset(manifest, read_size=image_size, read_mask=read_mask, progress=tell)
    with progress("comparing with real pictures", "pairs") as tell:
        compared = compare_with_real(
            manifest,
            scene_of=scene_of(recognised),
            read_picture=partial(decode_image, max_megapixels=max_megapixels),
            read_mask=read_mask,
            most_per_group=counterparts,
            progress=tell,
        )
    with progress("hashing", "files") as tell:
        duplicates = find_duplicates(manifest, manifest.content_hashes(tell))
    findings = judge_dataset(
        manifest,
        survey,
        compared,
        duplicates,
        polarity_is_given=polarity is not None,
        unpaired_is_allowed=allow_unpaired,
    )
    rows = [
        _row(group, facts, compared.get(group, []))
        for group, facts in sorted(survey.groups.items(), key=lambda item: str(item[0]))
    ]
    if as_json:
        value = {
            "name": manifest.name,
            "layout": recognised,
            "fake_is_white": manifest.fake_is_white,
            "pictures": len(manifest.samples),
            "groups": rows,
            "unpaired": list(manifest.unpaired),
            "notes": findings.notes,
            "problems": findings.problems,
        }
        result(json.dumps(value, indent=2))
    else:
        colour = "white" if manifest.fake_is_white else "black"
        said = "as --polarity says" if polarity else f"as in layout {recognised}"
        result(
            f"{manifest.name}: layout {recognised}, {len(manifest.samples)} pictures; "
            f"{colour} is fake, {said}"
        )
        header = ["source", "generator", "split", "pictures", "sizes", "fake %", "differ as masked"]
        result(format_table(header, [_cells(row) for row in rows]))
        for note in findings.notes:
            result(f"note: {note}")
        for problem in findings.problems:
            result(f"problem: {problem}")
        count = len(findings.problems)
        result(f"{count} problem{'' if count == 1 else 's'}" if count else "ok: no problem found")
    if findings.problems:
        raise typer.Exit(1)


def _row(group: "Group", facts: "GroupFacts", comparisons: "list[Comparison]") -> dict[str, Any]:
    from declip_pipeline.datasets.counterparts import Verdict, votes
    from declip_pipeline.datasets.dataset_findings import sizes_text

    verdicts = [comparison.verdict for comparison in comparisons]
    return {
        "source": group.source,
        "generator": group.generator,
        "split": group.split,
        "pictures": facts.pictures,
        "sizes": sizes_text(list(facts.sizes)),
        "fake_share": facts.mean_fake_share,
        "decided": dict(zip(("agree", "flipped"), votes(comparisons), strict=True)),
        "compared": {verdict.value: verdicts.count(verdict) for verdict in Verdict},
    }


def _cells(row: dict[str, Any]) -> list[object]:
    agreeing, flipped = row["decided"].values()
    share = row["fake_share"]
    return [
        *(row[key] for key in ("source", "generator", "split", "pictures", "sizes")),
        "-" if share is None else f"{100 * share:.1f}",
        f"{agreeing} of {agreeing + flipped}" if agreeing + flipped else "-",
    ]
