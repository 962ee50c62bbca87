"""The `declip-pipe` program: its commands, and errors turned into exit codes."""

import os
import sys
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from declip_pipeline import __version__
from declip_pipeline.errors import DeclipError, InputError
from stages.signals import Interruption, end_interrupted, interruptible, interruption_behind

TRACEBACK_VARIABLE = "DECLIP_PIPE_TRACEBACK"

# Of each command: where its function is, and the first sentence of its help.
COMMANDS = {
    "extract": (
        "stages.extract:extract",
        "Run a frozen backbone over a dataset once and store its features.",
    ),
    "train": (
        "stages.train:train",
        "Train decoders on the fakes of one or several stores.",
    ),
    "ablate": (
        "stages.ablate:ablate",
        "Train a decoder on every layer and say which one is good for what.",
    ),
    "evaluate": (
        "stages.evaluate:evaluate",
        "Evaluate runs on the fakes of stores, at each mask's own size.",
    ),
    "report": (
        "stages.report:report",
        "Write a report of runs that were evaluated: one HTML file that asks for nothing else.",
    ),
    "compare": (
        "stages.compare:compare",
        "Say by how much runs are better than each other on the images that all were evaluated on.",
    ),
    "predict": (
        "stages.predict:predict",
        "Find the manipulated pixels of images of any size and mode.",
    ),
    "app": (
        "stages.page.command:app",
        "Serve a local page that finds the manipulated pixels of an image dropped on it.",
    ),
    "reproduce": (
        "stages.reproduce:reproduce",
        "Extract, train and evaluate what a study asks for, and print its table.",
    ),
    "import-checkpoint": (
        "stages.import_checkpoint:import_checkpoint",
        "Make a run of a published checkpoint, for `evaluate` and `predict`.",
    ),
    "export": (
        "stages.export:export",
        "Write a run's decoder into files that other programs read.",
    ),
    "demo": (
        "stages.demo:demo",
        "Build four kinds of forgeries, extract, train, cross-test and draw.",
    ),
}
CACHE_COMMANDS = {
    "ls": (
        "stages.cache.ls:ls",
        "List the stores under ROOT: dataset, backbone, layers, images, size, complete or not.",
    ),
    "info": (
        "stages.cache.info:info",
        "Say what a store holds: identity, provenance, size of each array, samples and failures.",
    ),
    "show": (
        "stages.cache.show:show",
        "Show the features of a store as images: what each layer sees.",
    ),
    "compare": (
        "stages.cache.compare:compare",
        "Compare two stores layer by layer: size, reading speed, and the error of STORE_B.",
    ),
    "prune": (
        "stages.cache.prune:prune",
        "Remove layers, generators or splits from a store, or the whole store.",
    ),
    "verify": (
        "stages.cache.verify:verify",
        "Verify that a store is what was written, and name the layers and images that are not.",
    ),
    "export": (
        "stages.cache.export:export",
        "Write a whole store into one HDF5 file, for disks with few inodes, or to move it.",
    ),
    "import": (
        "stages.cache.import_file:import_file",
        "Make the store of an exported file again, below --cache, byte for byte as it was.",
    ),
}
DATA_COMMANDS = {
    "check": (
        "stages.data:check",
        "Check a dataset: print what was found, and what would spoil a result.",
    ),
}
RUNS_COMMANDS = {
    "ls": (
        "stages.runs:ls",
        "List the runs below FOLDER: state, date, scores, and the options in which they differ.",
    ),
}
GROUPS = {
    "cache": ("Look after stores.", CACHE_COMMANDS),
    "data": ("Look at datasets.", DATA_COMMANDS),
    "runs": ("Look at runs.", RUNS_COMMANDS),
}


