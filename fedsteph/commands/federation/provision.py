"""``fedsteph provision``, ``provision-site`` and ``provision-renew``: a deployment's folders and certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsteph.common.host import console


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
    from fedsteph.server.deployment.provision import Plan, site_names
    from fedsteph.server.deployment.provision import provision as write_folders

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
    console.say(f"{out}: ca, server, and {len(plan.sites)} sites; {out}/README.md says what goes where")


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
    from fedsteph.server.deployment.provision import provision_site as write_site_folder

    public = write_site_folder(out, site, federation, address, ca, site_port)
    console.say(f"{out}: fill in site.yaml; give {public} to the coordinator, for server/nodes/")


def provision_renew(
    server: Annotated[Path, typer.Argument(help="The server's folder, or its server.yaml.")],
    ca_key: Annotated[
        Path | None, typer.Option(help="The CA's secret key; default: ../ca/ca.key of that folder.")
    ] = None,
    days: Annotated[int, typer.Option(help="How long it holds.", min=1, max=3650)] = 397,
) -> None:
    """Renew the server's certificate, by the federation's CA, for the same names and the same key.

    \b
    Examples:
      fedsteph provision-renew trial/server
      fedsteph provision-renew /opt/fedsteph/server --ca-key /media/stick/ca.key --days 365

    The one of before is kept as server.crt.previous. Then restart the SuperLink: a run goes on. Sites need nothing. A
    site's own keys are renewed with 'fedsteph keys rotate'.
    """
    from fedsteph.server.deployment.renewal import renew
    from fedsteph.server.deployment.server_file import ServerFile

    done = renew(ServerFile.open(server), ca_key, days)
    console.say(f"{done.certificate}: for {', '.join(done.names)}, until {done.ends:%Y-%m-%d}")
    console.say(f"the one of before: {done.previous}")
    console.tell("restart the SuperLink to use it; a proxy of its own needs it too")
