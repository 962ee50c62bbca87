"""`declip-pipe reproduce` of a table of methods: on demo sets that it builds."""

import csv
import re
import shutil
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from conftest import TINY_VIT

import declip_pipeline as dp
from declip_pipeline.study.callbacks import SILENT
from declip_pipeline.training.learning import MARK_MEANING
from declip_pipeline.training.run import Run
from stages.study_settings import read_study

LIGHT_DECODERS = Path(__file__).parents[2] / "configs/light_decoders.yaml"

GENERATORS = ["telea", "latent"]
STUDY = {
    "title": "Two methods",
    "demo": {"made": {"train_count": 4, "valid_count": 2, "test_count": 2}},
    "extract": {"arch": "CLIP:from-file", "layers": "layer2,layer3"},
    "stores": {
        "one": {"data": "made", "options": {"name": "made"}},
        "other": {"data": "made", "options": {"name": "made", "dtype": "float32"}},
    },
    "train": [
        {
            "name": "light",
            "stores": ["one"],
            "options": {
                "layers": "layer3",
                "beside": ["other:layer2"],
                "decoders": ["linear", "mlp"],
                "train_on": [["telea"], ["latent"]],
            },
            "test": {"stores": ["one"], "beside": ["other"], "generators": GENERATORS},
        },
        {
            "name": "published",
            "stores": ["one"],
            "options": {
                "layers": "layer3",
                "decoders": "conv-4",
                "widths": [8, 8, 4, 4],
                "train_on": [["telea"], ["latent"]],
            },
        },
    ],
    "test": {"stores": ["one"], "generators": GENERATORS},
    "methods": {
        "baselines": ["published, conv-4"],
        "ensembles": [
            {"name": "both", "of": ["published, conv-4", "light, mlp"]},
        ],
    },
}
QUICK = ("--set", "train.epochs=1", "--set", "train.batch_size=4", "--weights", TINY_VIT)


@pytest.fixture
def reproduce_study(program, tmp_path):
    """Returns what `reproduce` of a study says."""
    config = tmp_path / "study.yaml"

    def reproduced(study, *more):
        config.write_text(yaml.safe_dump(study))
        return program(
            "reproduce", config, *QUICK, "--cache", tmp_path / "cache", "--runs", tmp_path / "runs",
            "--out", tmp_path / "out", *more,
        )  # fmt: skip

    return reproduced


@pytest.fixture
def reproduce(reproduce_study):
    """Returns what `reproduce` of `STUDY` says."""
    return lambda *more: reproduce_study(STUDY, *more)


def figures_of(outcome):
    with Path(outcome.last_line).with_name("table.csv").open(newline="") as file:
        return {(row["method"], row["figure"]): row for row in csv.DictReader(file)}


def mean_of_ensembles(runs, cache, metric="iou"):
    """Return the mean in domain of mlp and conv-4 together, from the library."""
    one, other = (next(cache.glob(f"*/*/*-{dtype}-*")) for dtype in ("float16", "float32"))
    found = []
    for learned in GENERATORS:
        members = [next(runs.glob(f"{name}_*_{learned}_*")) for name in ("mlp", "conv-4")]
        evaluation = dp.evaluate(dp.Ensemble(members), one, beside=[other])
        found.append(evaluation.mean(metric, generator=learned))
    return fmean(found)


def require_other_table(outcome, methods, root, metric, masks):
    """Require the same methods for other masks, of which one is computed by the library."""
    expected = mean_of_ensembles(root / "runs", root / "cache", metric)
    found = figures_of(outcome)["both", f"ID, {masks}"]
    assert float(found["value"]) == pytest.approx(expected)
    table = Path(outcome.last_line).read_text().partition(f"## IoU {masks}\n")[2].partition("##")[0]
    assert [name for name in methods if f"| {name} | " in table] == methods
    assert outcome.out.count(f"  {masks}:") == len(methods)


def require_report(report, methods, found):
    """Require that a page has the methods, and names configurations by them."""
    for table in ("methods", "methods-min-region", "methods-valid-threshold"):
        rows = report.partition(f'<table id="table-{table}"')[2].partition("</table>")[0]
        assert re.findall(r'<th scope="row"[^>]*><span>(.*?)!?</span>', rows) == methods
        if table == "methods":
            assert f"[{float(found['both', 'ID']['low']):.1f}, " in rows
    assert "Best in domain of 4 methods: " in report
    assert "<li>Changed: train.epochs=1, train.batch_size=4.</li>" in report
    about = report.partition('<table id="table-methods"')[2].partition("</section>")[0]
    assert "Baseline, the first on the same images: published, conv-4. ! of a run " in about
    for name in methods[:3]:
        assert f"<figcaption><b>{name}</b></figcaption>" in report


