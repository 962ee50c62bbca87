"""Groups of runs by all that is configured, and generators by dataset and name."""

import pytest
from support.made_evaluation import config_of

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.groups import (
    MEMBERS,
    configured,
    group_by_fields,
    is_in_domain,
    kind_of,
    learned_generators,
    parse_aliases,
    require_known_aliases,
)


def test_runs_of_a_group_differ_in_their_seed_only():
    configs = [
        config_of("ldm", 0),
        config_of("ldm", 1, learning_rate=1e-2),
        config_of("ldm", 1),
        config_of("lama", 0),
    ]
    groups = group_by_fields(configs, configured)
    assert [[configs.index(one) for one in group.members] for group in groups] == [[0, 2], [1], [3]]
    assert [group.title() for group in groups] == [
        "train_on ldm, learning_rate 0.001",
        "train_on ldm, learning_rate 0.01",
        "train_on lama, learning_rate 0.001",
    ]
    assert groups[1].title(leaving_out=["train_on"]) == "learning_rate 0.01"


def ensemble_of(*members):
    """The configuration of an ensemble, of which these fields are looked at."""
    return {MEMBERS: members, "train_on": members[0]["train_on"]}


def test_ensembles_of_other_training_sets_and_seeds_are_alike():
    def both(learned, seed, **of_mlp):
        # Stores of two backbones.
        of_each = {"linear": {"stores": [[learned]]}, "mlp": {"stores": [["other"]], **of_mlp}}
        return ensemble_of(
            *(config_of(learned, seed, decoder_type=n, **own) for n, own in of_each.items())
        )

    one, other = configured(both("ldm", 0)), configured(both("lama", 1))
    assert one["ensemble"] == other["ensemble"]
    assert (one["seed"], other["train_on"]) == (0, ["lama"])
    assert one["ensemble"] != configured(both("ldm", 0, learning_rate=1e-2))["ensemble"]
    seeds = [config_of("ldm", seed) for seed in (0, 1, 2)]
    assert (
        configured(ensemble_of(*seeds[:2]))["ensemble"]
        != configured(ensemble_of(*seeds[1:]))["ensemble"]
    )


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"epochs": 5}, "epochs 5"),
        ({"batch_size": 8}, "batch_size 8"),
        ({"widths": [32, 16]}, "widths 32+16"),
        ({"stores": [["b" * 64]]}, f"training_stores {'b' * 12}"),
        ({"inputs": [{"dtype": "int8"}]}, "training_dtype int8"),
        ({"an_option_of_tomorrow": True}, "an_option_of_tomorrow true"),
    ],
)
def test_every_configured_field_sets_runs_apart(change, title):
    groups = group_by_fields([config_of("ldm"), config_of("ldm", **change)], configured)
    assert [group.title() for group in groups][1] == title


def test_an_option_that_a_run_does_not_record_is_named_by_its_default():
    groups = group_by_fields([config_of("ldm"), config_of("ldm", schedule="cosine")], configured)
    assert [group.title() for group in groups] == ["schedule plateau", "schedule cosine"]


def test_where_things_lie_is_not_configured():
    """A store that was moved, and a run that records its datasets, are no other configuration."""
    one = config_of("ldm", inputs=[{"dtype": "float16", "provenance": {"root": "here"}}])
    other = config_of("ldm", inputs=[{"dtype": "float16", "provenance": {"root": "there"}}])
    del other["datasets"]
    assert len(group_by_fields([one, other], configured)) == 1


def test_the_kind_that_seeds_resampling_is_of_all_but_the_seed():
    config = config_of("ldm")
    assert kind_of(config | {"seed": 7, "run_sha256": "0"}) == kind_of(config)
    assert kind_of(config | {"learning_rate": 1.0}) != kind_of(config)
    elsewhere = [{"dtype": "float16", "provenance": {"root": place}} for place in ("/a", "/b")]
    assert kind_of(config | {"inputs": elsewhere[:1]}) == kind_of(
        config | {"inputs": elsewhere[1:]}
    )


def in_domain(config, dataset, generator, aliases=None, known=None):
    aliases = aliases or {}
    return is_in_domain(
        learned_generators(config, known or {}, aliases), dataset, generator, aliases
    )


def test_a_generator_of_another_dataset_is_out_of_domain():
    config = config_of("telea", dataset="demo")
    assert in_domain(config, "demo", "telea")
    assert not in_domain(config, "other", "telea")
    assert not in_domain(config, "demo", "ns")
    assert in_domain(config, "other", "telea", {"telea": "telea"})


def test_aliases_name_one_generator_in_two_datasets():
    config = config_of("ns", dataset="demo")
    assert not in_domain(config, "other", "navier-stokes")
    aliases = parse_aliases(["ns = navier-stokes"])
    assert in_domain(config, "other", "navier-stokes", aliases)
    assert in_domain(config, "demo", "ns", aliases)
    assert not in_domain(config, "other", "telea", aliases)
    limited = {"other/navier-stokes": "demo/ns"}
    assert in_domain(config, "other", "navier-stokes", limited)
    assert not in_domain(config, "third", "navier-stokes", limited)
    with pytest.raises(InputError, match="alias 'ns'; expected NAME=NAME, two names of one gener"):
        parse_aliases(["ns"])
    with pytest.raises(InputError, match="alias 'ns' stands for 'a' and 'b'"):
        parse_aliases(["ns=a", "ns=b"])
    with pytest.raises(UnknownNameError, match="generator in `aliases` 'nss'; did you mean 'ns'"):
        require_known_aliases({"nss": "ns"}, [("demo", "ns")])
    require_known_aliases(limited, [("demo", "ns"), ("other", "navier-stokes")])


def test_a_run_that_records_no_dataset_takes_that_of_its_training_stores():
    config = config_of("ldm", stores=[["a"]])
    del config["datasets"]
    known = {"a": ("demo", ("lama", "ldm")), "b": ("other", ("ldm",))}
    assert in_domain(config, "demo", "ldm", known=known)
    assert not in_domain(config, "other", "ldm", known=known)
    # Where they are not known either, the name alone decides.
    assert in_domain(config, "other", "ldm", known={"b": known["b"]})
    assert in_domain(config, "other", "z", {"ldm": "z"}, known={"b": known["b"]})
