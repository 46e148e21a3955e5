"""``fedsteph run`` and ``recipe``: a run on a deployment, and what it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from fedsteph.commands.terminal.options import ConfigOption, JsonOption, ServerArgument, SetOption
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.server.outcome import Outcome


def run(
    server: ServerArgument,
    settings: SetOption = None,
    as_json: JsonOption = False,
    drain: Annotated[
        bool, Option("--drain", help="Let the present run end before its next phase; start none.")
    ] = False,
    resume: Annotated[
        bool, Option("--resume", help="Start the newest run again, under its name: it was killed, or failed.")
    ] = False,
) -> None:
    """Start a run on a deployment, and follow it to its end. For the coordinator, on the server's machine.

      \b
      Examples:
        fedsteph run server
        fedsteph run server --set 'federation.targets=\\[kirp]' --json > results.json
        fedsteph run server --drain     # for maintenance; the next run goes on from what sites have trained
    fedsteph run server --resume    # the machine crashed; what sites have sealed and sent is not asked for again

      \b
      Exit codes:
        0 done
        1 your input, or no SuperLink
        2 a site or the quorum failed; with a quorum left, results are written
        3 a bug
        130 stopped; the run is stopped too
      The cause is on the last line: which site, in which phase, and why.
    """
    from fedsteph.commands.terminal.page_drawing import draw_page
    from fedsteph.common.config.run_config import load_config
    from fedsteph.common.errors import QuorumError
    from fedsteph.common.host.checked_file import read_json
    from fedsteph.common.model.initial_model import pin_m0
    from fedsteph.server.coordinator_page import write_run_page
    from fedsteph.server.deployment import deployed_run
    from fedsteph.server.deployment.server_file import ServerFile

    opened = ServerFile.open(server)
    if drain:
        path = deployed_run.drain(opened)
        return console.tell(f"drained: {path.name} ends before its next phase, with exit code 2")
    opened.require_ready()
    config = pin_m0(load_config(opened.config, settings))
    prepared = (deployed_run.resume if resume else deployed_run.prepare)(opened, config)
    named = ", ".join(config.federation.sites)
    console.tell(f"sites: {named}; targets: {', '.join(config.federation.targets)}; run folder: {prepared.path}")
    try:
        outcome = deployed_run.run(opened, prepared)
    except QuorumError:
        draw_page(lambda _: write_run_page(prepared.path))  # it says what failed, and what to do
        raise
    if as_json:
        console.show_json(read_json(prepared.path / deployed_run.RESULTS_FILE))
    else:
        _show(outcome)
        console.tell(f"results: {prepared.path / deployed_run.RESULTS_FILE}")
    draw_page(lambda _: write_run_page(prepared.path))
    deployed_run.require_no_failure(prepared, outcome)


def recipe(config: ConfigOption = None, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what a federation would train, and its digest, which a site may pin in policy.recipes.

    \b
    Examples:
      fedsteph recipe --config config.yaml
    """
    import yaml

    from fedsteph.common.config.core_yaml import StrictDumper
    from fedsteph.common.config.digest import digest, to_dict
    from fedsteph.common.config.run_config import load_config
    from fedsteph.common.model.initial_model import pin_m0

    chosen = pin_m0(load_config(config, settings)).recipe
    if as_json:
        return console.show_json({"digest": digest(chosen), "recipe": to_dict(chosen)})
    print(yaml.dump(to_dict(chosen), Dumper=StrictDumper, sort_keys=False), end="")
    print(f"# digest: {digest(chosen)}")


def _show(outcome: Outcome) -> None:
    # Targets are columns: there are as many rows as methods.
    from fedsteph.common.config.method_names import METHODS

    scores = {name: {s.method: s.c_index for s in told.scores} for name, told in outcome.targets.items()}
    rows = []
    for method in dict.fromkeys(method for told in scores.values() for method in told):
        values = (told.get(method) for told in scores.values())
        rows.append([METHODS[method].title, *("-" if value is None else f"{value:.2f}" for value in values)])
    rows.append(["patients", *(told.patients or "-" for told in outcome.targets.values())])
    console.show_table(["method", *scores], rows, "C-index, as reported")
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in outcome.seconds.items())
    console.out.print(f"{outcome.bytes / 1e6:.2f} MB relayed; {phases}", highlight=False)
