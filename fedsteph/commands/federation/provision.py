"""``fedsteph provision`` and ``provision-site``: the folders of a deployment."""

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