def require_lacking(outcome, methods):
    """Require a table less, and a line for each method, where runs keep no minimum size."""
    for name in methods:
        assert (
            f"- without small regions: {name}: a run keeps no minimum size of regions from its "
            "split valid"
        ) in outcome.out
    page = Path(outcome.last_line).read_text()
    assert "## IoU without small regions" not in page and "## IoU at valid's threshold" in page


@pytest.mark.slow
def test_methods_stand_side_by_side_and_what_is_missing_is_said(reproduce, tmp_path, monkeypatch):
    outcome = reproduce("--done")
    assert outcome.code == 0, outcome
    assert "What is missing:" in outcome.out
    assert "- light: no store one, other" in outcome.out
    assert "- ensemble 'both': no training sets and seeds have a run of each" in outcome.out
    baseline = "- baseline 'published, conv-4': no method has this name"
    assert baseline in outcome.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "study.yaml"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["table.csv", "table.md"]

    outcome = reproduce()
    assert outcome.code == 0, outcome
    found = figures_of(outcome)
    methods = ["light, linear", "light, mlp", "published, conv-4", "both"]
    assert list(dict.fromkeys(name for name, _ in found)) == methods
    for name in methods:
        assert float(found[name, "runs"]["value"]) == 2
        assert 0 <= float(found[name, "ID"]["value"]) <= 100
        assert float(found[name, "macs"]["value"]) > 0
        assert float(re.search(rf"^{name}\n.*?MMAC: ([^\n]+)", outcome.out, re.S | re.M)[1]) > 0
        assert 0 <= float(found[name, "false_alarm_pixels"]["value"]) <= 100
    assert ("published, conv-4", "ID - baseline") not in found
    for cost in ("parameters", "macs", "epoch_seconds"):
        of_members = [float(found[name, cost]["value"]) for name in methods[1:3]]
        assert float(found["both", cost]["value"]) == pytest.approx(sum(of_members))
    expected = mean_of_ensembles(tmp_path / "runs", tmp_path / "cache")
    assert float(found["both", "ID"]["value"]) == pytest.approx(expected)
    for metric, masks in (
        ("iou_min_region", "without small regions"),
        ("iou_valid_threshold", "at valid's threshold"),
    ):
        require_other_table(outcome, methods, tmp_path, metric, masks)
    for domain in ("ID", "OOD"):
        ours, theirs = (float(found[name, domain]["value"]) for name in (methods[1], methods[2]))
        difference = found["light, mlp", f"{domain} - baseline"]
        assert float(difference["value"]) == pytest.approx(ours - theirs)
    assert "! [" in outcome.out and MARK_MEANING in outcome.out
    # A command that anyone can give has stores by their places.
    beside = next(line for line in outcome.err.splitlines() if "--beside" in line)
    assert f"--beside {tmp_path / 'cache'}" in beside and "other:layer2" not in beside
    page = Path(outcome.last_line)
    assert "| light, mlp | " in page.read_text()
    assert page.with_name("table.png").is_file()
    require_report(page.with_name("report.html").read_text(), methods, found)
    assert "missing" not in outcome.out and "maps are resized" in outcome.out

    trained = sorted((tmp_path / "runs").iterdir())
    outcome = reproduce("--done", "--set", "train.seeds=[0,1]")
    assert outcome.code == 0, outcome
    assert figures_of(outcome)["light, mlp", "ID"] == found["light, mlp", "ID"]
    line = "published: conv-4 on layer3, trained on telea, seed 1; latent, seed 1"
    assert f"- {line}" in outcome.out
    assert figures_of(outcome)["both", "ID"] == found["both", "ID"]
    report = (tmp_path / "out/report.html").read_text()
    assert line in report and "declip-pipe train " in report
    monkeypatch.setattr(Run, "min_region", property(lambda run: None))
    require_lacking(reproduce("--done"), methods)
    assert sorted((tmp_path / "runs").iterdir()) == trained
    outcome = reproduce("--done", "--set", "train.seeds=[2]")
    assert "- published: conv-4 on layer3, every run\n" in outcome.out


