"""`declip-pipe reproduce`: a table of a paper with one command, beside the published figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.errors import InputError, UnknownNameError
from stages.options import (
    CacheOption,
    DeviceOption,
    FigureFormatOption,
    ForPaperOption,
    PaperColumnsOption,
    SchedulerOption,
    WeightsOption,
    figure_style,
    require_folder,
)
from stages.training_options import DaskOption, RunsOption

if TYPE_CHECKING:
    from declip_pipeline.study.extraction import ExtractionStep
    from declip_pipeline.study.steps import TrainingStep
    from stages.study_settings import StudySettings


def reproduce(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.yaml", help="A study, such as those in configs and configs/paper."
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Where a dataset of the study lies, as `extract` takes it; repeatable. Of a study "
            "with one dataset, PATH is enough. Demo sets are built where this is left out. Another "
            "that is missing is left out, as long as others are there to learn from and to test "
            "on.",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Change an option of its extractions (extract.dtype=int8), trainings "
            "(train.epochs=20) or of one of its stores (dolos.generators=[ldm]); repeatable.",
        ),
    ] = None,
    weights: WeightsOption = None,
    cache: CacheOption = "cache",
    runs: RunsOption = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="OUT", help="Folder of the table. Default: tables/CONFIG."),
    ] = None,
    done: Annotated[
        bool,
        typer.Option(
            "--done",
            help="Extract and train nothing: the table of the runs that are finished, with the "
            "names of those that are missing.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    dask: DaskOption = None,
    scheduler: SchedulerOption = None,
    figure_format: FigureFormatOption = "png",
    for_paper: ForPaperOption = False,
    paper_columns: PaperColumnsOption = None,
) -> None:
    """Extract, train and evaluate what a study asks for, and print its table.

    Each step is a command of this program, which is printed before it begins; what is done already
    is found, so the same command goes on after an interruption. A figure that was published stands
    behind ours, with the difference. The last line of stdout is table.md, with table.csv,
    table.png, the runs in results.csv, and report.html (see `declip-pipe report`) beside it; tables
    of further metrics lie in folders of their names. Where a dataset was left out, the exit code is
    1.
    """
    from dataclasses import replace

    from declip_pipeline.evaluation.groups import parse_aliases
    from declip_pipeline.study.methods_table import write_methods
    from declip_pipeline.study.report import write_report
    from stages.report import write_page
    from stages.screen import remark, result
    from stages.study_screen import callbacks, command_of
    from stages.study_settings import read_study

    style = figure_style(figure_format, for_paper, paper_columns)
    folder = out or Path("tables") / config.stem
    require_folder(folder, "--out")
    config = _study_file(config)
    settings = read_study(config, changes or [])
    everywhere = {"dask": dask, "scheduler": scheduler}
    extract = {"cache": cache, "device": device, "weights": weights, **everywhere}
    commands: list[str] = []

    def say(step: "ExtractionStep | TrainingStep") -> None:
        commands.append(command_of(step, study.places))
        remark(f"$ {commands[-1]}")

    places, missing = _places(data or [], settings, folder / "data")
    left_out = [f"{name}: {reason}" for name, reason in missing.items()]
    if missing:
        try:
            settings = settings.without(missing)
        except InputError as error:
            raise InputError(f"{error}: {'; '.join(left_out)}") from None
        for line in left_out:
            remark(f"left out: {line}")
    study = settings.study(
        config,
        places,
        extract={name: value for name, value in extract.items() if value},
        train={**everywhere, "runs": str(runs), "device": device},
        device=device,
        callbacks=replace(callbacks, begun=say),
    )
    study.check_names()
    if not done:
        _build_demo_sets(settings, places)
    found = study.done() if done else study.run()
    said: dict[str, Any] = {
        "title": settings.title,
        "missing": found.missing,
        "changes": changes or [],
        "left_out": left_out,
        "commands": commands,
        "rows": found.runs,
        "style": style,
    }
    if found.evaluations:
        write_page(
            folder / "report.html",
            found.evaluations,
            settings.title,
            notes=[f"Changed: {', '.join(changes)}."] if changes else [],
            left_out={
                **{f"dataset {name}": reason for name, reason in missing.items()},
                **dict.fromkeys(found.missing, "missing"),
            },
            commands=commands or None,
            aliases=parse_aliases(study.test.aliases),
            methods={"": found.methods, **found.methods_from_valid},
            baselines=study.baselines,
            device=device,
        )
    if settings.table is None:
        text, page = write_methods(
            found.methods,
            folder,
            from_valid=found.methods_from_valid,
            baselines=study.baselines,
            **said,
        )
        result(text)
        result(str(page))
    for form in [] if settings.table is None else settings.table.forms():
        report = write_report(
            replace(study, table=form),
            form.of(found.evaluations, study.test.aliases),
            folder if form == study.table else folder / form.metric,
            published=settings.published_of(form.metric),
            **said,
        )
        result(report.text)
        result(str(report.page))
    if left_out:
        raise typer.Exit(1)


def _study_file(path: Path) -> Path:
    """The file of a study; those of configs/ ship with the program."""
    from stages.settings import packaged_studies

    if path.exists():
        return path
    packaged = packaged_studies()
    if str(path) not in packaged:
        raise UnknownNameError("study", str(path), packaged)
    return packaged[str(path)]


def _places(
    texts: list[str], settings: "StudySettings", built: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the place of each dataset of a study, and why each other one is missing.

    Demo sets that are not given are to be built below a folder.
    """
    from declip_pipeline.files import sha256_of_json

    names = settings.datasets
    if len(names) == 1 and len(texts) == 1 and "=" not in texts[0]:
        texts = [f"{names[0]}={texts[0]}"]
    places: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise InputError(f"--data {text!r}; expected NAME=PATH, NAME of {', '.join(names)}")
        if name not in names:
            raise UnknownNameError("dataset in --data", name, names)
        if name in (*places, *missing):
            raise InputError(f"--data {text}: {name} is given twice; expected each dataset once")
        if Path(path).exists():
            places[name] = Path(path)
        else:
            missing[name] = f"--data {text}: {path} is not there; expected a dataset"
    for name in names:
        if name in settings.demo and name not in (*places, *missing):
            asked = sha256_of_json(settings.demo[name].model_dump())
            places[name] = built / f"{name}-{asked[:12]}" / "demo"
        elif name not in places:
            missing.setdefault(name, f"say where it lies: --data {name}=PATH")
    return places, missing


def _build_demo_sets(settings: "StudySettings", places: Mapping[str, Path]) -> None:
    """Build the demo sets that are not there; those that were given are."""
    from declip_pipeline.datasets.demo.build import build_demo_set
    from stages.screen import progress

    for name, asked in settings.demo.items():
        place = places.get(name)
        if place is not None and not place.exists():
            place.parent.parent.mkdir(parents=True, exist_ok=True)
            with progress(f"building {name}", "images") as tell:
                build_demo_set(place.parent, **asked.model_dump(), progress=tell)
