"""The ``fedsteph`` command."""

from __future__ import annotations

import json
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fedsteph.client.site.site import TENSORBOARD_ON, site_folders
from fedsteph.client.training.epoch_log import require_tensorboard
from fedsteph.commands import budget, coordinator, heatmap
from fedsteph.commands import site as site_commands
from fedsteph.commands.audit import audit
from fedsteph.commands.benchmark import benchmark
from fedsteph.commands.keys import keys
from fedsteph.commands.privacy import privacy
from fedsteph.commands.report import analyze, report
from fedsteph.commands.roster import roster
from fedsteph.commands.terminal.check_table import problem_table
from fedsteph.commands.terminal.page_drawing import draw_page
from fedsteph.common.config.recipe import Config, load_config
from fedsteph.common.deployment.flower_app import config_folder
from fedsteph.common.host import console
from fedsteph.common.host.lock import exclusive
from fedsteph.simulations.run import simulate as simulation
from fedsteph.simulations.run.run_folder import RunFolder, prepare, refuse_among_sites
from fedsteph.simulations.run.run_page import write_run_page
from fedsteph.simulations.run.simulate import Engine
from fedsteph.simulations.run.summary import show

app = typer.Typer(
    name="fedsteph",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Federated, private survival models from whole-slide images (STEPH).",
    epilog="Exit codes: 0 done, 1 your input, 2 a site or the quorum failed, 3 a bug.",
)
app.add_typer(site_commands.data, name="data")
app.add_typer(keys, name="keys")
app.add_typer(roster, name="roster")
app.add_typer(audit, name="audit")
privacy.command("ledger")(budget.ledger)
privacy.command("plan")(budget.plan)
app.add_typer(privacy, name="privacy")
app.add_typer(coordinator.doctor, name="doctor")
app.add_typer(coordinator.app, name="app")
app.command("report")(report)
app.add_typer(analyze, name="analyze")
app.command("provision")(coordinator.provision)
app.command("provision-site")(coordinator.provision_site)
app.command("run")(coordinator.run)
app.command("recipe")(coordinator.recipe)
app.command("benchmark")(benchmark)
app.command("train")(site_commands.train)
app.command("predict")(site_commands.predict)
app.command("heatmap")(heatmap.command)


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


@app.command("simulate")
def simulate(
    sites: Annotated[
        Path | None, typer.Option(help="Folder of site folders; default: six synthetic hospitals are made.")
    ] = None,
    config: site_commands.ConfigOption = None,
    out: Annotated[Path, typer.Option(help="The run folder; the same run in it is resumed.")] = Path("fedsteph-run"),
    settings: site_commands.SetOption = None,
    engine: Annotated[Engine, typer.Option(help="Flower's simulation engine, or this process alone.")] = "flower",
    prepare_only: Annotated[
        bool, typer.Option("--prepare", help="Write the run folder, for 'flwr run', and stop.")
    ] = False,
    report_too: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the run's page, as 'fedsteph report' does.")
    ] = True,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write every training's epochs to OUT/tensorboard.")
    ] = False,
    as_json: site_commands.JsonOption = False,
) -> None:
    """Run a whole federation on this machine: site folders in, enhanced model out.

    \b
    Examples:
      fedsteph simulate
      fedsteph simulate --sites sites --set federation.targets='\\[kirp]'
      fedsteph simulate --sites sites --out run --config my.yaml
      fedsteph simulate --engine in-process --json > results.json
      fedsteph simulate --tensorboard      and meanwhile: tensorboard --logdir fedsteph-run/tensorboard

    \b
    Exit codes:
      0 done
      1 your input
      2 a site or the quorum failed; with a quorum left, results are written
      3 a bug
    The cause is on the last line.
    """
    out = out.resolve()
    if sites is None and config is None:
        config = config_folder() / "simulate.yaml"
    loaded = load_config(config, settings)
    if sites is not None:
        refuse_among_sites(out, sites)
    if tensorboard:
        require_tensorboard("--tensorboard")
    with exclusive(out, wait=False):
        run = _prepare(sites, loaded, out)
        (out / TENSORBOARD_ON).unlink(missing_ok=True)
        if tensorboard:
            (out / TENSORBOARD_ON).touch()
        if prepare_only:
            return
        results = simulation.run(run, engine)
        if as_json:
            print(json.dumps(results, indent=2, allow_nan=False))
        else:
            show(run, results)
        if report_too:
            draw_page(lambda on_step: write_run_page(out, on_step=on_step))
        simulation.require_no_failure(run, results)


def _prepare(sites: Path | None, config: Config, out: Path) -> RunFolder:
    with console.progress_bars() as bars:
        task = bars.add_task("preparing the sites", total=None)

        def on_file(site: str, done: int, total: int) -> None:
            bars.update(task, description=f"checking {site}", completed=done, total=total)

        folders = site_folders(sites) if sites else simulation.synthetic_sites(out, config.training.seed)
        run, warnings = prepare(out, config, folders, on_file)
    if warnings:
        console.err.print(problem_table(warnings))
    names, targets = ", ".join(site.name for site in run.sites), ", ".join(run.config.federation.targets)
    console.err.print(f"sites: {names}; target: {targets}; run folder: {out}", highlight=False, markup=False)
    return run


def main() -> None:
    """Entry point."""

    def stop(*_: object) -> None:
        console.err.print("stopping ...")
        raise KeyboardInterrupt

    # A plain kill ends a run as Ctrl-C does, with every process that it started; a background job starts with
    # SIGINT ignored, so that one is set too.
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stop)
    sys.exit(console.run(lambda: app(standalone_mode=False)))


if __name__ == "__main__":
    main()
