"""`declip-pipe app`: a local page to drop an image on."""

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from declip_pipeline.errors import DeclipError, InputError
from stages.options import MACHINE, DeviceOption, MegapixelsOption, WeightsOption, finite

LOOPBACK = "127.0.0.1"


def app(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Runs that `train` printed; shown side by side."),
    ],
    port: Annotated[
        int,
        typer.Option(min=0, max=65_535, help="Port of the page; 0 takes a free one."),
    ] = 7860,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. Any other than the default lets other machines upload "
            "images here.",
        ),
    ] = LOOPBACK,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|valid",
            help="Where the threshold slider stands at first; valid takes the threshold that was "
            "best on the split valid of the first run.",
        ),
    ] = "0.5",
    max_megabytes: Annotated[
        float,
        typer.Option(
            min=0.01,
            callback=finite,
            rich_help_panel=MACHINE,
            help="Largest file to take, in millions of bytes.",
        ),
    ] = 50.0,
    max_megapixels: MegapixelsOption = 50.0,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Serve a local page that finds the manipulated pixels of an image dropped on it.

    The page shows for each run an overlay, a mask and a map, how much looks manipulated and, as far
    as the run knows, how often it says so of real images; the threshold moves without computing
    again. Images of any size, with a run on tiles by windows. The page asks for nothing from other
    machines and sends nothing to any. An upload is removed once it is read, results ten minutes
    after, and all else when the page is closed with Ctrl-C. Programs call /gradio_api (see the
    guide). The first line of stdout is the page's address.
    """
    _require_gradio()
    port = _free_port(host, port)

    from declip_pipeline.prediction.analysis import Analyzer
    from stages.figures_texts import (
        remark_no_real,
        remark_problems,
        remark_repeated,
        remark_weak_maps,
    )
    from stages.predict import threshold_of
    from stages.screen import remark, working

    start = threshold_of(threshold)
    with working("opening the runs"):
        analyzer = Analyzer(runs, weights=weights, device=device, max_megapixels=max_megapixels)
    remark_repeated(analyzer.repeated)
    remark_weak_maps(analyzer.runs)
    remark_no_real(analyzer.runs)
    remark_problems(analyzer.runs)
    if start == "valid":
        start = analyzer.runs[0].require_valid_threshold()
    if host != LOOPBACK:
        remark(f"other machines that reach {host} can upload images to this page")
    # Read by Gradio when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with TemporaryDirectory(prefix="declip-pipe-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder

        from stages.page.serving import serve

        serve(
            analyzer,
            Path(folder),
            host=host,
            port=port,
            threshold=start,
            max_bytes=int(max_megabytes * 1e6),
        )


def _require_gradio() -> None:
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise DeclipError(
            "the page needs Gradio, which is not installed; pip install 'declip-pipe[app]'"
        )


def _free_port(host: str, port: int) -> int:
    """Return a port that can be listened on. Raises `InputError` for one that cannot."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"--host {host} is no address of this machine") from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            return int(probe.getsockname()[1])
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InputError(
                f"port {port} of {host} cannot be used: {reason}; name another with --port, or "
                "--port 0 for a free one"
            ) from error