@pytest.mark.slow
def test_an_ensemble_over_seeds_is_one_for_each_training_set(reproduce_study, tmp_path):
    study = {
        "title": "Seeds together",
        "demo": STUDY["demo"],
        "extract": STUDY["extract"],
        "stores": {"one": STUDY["stores"]["one"]},
        "train": [
            {
                "name": "light",
                "stores": ["one"],
                "options": {
                    "layers": "layer3",
                    "decoders": ["linear", "mlp"],
                    "seeds": [0, 1],
                    "train_on": [["telea"], ["latent"]],
                },
            },
            {
                "name": "deep",
                "stores": ["one"],
                "options": {"layers": "layer2", "decoders": "mlp", "train_on": [["telea"]]},
            },
        ],
        "test": {"stores": ["one"], "generators": GENERATORS},
        "methods": {
            "ensembles": [
                {"name": "seeds", "of": ["light, mlp"], "over_seeds": True},
                {"name": "both", "of": ["light, linear", "light, mlp"], "over_seeds": True},
                {"name": "alone", "of": ["deep, mlp"], "over_seeds": True},
                {"name": "unlike", "of": ["deep, mlp", "light, mlp"], "over_seeds": True},
            ]
        },
    }
    outcome = reproduce_study(study)
    assert outcome.code == 0, outcome
    found = figures_of(outcome)
    store = next((tmp_path / "cache").glob("*/*/*-float16-*"))
    for name, decoders in (("seeds", ["mlp"]), ("both", ["linear", "mlp"])):
        expected = []
        for learned in GENERATORS:
            runs = [
                path
                for one in decoders
                for path in (tmp_path / "runs").glob(f"{one}_layer3_{learned}_*")
            ]
            assert len(runs) == 2 * len(decoders)
            evaluation = dp.evaluate(dp.Ensemble(runs), store)
            expected.append(evaluation.mean("iou", generator=learned))
        assert float(found[name, "ID"]["value"]) == pytest.approx(fmean(expected))
        assert float(found[name, "runs"]["value"]) == len(GENERATORS)
        assert float(found[name, "seeds"]["value"]) == 2
    page = Path(outcome.last_line).read_text()
    assert len(re.findall(r"\| 4, 2 seeds \|", page)) == 2
    assert len(re.findall(r"\| 2, each of 2 seeds \|", page)) == 2
    # A single run is no ensemble over seeds, and keeps the name of its method.
    lacking = ["- ensemble 'alone': its methods have the seed 0 alone; expected several seeds"]
    words = "training sets have a run of each of its methods and seeds"
    lacking.append(f"- ensemble 'unlike': 0 of 2 {words}")
    assert all(f"{line}\n" in outcome.out for line in lacking)
    assert not {"alone", "unlike"}.intersection(name for name, _ in found)
    report = Path(outcome.last_line).with_name("report.html").read_text()
    assert "<figcaption><b>deep, mlp</b></figcaption>" in report

    shutil.rmtree(next((tmp_path / "runs").glob("mlp_*_latent_*seed1_*")))
    outcome = reproduce_study(study, "--done")
    for name in ("seeds", "both"):
        assert f"- ensemble '{name}': 1 of 2 {words}\n" in outcome.out
        assert float(figures_of(outcome)[name, "runs"]["value"]) == 1
    # Seeds that are planned and have no run are not passed over.
    outcome = reproduce_study(study, "--done", "--set", "train.seeds=[0,1,2]")
    for name in ("seeds", "both"):
        assert f"- ensemble '{name}': 0 of 2 {words}\n" in outcome.out
        assert (name, "runs") not in figures_of(outcome)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "ensembles.0: found one method; expected several, or `over_seeds: true`"),
        ({"over_seeds": "yes please"}, "ensembles.0.over_seeds: found 'yes please'; "),
        ({"over_seeds": True, "of": []}, "ensembles.0.of: found []; "),
        ({"over_seeds": True, "name": ""}, "ensembles.0.name: found ''; "),
    ],
)
def test_an_ensemble_has_a_name_and_methods_or_one_over_its_seeds(refused, tmp_path, change, words):
    config = tmp_path / "study.yaml"
    methods = {"ensembles": [{"name": "alone", "of": ["light, mlp"], **change}]}
    config.write_text(yaml.safe_dump(STUDY | {"methods": methods}))
    assert words in refused("reproduce", config)


