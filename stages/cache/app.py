"""The commands under `declip-pipe cache`."""

import typer

from stages.cache.compare import compare
from stages.cache.export import export
from stages.cache.import_file import import_file
from stages.cache.info import info
from stages.cache.ls import ls
from stages.cache.prune import prune
from stages.cache.verify import verify

app = typer.Typer(name="cache", no_args_is_help=True, help="Look after stores.")

for command in (ls, info, compare, prune, verify):
    app.command()(command)
app.command("export")(export)
app.command("import")(import_file)
