"""Tables of methods on a page, and the names of runs."""

from dataclasses import replace
from pathlib import Path

from support.made_evaluation import config_of, localized

from declip_pipeline.evaluation.methods import methods_of
from declip_pipeline.reports.page.methods import (
    FROM_VALID_HEAD,
    meaning_of,
    methods_tables,
    names_of_runs,
)
from declip_pipeline.training.learning import MARK_MEANING


def methods():
    named = []
    for name, shift in (("one", 0), ("other", 10)):
        config = config_of("lama", decoder_type=name)
        ious = {"lama": [40 + shift, 50 + shift], "ldm": [20 + shift, 30 + shift]}
        run = localized("lama", scenes="photo", config=config, **ious)
        named.append((name, [replace(run, real=run.table)]))
    return methods_of(named, masks="_min_region", baselines=["one"])


def test_a_table_for_other_masks_opens_no_run():
    ((table, meaning),) = methods_tables({"_min_region": methods()}, ["one"])
    assert table.name == "methods-min-region" and meaning.startswith("The masks at 0.5 ")
    head = [column.name for column in table.columns]
    assert head == [*FROM_VALID_HEAD, "where the worst cell is"]
    rows = [dict(zip(head, row, strict=True)) for row in table.rows]
    assert [row["method"].text for row in rows] == ["one", "other"]
    assert [row["ID"].text for row in rows] == ["45.0", "55.0"]
    assert [row["ID - baseline"].text for row in rows] == ["-", "+10.0"]
    assert [row["worst cell"].text for row in rows] == ["25.0", "35.0"]
    assert [row[head[-1]].text for row in rows] == ["tested on ldm, trained on lama"] * 2
    assert [row["false alarms, pixels"].text for row in rows] == ["10.00"] * 2


def test_columns_baselines_and_the_mark_are_explained():
    found = methods()
    assert meaning_of(found, [])[1:] == []
    inside = {"ID": replace(found[0].domains["ID"], mark="!")}
    marked = replace(found[0], domains={**found[0].domains, **inside})
    assert meaning_of([marked, found[1]], ["one", "a, b"])[1:] == [
        "Baseline, the first on the same images: one; a, b.",
        f"{MARK_MEANING}.",
    ]


def test_a_run_has_the_name_of_its_own_method():
    one, other = methods()
    first, second = Path("first"), Path("second")
    one = replace(one, runs=((first,), (second,)))
    # Copies of a run are that run alone, and come behind its method.
    others = [replace(other, runs=((first,),)), replace(other, runs=((first, second),))]
    assert names_of_runs([one, *others]) == {first: "one", second: "one"}
