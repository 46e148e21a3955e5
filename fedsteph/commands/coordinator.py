"""The commands of a deployment: ``provision``, ``run``, ``doctor``, ``app``, ``recipe``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from fedsteph.client.deployment import reviewed_app, site_doctor
from fedsteph.client.site.site import Site
from fedsteph.commands.site import ConfigOption, JsonOption, SetOption
from fedsteph.commands.terminal.page_drawing import draw_page
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import digest, load_config, to_dict
from fedsteph.common.config.schema import StrictDumper
from fedsteph.common.deployment import flower_app
from fedsteph.common.deployment.checks import report
from fedsteph.common.host import console
from fedsteph.common.model.abmil import pin_m0
from fedsteph.server.coordinator_page import write_run_page
from fedsteph.server.deployment import deployed_run, server_doctor
from fedsteph.server.deployment.provision import Plan, site_names
from fedsteph.server.deployment.provision import provision as write_folders
from fedsteph.server.deployment.provision import provision_site as write_site_folder
from fedsteph.server.deployment.server_file import ServerFile

doctor = typer.Typer(no_args_is_help=True, help="Look for whatever would make a run hang or fail.")
app = typer.Typer(no_args_is_help=True, help="The reviewed code, the only one that a site runs.")

ServerArgument = Annotated[Path, typer.Argument(help="The coordinator's server.yaml, or its folder.")]


def provision(
    out: Annotated[Path, typer.Argument(help="A new folder for everything.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    address: Annotated[str, typer.Option(help="host:port that the sites connect to.")],
    sites: Annotated[str, typer.Option(help="Names, separated by commas.")],
    targets: Annotated[str, typer.Option(help="The sites that get an enhanced model.")],
    width: Annotated[int, typer.Option(help="Width of the sites' features, e.g. 1536.", min=1, max=65_536)],
    superlink: Annotated[str, typer.Option(help="Where the SuperLink listens.")] = "127.0.0.1:9091",
    san: Annotated[list[str] | None, typer.Option(help="A further name in the server's certificate.")] = None,
    site_port: Annotated[
        int, typer.Option(help="First loopback port of the sites' SuperNodes.", min=1024, max=65_000)
    ] = 9094,
) -> None:
    """Make a trial federation's folders: a CA, the server's certificate, a node key and a site file per site.

    \b
    Examples:
      fedsteph provision trial --federation kidney --address fl.example.org:9092 \\
          --sites kirp,kirc,kich --targets kirp --width 1536
      fedsteph provision trial --federation kidney --address 127.0.0.1:9091 \\
          --sites kirp,kirc --targets kirp --width 1536        all on one machine, without a proxy
    """
    plan = Plan(
        federation,
        address,
        superlink,
        site_names(sites, "--sites"),
        site_names(targets, "--targets"),
        width,
        tuple(san or ()),
        site_port,
    )
    write_folders(out, plan)
    text = f"{out}: ca, server, and {len(plan.sites)} sites; {out}/README.md says what goes where"
    console.out.print(text, markup=False, highlight=False, soft_wrap=True)


def provision_site(
    out: Annotated[Path, typer.Argument(help="A new folder for the site.")],
    site: Annotated[str, typer.Option(help="The site's name.")],
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    address: Annotated[str, typer.Option(help="host:port of the server.")],
    ca: Annotated[Path, typer.Option(help="The CA's certificate that the coordinator sent.")],
    site_port: Annotated[int, typer.Option(help="Loopback port of the SuperNode.", min=1024, max=65_000)] = 9094,
) -> None:
    """Make a site's folder at the site itself: its scripts and its node key come from nobody else.

    \b
    Examples:
      fedsteph provision-site /opt/fedsteph/kirp --site kirp --federation kidney \\
          --address fl.example.org:9092 --ca ca.crt
    """
    public = write_site_folder(out, site, federation, address, ca, site_port)
    text = f"{out}: fill in site.yaml; give {public} to the coordinator, for server/nodes/"
    console.out.print(text, markup=False, highlight=False, soft_wrap=True)


def run(server: ServerArgument, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Start a run on a deployment, and follow it to its end. For the coordinator, on the server's machine.

    \b
    Examples:
      fedsteph run server
      fedsteph run server --set 'federation.targets=\\[kirp]' --json > results.json

    \b
    Exit codes:
      0 done
      1 your input, or no SuperLink
      2 a site or the quorum failed; with a quorum left, results are written
      3 a bug
      130 stopped; the run is stopped too
    The cause is on the last line: which site, in which phase, and why.
    """
    opened = ServerFile.open(server)
    opened.require_ready()
    config = pin_m0(load_config(opened.config, settings))
    prepared = deployed_run.prepare(opened, config)
    named = ", ".join(config.federation.sites)
    _say(f"sites: {named}; targets: {', '.join(config.federation.targets)}; run folder: {prepared.path}")
    results = deployed_run.run(opened, prepared)
    if as_json:
        print(json.dumps(results, indent=2, allow_nan=False))
    else:
        _show(results)
        _say(f"results: {prepared.path / deployed_run.RESULTS_FILE}")
    draw_page(lambda _: write_run_page(prepared.path, results))
    deployed_run.require_no_failure(prepared, results)


