"""``fedsteph measure``: what a vector's way costs, and what poisoned vectors do, measured on the machine at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import console

measure = typer.Typer(
    no_args_is_help=True, help="Measure on this machine: time, memory, bytes, and what poisoned vectors do."
)


@measure.command("site")
def site(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds and sizes; some 5 minutes on 2 cores.")] = False,
    threads: Annotated[int | None, typer.Option(help="Torch's threads; default: its own choice.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Time and weigh training, inference and reading at the paper's sizes, against the plain implementation.

    \b
    Examples:
      fedsteph measure site --quick                  in a git checkout, which has the plain implementation
    """
    import torch

    from fedsteph.commands.terminal.measure_tables import show_site_work
    from fedsteph.simulations.bench.site_work import QUICK, WHOLE, measure

    if threads is not None:
        torch.set_num_threads(threads)
    found = measure(QUICK if quick else WHOLE, console.tell)
    _tell(found, as_json, show_site_work)


@measure.command("data-path")
def data_path(
    slides: Annotated[int, typer.Option(help="Synthetic slides per layout.", min=1)] = 8,
    instances: Annotated[int, typer.Option(help="Patches per slide.", min=1)] = 10_000,
    width: Annotated[int, typer.Option(help="Features per patch.", min=1)] = 1536,
    repeats: Annotated[int, typer.Option(help="Timed epochs of each kind.", min=1)] = 3,
    as_json: JsonOption = False,
) -> None:
    """Compare h5py with features kept on disk, and print the seconds of an epoch and the ratios.

    \b
    Examples:
      fedsteph measure data-path --slides 4 --instances 2000
    """
    from fedsteph.commands.terminal.measure_tables import show_data_path
    from fedsteph.simulations.bench.data_path import measure

    _tell(measure(slides, instances, width, repeats), as_json, show_data_path)


@measure.command("sealing")
def sealing(
    repeats: Annotated[int, typer.Option(help="Timed calls of each step.", min=20)] = 50,
    threads: Annotated[int, typer.Option(help="Torch's threads.", min=1)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Time writing, sealing, opening and reading a vector of the default sizes.

    \b
    Examples:
      fedsteph measure sealing --json
    """
    import torch

    from fedsteph.commands.terminal.measure_tables import show_sealing
    from fedsteph.common.config.recipe import ModelConfig
    from fedsteph.common.model.architecture import Architecture
    from fedsteph.simulations.relay.sealing import measure

    torch.set_num_threads(threads)
    _tell(measure(Architecture.of(ModelConfig(width=1536)), repeats), as_json, show_sealing)


@measure.command("relay")
def relay(
    sources: Annotated[list[int], typer.Option(help="Envelopes in the message; may be given again.", min=1, max=1000)],
    repeats: Annotated[int, typer.Option(help="Deliveries, and hellos after the first.", min=1)] = 5,
    as_json: JsonOption = False,
) -> None:
    """Time the delivery of sealed vectors of the default sizes to one target, through real Flower processes.

    \b
    Examples:
      fedsteph measure relay --sources 13 --sources 50
    """
    from fedsteph.commands.terminal.measure_tables import show_relay
    from fedsteph.simulations.bench.figures import machine
    from fedsteph.simulations.relay.relay_cost import SCHEMA, measure

    found = {"schema": SCHEMA, "machine": machine(), "runs": [measure(n, repeats) for n in sources]}
    _tell(found, as_json, show_relay)


@measure.command("poison")
def poison(
    sites: Annotated[Path, typer.Option(help="Folder of site folders.")],
    targets: Annotated[list[str], typer.Option(help="Sites to attack. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Where what is done is kept.")] = Path("fedsteph-poison"),
    attacks: Annotated[list[str] | None, typer.Option(help="Some of the attacks. Repeatable.")] = None,
    counts: Annotated[list[int] | None, typer.Option(help="Numbers of malicious sources; default 1 to 4.")] = None,
    folds: Annotated[int, typer.Option(help="The first so many folds.", min=1)] = 5,
    sources: Annotated[int, typer.Option(help="Sources; large sites are cut in two until there are enough.")] = 12,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change a key of the recipe. Repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fold 0, 4 malicious sources.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Attack targets with poisoned vectors, and say what is deployed with and without screening.

    Every fold of every attack is kept as it is done; the same command goes on where it was stopped, and several may
    work in one folder, for different targets.

    \b
    Examples:
      fedsteph measure poison --sites sites --targets lihc --targets skcm --out poison
      fedsteph measure poison --sites sites --targets lihc --quick
    """
    from fedsteph.commands.terminal.measure_tables import show_poison
    from fedsteph.simulations.attacks.poison import cells_of, keep_results, measured, workspaces_of
    from fedsteph.simulations.attacks.suite import ATTACKS
    from fedsteph.simulations.attacks.trial import Ground
    from fedsteph.simulations.run.run_folder import refuse_among_sites

    out = out.resolve()
    refuse_among_sites(out, sites.resolve())
    workspaces = workspaces_of(sites.resolve(), out, settings or [])
    for key, given, known in (("--targets", targets, workspaces), ("--attacks", attacks or [], ATTACKS)):
        if strangers := [name for name in given if name not in known]:
            raise ConfigError(f"'{strangers[0]}' is not known", where=key, remedy=f"Known: {', '.join(known)}")
    grounds = {target: Ground(target, workspaces, sources) for target in targets}
    n_malicious = [4] if quick else counts or [1, 2, 3, 4]
    wanted = cells_of(targets, range(1 if quick else folds), attacks or list(ATTACKS), n_malicious)
    done = []
    with console.progress_bar() as progress:
        for i, cell in enumerate(wanted):
            progress(f"{cell.target}: {cell.attack} x {cell.n}, fold {cell.fold}")(i, len(wanted))
            if not console.err.is_terminal:
                console.tell(f"{i} of {len(wanted)}: {cell}")
            done.append(measured(out, grounds[cell.target], cell))
    _tell(keep_results(out, done), as_json, lambda found: show_poison(found["rows"]))


def _tell(found: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    (console.show_json if as_json else show)(found)
