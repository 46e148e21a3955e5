"""``fedsteph trust``: whether an enhanced model is better than the local one, for people and for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import EXIT_DONE
from fedsteph.common.host import console

_NOT_GIVEN = 2


def trust(
    path: Annotated[
        Path,
        typer.Argument(help="A run's folder, a target's state folder or site.yaml, or a model in its state folder."),
    ],
    as_json: JsonOption = False,
) -> int:
    """Say whether the enhanced model is better than the local one, and every red flag.

    \b
    Examples:
      fedsteph trust fedsteph-run
      fedsteph trust site.yaml --json
      fedsteph trust run/sites/kirp/deployed/fold_0.safetensors

    Exit codes: 0 better at every target, and no red flag; 2 anything else; 1 your input.
    """
    from fedsteph.common.config.digest import to_dict
    from fedsteph.simulations.run.run_trust import trust_in

    found = trust_in(path)
    if as_json:
        console.show_json({name: to_dict(one) for name, one in found.items()})
    else:
        for name, one in found.items():
            console.say(one.at(name))
            for flag in one.flags:
                console.say(f"  red flag: {flag.sentence}")
    return EXIT_DONE if found and all(one.is_given for one in found.values()) else _NOT_GIVEN