@doctor.command("site")
def doctor_site(
    site: Annotated[Path, typer.Argument(help="The site's site.yaml, or its folder.")],
    quick: Annotated[bool, typer.Option("--quick", help="Do not read every feature file.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Check a site: versions, account, data, device, keys, roster, policy, reviewed app, server, clock, space.

    \b
    Examples:
      fedsteph doctor site site.yaml
      fedsteph doctor site site.yaml --quick --json

    Exit code 1 if a check fails; a warning alone does not.
    """
    opened = Site.open(site)
    with console.progress_bars() as bars:
        task = bars.add_task(f"examining {opened.name}", total=None)
        checks = site_doctor.examine(opened, quick, lambda done, total: bars.update(task, completed=done, total=total))
    return report(f"site {opened.name}", checks, as_json)


@doctor.command("server")
def doctor_server(
    server: ServerArgument,
    before_start: Annotated[
        bool, typer.Option("--before-start", help="The SuperLink is not running yet: its port must be free.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Check the server: versions, secrets, certificate and SANs, ports, proxy, roster, audit, space.

    \b
    Examples:
      fedsteph doctor server server
      fedsteph doctor server server --before-start

    Exit code 1 if a check fails; a warning alone does not.
    """
    return report("server", server_doctor.examine(ServerFile.open(server), before_start), as_json)


@app.command("install")
def install(home: Annotated[Path, typer.Argument(help="A FLWR_HOME for the SuperNode, e.g. flwr.")]) -> None:
    """Install this fedsteph's own code as the one app that a site runs, and make it read-only.

    \b
    Examples:
      sudo fedsteph app install /opt/fedsteph/site/flwr

    Do it as another user than the SuperNode's, which then cannot change it: a run with other code is refused.
    """
    folder = reviewed_app.install(home)
    console.out.print(f"installed, read-only: {folder}", soft_wrap=True, highlight=False)
    console.out.print(f"digest of its code: {flower_app.digest_of(folder)}", soft_wrap=True, highlight=False)


@app.command("digest")
def app_digest() -> None:
    """Print the digest of this fedsteph's own code, to compare with other sites of the same version.

    \b
    Examples:
      fedsteph app digest
    """
    print(flower_app.own_digest())


def recipe(config: ConfigOption = None, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what a federation would train, and its digest, which a site may pin in policy.recipes.

    \b
    Examples:
      fedsteph recipe --config config.yaml
    """
    chosen = pin_m0(load_config(config, settings)).recipe
    if as_json:
        print(json.dumps({"digest": digest(chosen), "recipe": to_dict(chosen)}, indent=2))
        return
    print(yaml.dump(to_dict(chosen), Dumper=StrictDumper, sort_keys=False), end="")
    print(f"# digest: {digest(chosen)}")


def _show(results: dict[str, Any]) -> None:
    # Targets are columns: there are as many rows as methods.
    names = list(results["targets"])
    scores = {name: {s["method"]: s["c_index"] for s in results["targets"][name]["scores"]} for name in names}
    table = Table("method", *names, title="C-index, as reported")
    for method in dict.fromkeys(method for told in scores.values() for method in told):
        values = (scores[name].get(method) for name in names)
        table.add_row(METHODS[method].title, *("-" if value is None else f"{value:.2f}" for value in values))
    table.add_row("patients", *(results["targets"][name]["patients"] or "-" for name in names))
    console.out.print(table)
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in results["seconds"].items())
    console.out.print(f"{results['bytes'] / 1e6:.2f} MB relayed; {phases}", highlight=False)


def _say(text: str) -> None:
    console.err.print(text, markup=False, highlight=False)
