"""Page on Gradio: its layout, its events, and its server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from declip_pipeline.errors import DeclipError, ImageError
from declip_pipeline.prediction.analysis import Analyzer
from stages.page import cards, texts
from stages.screen import remark, result
from stages.signals import signals_answered_by
from stages.texts import printable

# Of results that were made for a download.
KEPT_SECONDS = 600
_SWEPT_EVERY = 30
# Images of that many pages are kept in memory, for their thresholds.
_SESSIONS = 8
_SESSION_SECONDS = 1800
# One image is computed at a time, others wait in turn.
_FORWARD = "forward"
_MOST_WAITING = 20

_FONTS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "DejaVu Sans", "sans-serif")

# A file that is pasted anywhere on the page goes the way of one that is chosen. In the head, since
# the page shows its parts before it runs what `js` holds.
_HEAD = """
<script>
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files?.[0];
    const input = document.querySelector("#upload input[type=file]");
    if (!file || !input) return;
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    event.preventDefault();
  });
</script>
"""
_SAVE = """
(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  document.body.append(link);
  link.click();
  link.remove();
}
"""


def _of_uploads(place: Any) -> Any:
    """Return a place for a file that refuses an address, which Gradio would download.

    A subclass would do, but Gradio writes a file beside the module of each.
    """
    take = place.async_move_resource_to_block_cache

    async def take_upload(path: Any) -> Any:
        if "://" in str(path or ""):
            raise gr.Error("an address was given, expected a file", print_exception=False)
        return await take(path)

    place.async_move_resource_to_block_cache = take_upload
    return place


def serve(
    analyzer: Analyzer, folder: Path, *, host: str, port: int, threshold: float, max_bytes: int
) -> None:
    """Serve the page until the program is interrupted.

    Args:
        analyzer: The runs.
        folder: Folder of uploads and downloads, which Gradio was told; removed by the caller.
        host: Address to listen on.
        port: A port that is free.
        threshold: Where the slider stands at first.
        max_bytes: Largest upload.

    Raises:
        DeclipError: The server did not start.
    """
    page = build_page(analyzer, folder, threshold=threshold)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            run_history=False,  # else the browser keeps every image
            footer_links=[],
            show_error=True,
            max_file_size=max_bytes,
            state_session_capacity=_SESSIONS,
            theme=_theme(),
            css_paths=Path(__file__).with_name("page.css"),
            head=_HEAD,
        )
    except OSError as error:
        raise DeclipError(f"the page cannot listen on port {port} of {host}: {error}") from error
    closed = threading.Event()
    try:
        with signals_answered_by(closed.set), _swept(folder):
            result(address)
            remark("Ctrl-C closes the page")
            closed.wait()
    finally:
        page.close(verbose=False)
    remark("the page is closed")


def _theme() -> Any:
    """Return a theme of system fonts, with quiet text that is still read easily."""
    theme = gr.themes.Default(
        primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=list(_FONTS)
    )
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_background_fill_dark="#14171a",
        block_background_fill_dark="#1d2226",
        block_label_background_fill_dark="#1d2226",
        border_color_primary_dark="#3a4148",
    )


def build_page(analyzer: Analyzer, folder: Path, *, threshold: float) -> gr.Blocks:
    """Return the page; arguments as for `serve`."""

    def look(
        upload: str | None,
        threshold: float,
        view: cards.View,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        if upload is None:  # the upload was cleared
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        path = Path(upload)
        try:
            image = analyzer(
                path, path.name, progress=lambda done, total: progress((done, total), unit="parts")
            )
        except ImageError as error:
            refused = cards.refusal(printable(path.name), str(error))
            return None, None, refused, gr.Button(interactive=False)
        finally:
            path.unlink(missing_ok=True)
        shown = cards.result_cards(image, threshold, view)
        return image, None, shown, gr.Button(interactive=True)

    def show(image: Any, threshold: float, view: cards.View) -> Any:
        return gr.skip() if image is None else cards.result_cards(image, threshold, view)

    def save(image: Any, threshold: float) -> str | None:
        return None if image is None else _written(folder, image, threshold)

    def predict(upload: str, threshold: float) -> tuple[dict[str, Any], str]:
        path = Path(upload)
        if not 0 <= threshold <= 1:
            raise gr.Error(f"the threshold is {threshold}; expected a number from 0 to 1")
        try:
            image = analyzer(path, path.name)
        except ImageError as error:
            raise gr.Error(f"{path.name}: {error}", print_exception=False) from error
        finally:
            path.unlink(missing_ok=True)
        found = {
            "image": image.name,
            "height": image.size[0],
            "width": image.size[1],
            "threshold": threshold,
            "runs": [
                {
                    "run": one.run.name,
                    "score": one.maps.score,
                    "fake_share": one.fake_share(threshold),
                    "verdict": texts.verdict(one, threshold),
                    "on_real_images": texts.rate(one, threshold),
                    "notes": texts.notes(image, one),
                }
                for one in image.findings
            ],
        }
        return found, _written(folder, image, threshold)

    with gr.Blocks(title="declip-pipe", analytics_enabled=False, fill_width=True) as page:
        kept = gr.State(time_to_live=_SESSION_SECONDS)
        gr.HTML(f"<h1>Where was this image edited?</h1><p>{texts.NOTICE}</p>", elem_id="heading")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = _of_uploads(
                    gr.File(label="Drop, paste or choose an image", height=190, elem_id="upload")
                )
                slider = gr.Slider(
                    0.01,
                    0.99,
                    value=threshold,
                    step=0.01,
                    label="Threshold",
                    info="A pixel above this probability is called manipulated.",
                    elem_id="threshold",
                    buttons=[],
                )
                view = gr.Radio(
                    list(cards.VIEWS), value=cards.VIEWS[0], label="Show", elem_id="view"
                )
                button = gr.Button(
                    "Download all results", variant="primary", interactive=False, elem_id="download"
                )
            with gr.Column(scale=3, min_width=300):
                shown = gr.HTML(
                    '<div class="results"><p class="file">Results appear here.</p></div>',
                    elem_id="results",
                )
        file = gr.File(visible="hidden", elem_id="archive")
        with gr.Row(visible=False):
            for_programs = gr.Button()
            given, level = _of_uploads(gr.File(label="image")), gr.Number(0.5, label="threshold")
            answer, archive = gr.JSON(label="found"), gr.File(label="results")
        gr.on(
            [upload.upload],
            look,
            [upload, slider, view],
            [kept, upload, shown, button],
            concurrency_limit=1,
            concurrency_id=_FORWARD,
            show_progress_on=shown,
            api_visibility="private",
        )
        gr.on(
            [slider.change, view.change],
            show,
            [kept, slider, view],
            shown,
            trigger_mode="always_last",
            concurrency_limit=4,
            show_progress="hidden",
            api_visibility="private",
        )
        button.click(
            save, [kept, slider], file, concurrency_limit=2, api_visibility="private"
        ).then(None, file, None, js=_SAVE)
        for_programs.click(
            predict,
            [given, level],
            [answer, archive],
            concurrency_limit=1,
            concurrency_id=_FORWARD,
            api_name="predict",
        )
    page.queue(max_size=_MOST_WAITING)
    return page


def _written(folder: Path, image: Any, threshold: float) -> str:
    """Write an image's results for a download, and return the file."""
    own = folder / f"results-{time.time_ns()}"
    own.mkdir()
    path = own / f"{Path(image.name).stem}.zip"
    path.write_bytes(image.archive(threshold))
    return str(path)


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """Remove files of the folder that are older than `KEPT_SECONDS`, until the block ends."""
    ended = threading.Event()

    def sweep() -> None:
        while not ended.wait(_SWEPT_EVERY):
            remove_old(folder, KEPT_SECONDS)

    threading.Thread(target=sweep, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def remove_old(folder: Path, seconds: float) -> None:
    """Remove the files of a folder that were written longer ago."""
    for path in folder.rglob("*"):
        try:
            if path.is_file() and time.time() - path.stat().st_mtime > seconds:
                path.unlink()
        except FileNotFoundError:
            continue