class LazyCommand(TyperCommand):
    """Command whose module is imported when it runs, or when its own help is shown."""

    def __init__(self, name: str, place: str, first_sentence: str) -> None:
        """`place` is MODULE:FUNCTION."""
        super().__init__(name, help=first_sentence)
        self._place = place

    @cached_property
    def command(self) -> Any:
        """The command itself, with its options."""
        module, _, function = self._place.partition(":")
        from stages.help_page import DocumentedCommand

        alone = typer.Typer(add_completion=False)
        alone.command(self.name, cls=DocumentedCommand)(getattr(import_module(module), function))
        command: Any = typer.main.get_command(alone)
        command.params.append(_log_file_option())
        return command

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Make the context of the command itself, which then runs or shows its help."""
        return self.command.make_context(*arguments, **options)


def _log_file_option() -> Any:
    """Return the option that every command has."""
    from stages.log_file import open_log
    from stages.options import OUTPUT

    def holder(
        log_file: Annotated[
            Path | None,
            typer.Option(
                "--log-file",
                metavar="FILE",
                callback=open_log,
                expose_value=False,
                help="Also write what is said here into a file, with a line each 30 s on progress; "
                "added to it if it is there.",
                rich_help_panel=OUTPUT,
            ),
        ] = None,
    ) -> None: ...

    alone = typer.Typer(add_completion=False)
    alone.command()(holder)
    command: Any = typer.main.get_command(alone)
    return next(one for one in command.params if one.name == "log_file")


def _lazy(table: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    return {name: LazyCommand(name, *entry) for name, entry in table.items()}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"declip-pipe {__version__}")
        raise typer.Exit


def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Find the manipulated pixels of images with frozen foundation features.

    Stage one (extract) runs the frozen backbone once and stores every layer's features; stage two
    (train, evaluate) works from the store alone. Results go to stdout, progress to stderr. Exit
    codes: 0 done, 1 failed or done in part, 2 wrong input, 130 interrupted (143 by SIGTERM).
    """


def _command_tree() -> Any:
    root = typer.Typer(
        name="declip-pipe",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(program)
    tree: Any = typer.main.get_command(root)
    tree.commands.update(_lazy(COMMANDS))
    for name, (about, table) in GROUPS.items():
        tree.commands[name] = TyperGroup(
            name=name,
            help=about,
            commands=_lazy(table),
            no_args_is_help=True,
            rich_markup_mode="markdown",
        )
    return tree


app = _command_tree()


def main() -> None:
    """Run the program; an error is one line on stderr and a non-zero exit code."""
    try:
        with interruptible():
            # The result of a command, which other commands use; or the code of a `typer.Exit`.
            outcome = app(prog_name="declip-pipe", standalone_mode=False)
    except Interruption as interruption:
        end_interrupted(interruption)
    except Exception as error:
        behind = interruption_behind(error)
        if behind is not None:
            end_interrupted(behind)
        # Typer brings its own Click in newer versions, so the class has no one home to import from.
        if hasattr(error, "format_message"):
            _show_usage_error(error)
            sys.exit(2)
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        line = f"declip-pipe: {_one_line(error)}"
        print(line, file=sys.stderr)
        _close_log("failed", line)
        sys.exit(2 if isinstance(error, InputError) else 1)
    if isinstance(outcome, int) and outcome:
        _close_log("done in part")
        sys.exit(outcome)
    _close_log("done")


def _close_log(outcome: str, line: str = "") -> None:
    """Write how the command ended into its log file, if it has one."""
    if "stages.log_file" in sys.modules:
        from stages.log_file import close_log, log

        if line:
            log(line)
        close_log(outcome)


def _show_usage_error(error: Any) -> None:
    """Arguments that do not fit, in one line; a command group without a command shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    mark = "" if text.endswith("?") else ";"
    hint = f"{mark} see {context.command_path} --help" if context else ""
    print(f"declip-pipe: {text[:1].lower()}{text[1:]}{hint}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    if isinstance(error, DeclipError):
        from stages.texts import printable, spelled

        return printable(" ".join(spelled(str(error)).split()))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    kind, text = type(error).__name__, " ".join(str(error).split())
    return f"internal error, {kind}: {text}; set {TRACEBACK_VARIABLE}=1 for where, and report it"
