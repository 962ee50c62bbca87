"""`declip-pipe reproduce`: a table of a paper with one command, beside the published figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.errors import InputError, UnknownNameError
from stages.options import (
    CacheOption,
    DeviceOption,
    SchedulerOption,
    WeightsOption,
    require_folder,
)
from stages.training_options import DaskOption, RunsOption

if TYPE_CHECKING:
    from declip_pipeline.study.extraction import ExtractionStep
    from declip_pipeline.study.study import TrainingStep
    from stages.study_settings import DemoDataSettings, StudySettings


def reproduce(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="A study, such as those in configs.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Where a dataset of the study lies, as `extract` takes it; repeatable. Of a study "
            "with one dataset, PATH is enough. Demo sets are built where this is left out.",
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
) -> None:
    """Extract, train and evaluate what a study asks for, and print its table.

    Each step is a command of this program, which is printed before it begins; what is done already
    is found, so the same command goes on after an interruption. A figure that was published stands
    behind ours, with the difference. The last line of stdout is table.md, with table.csv and
    table.png beside it.
    """
    from dataclasses import replace

    from declip_pipeline.study.methods_table import write_methods
    from declip_pipeline.study.report import write_report
    from stages.screen import remark, result
    from stages.study_screen import callbacks, command_of
    from stages.study_settings import read_study

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

    study = settings.study(
        config,
        _places(data or [], settings, folder / "data", build=not done),
        extract={name: value for name, value in extract.items() if value},
        train={**everywhere, "runs": str(runs), "device": device},
        device=device,
        callbacks=replace(callbacks, begun=say),
    )
    found = study.done() if done else study.run()
    said: dict[str, Any] = {
        "title": settings.title,
        "missing": found.missing,
        "changes": changes or [],
        "commands": commands,
    }
    if study.table is None:
        text, page = write_methods(found.methods, folder, baselines=study.baselines, **said)
    else:
        published = settings.published.published() if settings.published else None
        report = write_report(study, found.tables, folder, published=published, **said)
        text, page = report.text, report.page
    result(text)
    result(str(page))


def _study_file(path: Path) -> Path:
    """The file of a study; those of configs ship with the program."""
    from stages.settings import packaged_config

    if path.exists():
        return path
    study = packaged_config("light_decoders.yaml")
    found = [*sorted(packaged_config("paper").glob("*.yaml")), study]
    packaged = {f"configs/{file.relative_to(study.parent)}": file for file in found}
    if str(path) not in packaged:
        raise UnknownNameError("study", str(path), packaged)
    return packaged[str(path)]


def _places(
    texts: list[str], settings: "StudySettings", built: Path, *, build: bool
) -> dict[str, Path]:
    """Return the place of each dataset of a study; demo sets are built below a folder."""
    names = settings.datasets
    if len(names) == 1 and len(texts) == 1 and "=" not in texts[0]:
        texts = [f"{names[0]}={texts[0]}"]
    places = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise InputError(f"--data {text!r}; expected NAME=PATH, NAME of {', '.join(names)}")
        if name not in names:
            raise UnknownNameError("dataset in --data", name, names)
        if not Path(path).exists():
            raise InputError(f"--data {text}: {path} is not there; expected a dataset")
        places[name] = Path(path)
    missing = [name for name in names if name not in places and name not in settings.demo]
    if missing:
        raise InputError(
            f"the study needs the dataset {missing[0]}; say where it lies: --data {missing[0]}=PATH"
        )
    for name in names:
        if name not in places:
            places[name] = _demo_set(settings.demo[name], name, built, build=build)
    return places


def _demo_set(settings: "DemoDataSettings", name: str, folder: Path, *, build: bool) -> Path:
    """Return the place of a demo set, which is built unless it is there."""
    from declip_pipeline.datasets.demo.build import build_demo_set
    from declip_pipeline.files import sha256_of_json
    from stages.screen import progress

    asked = settings.model_dump()
    place = folder / f"{name}-{sha256_of_json(asked)[:12]}"
    if build and not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with progress(f"building {name}", "images") as tell:
            build_demo_set(place, **asked, progress=tell)
    return place / "demo"
