"""`declip-pipe reproduce`: a table of a paper with one command, beside the published figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from declip_pipeline.errors import InputError, UnknownNameError
from stages.options import (
    CacheOption,
    ColumnsOption,
    DeviceOption,
    FigureFormatOption,
    ForPaperOption,
    SchedulerOption,
    WeightsOption,
    figure_style,
    require_folder,
)
from stages.training_options import DaskOption, RunsOption

if TYPE_CHECKING:
    from declip_pipeline.study.extraction import ExtractionStep
    from declip_pipeline.study.study import TrainingStep


def reproduce(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="A study, such as those in configs/paper.")
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=PATH",
            help="Where a dataset of the study lies, as `extract` takes it; repeatable. Of a study "
            "with one dataset, PATH is enough.",
        ),
    ],
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
    device: DeviceOption = "auto",
    dask: DaskOption = None,
    scheduler: SchedulerOption = None,
    figure_format: FigureFormatOption = "png",
    for_paper: ForPaperOption = False,
    columns: ColumnsOption = None,
) -> None:
    """Extract, train and evaluate what a study asks for, and print its table.

    Each step is a command of this program, which is printed before it begins; what is done already
    is found, so the same command goes on after an interruption. A figure that was published stands
    behind ours, with the difference. The last line of stdout is table.md, with table.csv,
    table.png, the runs in results.csv, and report.html (see `declip-pipe report`) beside it.
    """
    from dataclasses import replace

    from declip_pipeline.evaluation.groups import parse_aliases
    from declip_pipeline.study.report import write_report
    from stages.report import write_page
    from stages.screen import remark, result
    from stages.study_screen import callbacks, command_of
    from stages.study_settings import read_study

    style = figure_style(figure_format, for_paper, columns)
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
        _places(data, settings.datasets),
        extract={name: value for name, value in extract.items() if value},
        train={**everywhere, "runs": str(runs), "device": device},
        device=device,
        callbacks=replace(callbacks, begun=say),
    )
    rows, evaluations = study.carry_out()
    aliases = parse_aliases(study.test.aliases)
    report = write_report(
        study,
        study.table.of(evaluations, study.test.aliases),
        folder,
        title=settings.title,
        published=settings.published.published() if settings.published else None,
        changes=changes or [],
        commands=commands,
        rows=rows,
        style=style,
    )
    write_page(
        folder / "report.html",
        evaluations,
        settings.title,
        commands=commands,
        aliases=aliases,
        device=device,
    )
    result(report.text)
    result(str(report.page))


def _study_file(path: Path) -> Path:
    """The file of a study; those of configs/paper ship with the program."""
    from stages.settings import packaged_config

    if path.exists():
        return path
    folder = packaged_config("paper")
    packaged = {f"configs/paper/{file.name}": file for file in sorted(folder.glob("*.yaml"))}
    if str(path) not in packaged:
        raise UnknownNameError("study", str(path), packaged)
    return packaged[str(path)]


def _places(texts: list[str], names: list[str]) -> dict[str, Path]:
    """Return the place of each dataset of a study."""
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
    missing = [name for name in names if name not in places]
    if missing:
        raise InputError(
            f"the study needs the dataset {missing[0]}; say where it lies: --data {missing[0]}=PATH"
        )
    return places
