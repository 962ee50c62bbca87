"""`declip-pipe demo`: both stages, end to end, on photographs that installed packages ship."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline import __version__
from declip_pipeline.errors import InputError, OutputExistsError
from stages.options import (
    DeviceOption,
    FigureFormatOption,
    ForPaperOption,
    OverwriteOption,
    PaperColumnsOption,
    figure_style,
    require_folder,
)

if TYPE_CHECKING:
    from declip_pipeline.study.demo import DemoBackbone
    from stages.settings import DemoSettings

MARKER = "declip-demo.json"
MARK = "declip_pipe_demo"
REPORT = "report.html"

# What a demo makes in its folder beside the marker, and all that --overwrite removes from it.
_MADE = (
    "data",
    "cache",
    "runs",
    "figures",
    "pairings.csv",
    "times.csv",
    REPORT,
)


def demo(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="Folder for everything it makes.")
    ] = Path("demo-output"),
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings. Default: the packaged configs/demo.yaml."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the images, and added to those of trainings.")
    ] = 0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    figure_format: FigureFormatOption = "png",
    for_paper: ForPaperOption = False,
    paper_columns: PaperColumnsOption = None,
) -> None:
    """Build four kinds of forgeries, extract, train, cross-test and draw.

    Takes some minutes and no network: photographs and the backbones' weights come with installed
    packages. Writes the figures with their data into OUT, and report.html, whose path is the last
    line of stdout, with the layers of a ViT and the 4x4 matrices of IoU of a ViT and a CNN. The
    same command again finds the demo finished and does nothing; after an interruption it goes on
    where it stopped. The ViT's weights are in the extra dinov2; without it the CNN is shown alone.
    """
    from stages.settings import DemoSettings, packaged_config, read_settings

    require_folder(out, "-o")
    path = config or packaged_config("demo.yaml")
    settings = read_settings(path, DemoSettings)

    from declip_pipeline.compute import choose_device
    from declip_pipeline.evaluation.metrics import PROTOCOL
    from declip_pipeline.reports.figure_file import FigureStyle
    from declip_pipeline.study.callbacks import Callbacks
    from declip_pipeline.study.demo import Demo
    from stages.screen import progress, remark, result

    style = figure_style(figure_format, for_paper, paper_columns)
    choose_device(device)
    asked = settings.model_dump()
    sizes = {name: value for name, value in asked.items() if name not in ("train", "backbones")}
    study = Demo(
        out,
        _backbones(path, settings),
        **sizes,
        seed=seed,
        device=device,
        callbacks=Callbacks(notice=remark, progress=progress),
        style=style,
    )
    study.check()
    marked = {"version": __version__, "seed": seed, **asked, "left_out": study.left_out}
    if style != FigureStyle():
        marked |= {"figures": [style.format, style.columns]}
    if _prepare(out, marked, overwrite=overwrite):
        remark("the demo is finished already, nothing to do (--overwrite does it again)")
        result(str(out / REPORT))
        return
    found = study.run()
    for title, matrix in found.matrices.items():
        result(f"{title}\n{matrix}")
    result(f"IoU {PROTOCOL}")
    remark(", ".join(f"{step} {seconds:.0f} s" for step, seconds in found.seconds.items()))
    result(str(found.report))


def _backbones(path: Path, settings: "DemoSettings") -> "list[DemoBackbone]":
    """Read the options of the trainings as `train` does.

    Raises `InputError` for an option that does not exist, or that the demo sets itself.
    """
    from declip_pipeline.study.demo import DemoBackbone
    from stages.study_options import read_training
    from stages.texts import flag_of
    from stages.training_options import option_fields

    fields = option_fields()
    found = []
    for backbone in settings.backbones:
        trainings = []
        for number, options in enumerate(backbone.train):
            where = f"config {path}, {backbone.arch}, train[{number}]"
            step = read_training(
                [], {**settings.train, **options}, where, dask=None, scheduler=None
            )
            for name, value in step.options.items():
                if value is not None and (
                    name in ("train_on", "device")
                    or fields[name].option.group in ("data", "output")
                ):
                    flag = flag_of("detection" if name == "pooling" else name)
                    raise InputError(f"{where}: {flag} is for the demo to set; leave it out")
            trainings.append(step.options)
        found.append(DemoBackbone(backbone.arch, tuple(trainings)))
    return found


def _prepare(out: Path, asked: dict[str, Any], *, overwrite: bool) -> bool:
    """Make OUT fit for the demo that is asked for; says whether it holds it already, finished.

    Raises `OutputExistsError` when it holds anything else, unless that is a demo and `overwrite`.
    """
    from declip_pipeline.files import write_json

    marker = out / MARKER
    if out.is_dir() and any(out.iterdir()):
        found = _marked(marker)
        if overwrite:
            # Until all is removed, the folder is that of no demo in particular.
            write_json(marker, {MARK: None})
            _remove_demo(out)
        elif found == asked:
            return (out / REPORT).is_file()
        else:
            raise OutputExistsError(
                f"{out} holds a demo of other settings or another version; pass --overwrite to "
                "replace it, or name another folder with -o"
            )
    write_json(marker, {MARK: asked})
    return False


def _marked(marker: Path) -> object:
    """Return the recorded settings of a folder; refuse one that is not a demo's."""
    try:
        return json.loads(marker.read_bytes())[MARK]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OutputExistsError(
            f"{marker.parent} exists, is not empty and holds no demo; name another folder with -o"
        ) from error


def _remove_demo(out: Path) -> None:
    for name in _MADE:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
