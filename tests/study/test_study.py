"""A study from Python: its steps are done once, found again, and followed by callbacks."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY_VIT

from declip_pipeline.errors import InputError, TrainingError, UnknownNameError
from declip_pipeline.study.callbacks import Callbacks
from declip_pipeline.study.extraction import ExtractionStep
from declip_pipeline.study.result import require_finished
from declip_pipeline.study.steps import EvaluationStep, TableForm, TrainingStep
from declip_pipeline.study.study import Study

OPTIONS = {
    "layer": ["0-1"],
    "decoder_type": ["linear"],
    "seed": [0, 1],
    "train_on": [("noisy",)],
    "epochs": 1,
    "batch_size": 4,
    "device": "cpu",
}


@pytest.fixture
def study(shared_dataset, tmp_path):
    return Study(
        extractions={
            "noisy": ExtractionStep(
                shared_dataset,
                "CLIP:from-file",
                weights=(str(TINY_VIT),),
                layers="0-1",
                cache=str(tmp_path / "cache"),
                device="cpu",
            )
        },
        trainings=(TrainingStep(("noisy",), {**OPTIONS, "runs": str(tmp_path / "runs")}),),
        test=EvaluationStep(("noisy",)),
        table=TableForm(rows=("layer",), columns=("decoder",)),
        device="cpu",
    )


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_study_prints_nothing_and_finds_what_is_done(study, tmp_path, capfd):
    (first,) = study.run().tables
    assert first.table.rows == ("layer0", "layer1") and first.table.columns == ("linear",)
    assert first.table.title == "ID"
    made = files_below(tmp_path / "cache")
    weights = {path: t for path, t in files_below(tmp_path / "runs").items() if "best" in path.name}
    (again,) = replace(study).run().tables
    assert again.table == first.table
    assert files_below(tmp_path / "cache") == made
    assert weights and weights.items() <= files_below(tmp_path / "runs").items()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_callbacks_follow_each_step(study):
    begun, made, units, states = [], [], [], []

    @contextmanager
    def progress(what, unit="images"):
        yield lambda done, total: units.append((what, done, total))

    @contextmanager
    def rows():
        yield lambda found: states.append([row.state for row in found])

    callbacks = Callbacks(begun=begun.append, made=made.append, progress=progress, rows=rows)
    study = replace(study, callbacks=callbacks)
    study.run()
    assert begun == [study.extractions["noisy"], study.trainings[0]]
    assert [Path(place).exists() for place in made] == [True, True]
    assert ("extracting clean", 15, 15) in units and units[-1] == ("evaluating", 4, 4)
    assert states[0] == ["waiting"] * 4 and states[-1] == ["finished"] * 4


@pytest.mark.slow
def test_what_no_step_could_do_is_refused_before_the_first_training(study, tmp_path):
    wrong = replace(study, test=EvaluationStep(("noisy",), split="tset"))
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        wrong.run()
    wrong = replace(study, test=EvaluationStep(("noisy",), aliases=("noisy=nobody",)))
    with pytest.raises(UnknownNameError, match="unknown generator in `aliases` 'nobody'"):
        wrong.run()
    wrong = replace(study, table=TableForm(rows=("layer",), columns=("layer",)))
    with pytest.raises(InputError, match="expected rows and columns, and each field once"):
        wrong.run()
    second = TrainingStep(("noisy",), {**OPTIONS, "runs": str(tmp_path / "runs"), "layer": ["9"]})
    wrong = replace(study, trainings=(*study.trainings, second))
    with pytest.raises(InputError, match="unknown layer 'layer9'"):
        wrong.run()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_failed_run_is_told_with_its_reason(study):
    study.extract()
    study.check()
    rows = study.train()
    require_finished(rows)
    lost = replace(rows[1], state="failed", run=None, reason="the loss is not finite")
    with pytest.raises(TrainingError, match="1 of 4 runs failed; linear layer0 noisy seed 1: the"):
        require_finished([rows[0], lost, *rows[2:]])
    assert len(study.evaluate([rows[0], lost, *rows[2:]])) == 3


@pytest.mark.slow
def test_no_mean_over_configurations(study):
    study.extract()
    evaluations = study.evaluate(study.train())
    with pytest.raises(InputError, match="a mean over layer would mix configurations"):
        TableForm(rows=("decoder",), over=("layer",)).of(evaluations)
    tables = TableForm(rows=("decoder",)).of(evaluations)
    assert [one.table.title for one in tables] == ["layer layer0", "layer layer1"]
