"""``fedsteph simulate``: a whole federation on this machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedsteph.commands.terminal.options import ConfigOption, JsonOption, SetOption
from fedsteph.common.host import console
from fedsteph.common.host.lock import exclusive

if TYPE_CHECKING:
    from fedsteph.common.config.run_config import Config
    from fedsteph.simulations.run.run_folder import RunFolder


def simulate(
    sites: Annotated[
        Path | None, typer.Option(help="Folder of site folders; default: those of a synthetic world are made.")
    ] = None,
    world: Annotated[
        str | None,
        typer.Option(help="The synthetic world: six_cancers (default), hospitals, kinds or strangers."),
    ] = None,
    config: ConfigOption = None,
    out: Annotated[Path, typer.Option(help="The run folder; the same run in it is resumed.")] = Path("fedsteph-run"),
    settings: SetOption = None,
    engine: Annotated[
        Literal["flower", "in-process"], typer.Option(help="Flower's simulation engine, or this process alone.")
    ] = "flower",
    prepare_only: Annotated[
        bool, typer.Option("--prepare", help="Write the run folder, for 'flwr run', and stop.")
    ] = False,
    report_too: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the run's page, as 'fedsteph report' does.")
    ] = True,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write every training's epochs to OUT/tensorboard.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a whole federation on this machine: site folders in, enhanced model out.

    \b
    Examples:
      fedsteph simulate
      fedsteph simulate --world kinds --out kinds
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
    from fedsteph.client.site.site_of_node import TENSORBOARD_ON
    from fedsteph.client.training.epoch_log import require_tensorboard
    from fedsteph.commands.terminal.page_drawing import draw_page
    from fedsteph.commands.terminal.run_tables import show
    from fedsteph.server.manifest import MANIFEST_FILE
    from fedsteph.simulations.run import simulate as simulation
    from fedsteph.simulations.run.flower_engine import started
    from fedsteph.simulations.run.run_folder import refuse_among_sites
    from fedsteph.simulations.run.run_page import write_run_page

    out = out.resolve()
    loaded = simulation.configured(sites, config, settings)
    if sites is not None:
        refuse_among_sites(out, sites)
    if tensorboard:
        require_tensorboard("--tensorboard")
    with exclusive(out, wait=False), ExitStack() as stack:
        is_new = sites is None and engine == "flower" and not prepare_only and not (out / MANIFEST_FILE).exists()
        # The sites of a world take seconds to make, and so does the engine's start.
        flower = stack.enter_context(started(out)) if is_new else None
        run = _prepare(sites, world, loaded, out)
        (out / TENSORBOARD_ON).unlink(missing_ok=True)
        if tensorboard:
            (out / TENSORBOARD_ON).touch()
        if prepare_only:
            return
        results = simulation.run(run, engine, flower)
        if as_json:
            console.show_json(results.to_dict())
        else:
            show(run, results)
        if report_too:
            draw_page(lambda progress: write_run_page(out, progress=progress))
        simulation.require_no_failure(run, results)


def _prepare(sites: Path | None, world: str | None, config: Config, out: Path) -> RunFolder:
    from fedsteph.commands.terminal.check_table import show_problems
    from fedsteph.simulations.run.simulate import prepare_run

    with console.progress_bar() as progress:
        progress("preparing the sites")
        run, warnings = prepare_run(out, sites, config, lambda site: progress(f"checking {site}"), world)
    if warnings:
        show_problems(console.err, warnings)
    names, targets = ", ".join(site.name for site in run.sites), ", ".join(run.config.federation.targets)
    console.tell(f"sites: {names}; target: {targets}; run folder: {out}")
    return run
