"""`declip-pipe demo`: both stages, end to end, on photographs that installed packages ship."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from declip_pipeline.errors import OutputExistsError
from stages.options import Device, DeviceOption, OverwriteOption

# What a demo makes in its folder, and all that --overwrite removes from it.
_MADE = (
    "config.json",
    "data",
    "cache",
    "runs",
    "matrix.png",
    "layers.png",
    "contact_sheet.png",
    "report.md",
)


def demo(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="Folder for everything it makes.")
    ] = Path("demo-output"),
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings. Default: the packaged configs/demo.yaml."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the pictures and of the trainings.")] = 0,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Build four kinds of forgeries, extract, train, cross-test and draw.

    Takes some minutes and no network: photographs and the backbone's weights come with installed
    packages. Writes report.md with the 4x4 matrix of IoU, the layer ablation and pictures into
    OUT; its path is the last line of stdout. An interrupted demo goes on where it stopped.
    """
    from stages.settings import DemoSettings, packaged_config, read_settings

    settings = read_settings(config or packaged_config("demo.yaml"), DemoSettings)
    _prepare(out, {"seed": seed, **settings.model_dump()}, overwrite=overwrite)

    from declip_pipeline.devices import choose_device
    from stages.demo_study import DemoStudy
    from stages.screen import result

    study = DemoStudy(out, settings, seed=seed, device=choose_device(device.value))
    result(str(study.run()))


def _prepare(out: Path, config: dict[str, object], *, overwrite: bool) -> None:
    """Make OUT, or find an unfinished demo of the same settings in it."""
    import json

    from declip_pipeline.atomic_files import write_json

    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out} is a file; name a folder with -o")
    marker = out / "config.json"
    if overwrite and marker.is_file():
        for name in _MADE:
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    if marker.is_file() and not (out / "report.md").exists():
        if json.loads(marker.read_text()) == config:
            return
        raise OutputExistsError(
            f"{out} holds an unfinished demo of other settings; pass --overwrite to replace it, "
            "or name another folder with -o"
        )
    if out.is_dir() and any(out.iterdir()):
        raise OutputExistsError(
            f"{out} exists and is not empty; pass --overwrite to replace a demo in it, "
            "or name another folder with -o"
        )
    write_json(marker, config)
