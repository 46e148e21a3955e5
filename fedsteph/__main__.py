"""The ``fedsteph`` command: every command under its panel, one way to an exit code, one way to stop."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsteph.commands.federation.audit import audit
from fedsteph.commands.federation.config import config
from fedsteph.commands.federation.doctor import doctor
from fedsteph.commands.federation.health import health
from fedsteph.commands.federation.provision import provision, provision_renew, provision_site
from fedsteph.commands.federation.prune import prune
from fedsteph.commands.federation.roster import roster
from fedsteph.commands.federation.run import recipe, run
from fedsteph.commands.federation.status import status
from fedsteph.commands.research.benchmark import benchmark
from fedsteph.commands.research.measure import measure
from fedsteph.commands.research.report import analyze, report
from fedsteph.commands.research.simulate import simulate
from fedsteph.commands.research.trust import trust
from fedsteph.commands.site.app import app as reviewed_app
from fedsteph.commands.site.backup import backup, restore
from fedsteph.commands.site.data import data
from fedsteph.commands.site.enhance import enhance
from fedsteph.commands.site.evaluate import evaluate
from fedsteph.commands.site.heatmap import heatmap
from fedsteph.commands.site.keys import keys
from fedsteph.commands.site.model import model
from fedsteph.commands.site.predict import predict
from fedsteph.commands.site.privacy import privacy
from fedsteph.commands.site.train import train
from fedsteph.commands.site.vectors import vectors
from fedsteph.commands.terminal.command_group import CommandGroup
from fedsteph.commands.terminal.exit_codes import run as run_command
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import console

app = typer.Typer(
    name="fedsteph",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Federated, private survival models from whole-slide images (STEPH).",
    epilog="Exit codes: 0 done, 1 your input, 2 a site or the quorum failed, 3 a bug.",
)
_PANELS: dict[str, dict[str, Any]] = {
    "On one machine": {
        "simulate": simulate,
        "benchmark": benchmark,
        "report": report,
        "trust": trust,
        "analyze": analyze,
        "measure": measure,
    },
    "At a site": {
        "data": data,
        "train": train,
        "enhance": enhance,
        "model": model,
        "predict": predict,
        "evaluate": evaluate,
        "heatmap": heatmap,
        "privacy": privacy,
        "keys": keys,
        "vectors": vectors,
        "app": reviewed_app,
        "backup": backup,
        "restore": restore,
    },
    "In a deployment": {
        "provision": provision,
        "provision-site": provision_site,
        "provision-renew": provision_renew,
        "roster": roster,
        "doctor": doctor,
        "status": status,
        "health": health,
        "config": config,
        "recipe": recipe,
        "run": run,
        "audit": audit,
        "prune": prune,
    },
}
for panel, commands in _PANELS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, cls=CommandGroup, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)


def _version(asked: bool) -> None:
    if asked:
        print(f"fedsteph {version('fedsteph')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _command() -> object:
    # Pages, tables and messages hold paths as text: a path of other bytes would fail in the middle of the work.
    for text in (*sys.argv[1:], str(Path.cwd())):
        if text.encode(errors="ignore").decode() != text:
            raise ConfigError("is not UTF-8", where=text, remedy="Rename the file or folder")
    return app(standalone_mode=False)


def main() -> None:
    """Run the command line of this process, and end it with its exit code."""

    def stop(*_: object) -> None:
        console.tell("stopping ...")
        raise KeyboardInterrupt

    # A plain kill ends a run as Ctrl-C does, with every process that it started; a background job starts with
    # SIGINT ignored, so that one is set too.
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stop)
    sys.exit(run_command(_command))


if __name__ == "__main__":
    main()