def test_the_study_of_light_decoders_compares_with_what_it_trains():
    settings = read_study(LIGHT_DECODERS, [])
    places = dict.fromkeys(settings.datasets, Path("data"))
    study = settings.study(
        LIGHT_DECODERS, places, extract={}, train={"dask": None, "scheduler": None},
        device="cpu", callbacks=SILENT,
    )  # fmt: skip
    assert set(settings.datasets) == set(settings.demo)
    methods = [
        f"{step.name}, {decoder}"
        for step in study.trainings
        for decoder in step.options["decoder_type"]
    ]
    assert set(study.baselines) <= set(methods)
    assert {name for one in study.ensembles for name in one.methods} <= set(methods)
    assert len(set(methods)) == len(methods)
    for step in study.trainings:
        known = {*step.stores, *step.stores_beside}
        test = step.test or study.test
        assert known == {*test.stores, *test.beside} and known <= set(study.extractions)


def test_a_study_has_one_kind_of_table(refused, tmp_path):
    config = tmp_path / "study.yaml"
    for change, words in (({"table": {"rows": "layer"}}, "both"), ({"methods": None}, "neither")):
        config.write_text(yaml.safe_dump(STUDY | change))
        line = refused("reproduce", config)
        expected = f"config {config}: found {words} of table and methods; expected one of them"
        assert line == expected


@pytest.mark.parametrize(
    ("name", "of", "words"),
    [
        (
            "both",
            ["light, mpl", "light, mlp"],
            "unknown method 'light, mpl'; did you mean 'light, mlp'? known: light, linear; light, "
            "mlp; published, conv-4",
        ),
        ("both", ["light, mlp", "light, mlp"], "ensemble 'both' has 'light, mlp' twice"),
        ("light, mlp", ["light, mlp", "light, linear"], "'light, mlp' names two methods"),
    ],
)
def test_an_ensemble_of_what_is_not_trained_is_refused(refused, tmp_path, name, of, words):
    config = tmp_path / "study.yaml"
    methods = {"ensembles": [{"name": name, "of": of}]}
    config.write_text(yaml.safe_dump(STUDY | {"methods": methods}))
    for more in ((), ("--done",)):
        line = refused("reproduce", config, *QUICK, "--cache", tmp_path / "cache", *more)
        assert words in line
    assert not (tmp_path / "cache").exists()


def test_a_baseline_that_is_no_method_is_refused(refused, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(STUDY | {"methods": {"baselines": ["published, conv-40"]}}))
    line = refused("reproduce", config, *QUICK, "--cache", tmp_path / "cache")
    assert "unknown method 'published, conv-40'; did you mean 'published, conv-4'? known: " in line
    assert not (tmp_path / "cache").exists()


def test_a_method_without_a_decoder_is_that_of_the_default_one(refused, tmp_path):
    light, published = STUDY["train"]
    options = {"layers": "layer3", "train_on": [["telea"]]}
    ensembles = {"ensembles": [{"name": "both", "of": ["light, mlp", "published, conv-4"]}]}
    changed = {"train": [light, {**published, "options": options}], "methods": ensembles}
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(STUDY | changed))
    line = refused("reproduce", config, "--done", "--cache", tmp_path / "cache")
    assert "unknown method 'published, conv-4'; " in line and "published, conv-20" in line


def test_what_a_table_of_methods_cannot_have_is_refused(refused, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(STUDY | {"published": {"source": "a paper"}}))
    line = refused("reproduce", config)
    assert "found published figures and methods; expected them with a table" in line
    config.write_text(yaml.safe_dump(STUDY))
    line = refused("reproduce", config, "--set", "table.metric=f1")
    assert line.endswith(f"--set 'table.metric=f1': {config} has no table")


def test_what_takes_features_of_a_missing_dataset_goes_with_it(tmp_path):
    config = tmp_path / "study.yaml"
    stores = {**STUDY["stores"], "other": {"data": "elsewhere"}}
    for beside in (["other:layer2"], "other:layer2"):
        light, published = STUDY["train"]
        light = {**light, "options": {**light["options"], "beside": beside}}
        study = STUDY | {"stores": stores, "train": [light, published]}
        methods = {
            "baselines": ["published, conv-4", "light, mlp", "both"],
            "ensembles": [{"name": "both", "of": ["light, mlp", "published, conv-4"]}],
        }
        config.write_text(yaml.safe_dump(study | {"methods": methods}))
        left = read_study(config, []).without(["elsewhere"])
        assert [step.name for step in left.train] == ["published"]
        assert left.methods.baselines == ["published, conv-4"] and not left.methods.ensembles


def test_a_demo_set_that_cannot_be_is_refused(refused, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(STUDY | {"demo": {"made": {"size": "huge"}}}))
    assert "demo.made.size: found 'huge'" in refused("reproduce", config)
