"""The commands under `declip-pipe data`."""

import typer

from stages.data.check import check

app = typer.Typer(name="data", no_args_is_help=True, help="Look at data sets.")

# Without a callback, Typer would take a lone command's name away.
app.callback()(lambda: None)
app.command()(check)
