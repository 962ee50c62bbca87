"""Tables of any fields never mix configurations."""

import numpy as np
import pytest
from support.made_evaluation import FEATURES, config_of, localized

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.matrices import matrices
from declip_pipeline.evaluation.table import two_way_tables

STUDY = [
    localized(
        learned,
        seed,
        config=config_of(learned, seed, layer=layer, decoder_type=decoder),
        lama=[base + seed + (10.0 if learned == "lama" else 0.0)] * 2,
        ldm=[base + seed + (20.0 if learned == "ldm" else 0.0)] * 2,
    )
    for layer, decoder, base in (
        ("layer1", "linear", 10.0),
        ("layer1", "conv-4", 20.0),
        ("layer2", "linear", 30.0),
        ("layer2", "conv-4", 40.0),
    )
    for learned in ("lama", "ldm")
    for seed in (0, 2)
]


def test_two_fields_make_a_table_in_domain_and_one_out_of_domain():
    inside, outside = two_way_tables(STUDY, "layer", "decoder")
    assert (inside.title, outside.title) == ("ID", "OOD")
    assert inside.corner == "layer \\ decoder"
    assert (inside.rows, inside.columns) == (("layer1", "layer2"), ("linear", "conv-4"))
    np.testing.assert_array_equal(inside.values, [[26, 36], [46, 56]])
    np.testing.assert_array_equal(outside.values, [[11, 21], [31, 41]])
    assert inside.cell("layer1", "linear").by_seed == (25, 27)
    assert inside.cell("layer1", "linear").cells == 2


def test_lists_of_fields_are_rows_and_columns():
    (table,) = two_way_tables(STUDY, ["layer", "decoder"], "domain")
    assert table.rows == (
        *("layer1, linear", "layer1, conv-4", "layer2, linear", "layer2, conv-4"),
    )
    assert table.columns == ("ID", "OOD")
    np.testing.assert_array_equal(table.values[0], [26, 11])
    (table,) = two_way_tables(STUDY, ["layer", "generator"], ["decoder", "train_on"])
    assert table.cell("layer2, ldm", "conv-4, ldm").value == 61
    assert table.cell("layer2, ldm", "conv-4, lama").value == 41


def test_what_else_differs_within_a_cell_makes_a_table_of_its_own():
    """`rows: generator` averaged over layers and decoders without a word."""
    tables = two_way_tables(STUDY, "generator", "train_on")
    assert [table.title for table in tables] == [
        "layer layer1, decoder linear",
        "layer layer1, decoder conv-4",
        "layer layer2, decoder linear",
        "layer layer2, decoder conv-4",
    ]
    np.testing.assert_array_equal(tables[0].values, [[21, 11], [11, 31]])
    tables = two_way_tables(STUDY, "layer", "domain")
    assert [table.title for table in tables] == ["decoder linear", "decoder conv-4"]
    np.testing.assert_array_equal(tables[1].values, [[36, 21], [56, 41]])


def test_training_sets_of_several_backbones_keep_their_names():
    """A column was called "ldm (0dd80d11edb2)" where runs of two backbones were shown."""
    runs = [
        localized(
            "ldm",
            config=config_of("ldm", features={**FEATURES, "backbone": name}, stores=[[name]]),
            ldm=[20.0],
        )
        for name in ("net", "other")
    ]
    assert [matrix.table.columns for matrix in matrices(runs)] == [("ldm",), ("ldm",)]
    others = [
        localized("ldm", config=config_of("ldm", stores=[[name]]), ldm=[20.0])
        for name in ("one", "two")
    ]
    assert matrices(others)[0].table.columns == ("ldm (one)", "ldm (two)")


def test_layers_of_one_store_are_no_other_training_set():
    """A column was called "ldm (f67136101d51+f67136101d51)" beside runs of a single layer."""
    runs = [
        localized("ldm", config=config_of("ldm", stores=[["one"]] * layers), ldm=[20.0])
        for layers in (1, 2)
    ]
    # An ensemble has those of each member.
    runs.append(
        localized("ldm", config=config_of("ldm", stores=[[["one"]], [["one"]] * 2]), ldm=[20.0])
    )
    assert {column for one in matrices(runs) for column in one.table.columns} == {"ldm"}
    others = [
        localized("ldm", config=config_of("ldm", stores=[[name]] * 2), ldm=[20.0])
        for name in ("one", "two")
    ]
    assert matrices(others)[0].table.columns == ("ldm (one)", "ldm (two)")


def test_hashes_title_a_table_only_where_nothing_else_does():
    def titles_of(*features):
        runs = [
            localized(
                "ldm",
                config=config_of(
                    "ldm",
                    features={**FEATURES, "backbone": backbone, "weights_sha256": 64 * weights},
                    stores=[[f"store {weights}"]],
                ),
                ldm=[20.0],
            )
            for backbone, weights in features
        ]
        columns = ["decoder", "domain"]
        tables = two_way_tables(runs, "layer", columns, over=("dataset", "generator"))
        return [table.title for table in tables]

    assert titles_of(("net", "0"), ("other", "1")) == ["backbone net", "backbone other"]
    assert titles_of(("net", "0"), ("net", "1")) == [
        f"training_stores store {digit}, weights {12 * digit}" for digit in "01"
    ]


def test_seeds_can_be_rows_and_generators_kept_apart():
    (table,) = two_way_tables(STUDY[:4], "seed", "domain")
    np.testing.assert_array_equal(table.values, [[25, 10], [27, 12]])
    tables = two_way_tables(STUDY, "layer", "decoder", over=())
    assert len(tables) == 4
    assert tables[0].title == "train_on lama, generator lama"
    np.testing.assert_array_equal(tables[0].values, [[21, 31], [41, 51]])


def test_fields_that_make_no_table_are_refused():
    with pytest.raises(UnknownNameError, match="unknown field 'layr'; did you mean 'layer'"):
        two_way_tables(STUDY, "layr", "decoder")
    with pytest.raises(InputError, match="expected rows and columns, and each field once"):
        two_way_tables(STUDY, "layer", ["layer", "decoder"])
    with pytest.raises(InputError, match="averaged generator; expected rows and columns"):
        two_way_tables(STUDY, "generator", "layer", over=["generator"])
    with pytest.raises(InputError, match="a mean over decoder would mix configurations"):
        two_way_tables(STUDY, "layer", "domain", over=["decoder"])
