"""``fedsteph privacy ledger`` and ``plan``: what was spent, and what a training would cost."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from rich.table import Table

from fedsteph.client.privacy.accounting import epsilon, largest_auc
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.privacy.ledger import Entry, Ledger, coarse, total
from fedsteph.client.site.site import Site
from fedsteph.commands.site import JsonOption, SiteArgument
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import console


def ledger(site: SiteArgument, as_json: JsonOption = False) -> None:
    """Show what every shared vector of a site cost, all of them together, and what is left of the budget.

    \b
    Examples:
      fedsteph privacy ledger sites/kirp
      fedsteph privacy ledger sites/kirp --json | jq .epsilon
    """
    opened = Site.open(site)
    entries = Ledger(opened.audit).entries()
    spent, budget = total(entries), opened.policy.epsilon_budget if opened.policy else None
    if as_json:
        found = {
            "epsilon": None if math.isinf(spent.epsilon) else spent.epsilon,
            "bounded": not math.isinf(spent.epsilon),
            "delta": spent.delta,
            "budget": budget,
            "trainings": [asdict(entry) | {"epsilon": _cost(entry)} for entry in entries],
        }
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    table = Table("time", "run", "training", "noise", "patients in a step", "steps", "epsilon", "delta")
    for entry in entries:
        table.add_row(entry.time[:19], entry.run, entry.training[:12], *_row(entry))
    if entries:
        console.out.print(table)
    console.out.print(f"together: {spent}", highlight=False)
    console.out.print("budget: none set (policy.epsilon_budget)" if budget is None else f"budget: epsilon {budget:g}")


def plan(
    patients: Annotated[int, typer.Option(help="Patients that the vector is trained on.", min=2)],
    target: Annotated[float | None, typer.Option("--epsilon", help="Epsilon wanted; the noise is solved for.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise multiplier; epsilon is solved for.")] = None,
    delta: Annotated[float | None, typer.Option(help="Default: patients^-1.1.")] = None,
    batch: Annotated[int | None, typer.Option(help="Patients in a step on average; default: all.")] = None,
    epochs: Annotated[int, typer.Option(help="How often each patient is used on average.")] = DpSgd.epochs,
    as_json: JsonOption = False,
) -> None:
    """Say how much noise an epsilon needs, or which epsilon a noise gives, for one vector and for several.

    \b
    Examples:
      fedsteph privacy plan --patients 300 --epsilon 8
      fedsteph privacy plan --patients 300 --noise 2 --batch 16 --json
    """
    if (target is None) == (noise is None):
        raise ConfigError("give --epsilon or --noise", where="privacy plan", remedy="The other is solved for")
    try:
        wanted = DpSgd(epsilon=target, noise=noise, delta=delta, batch=batch, epochs=epochs)
    except ValueError as error:
        raise ConfigError(str(error), where="privacy plan") from error
    with console.progress_bars() as bars:
        bars.add_task("solving", total=None)
        pld = wanted.guarantee(patients)
        rdp = epsilon([pld.mechanism], pld.delta, "rdp")
        auc = largest_auc([pld.mechanism])
        repeated = {n: epsilon([replace(pld.mechanism, steps=n * pld.mechanism.steps)], pld.delta) for n in (2, 5, 10)}
    if as_json:
        print(
            json.dumps(asdict(pld) | {"epsilon_rdp": rdp, "largest_auc": auc, "epsilon_of_vectors": repeated}, indent=2)
        )
        return
    mechanism = pld.mechanism
    lines = {
        "noise multiplier": f"{mechanism.noise:.3f}",
        "steps": f"{mechanism.steps}, each patient in one with probability {mechanism.sampling_rate:.3g}",
        "delta": f"{pld.delta:.2e}",
        "epsilon": f"{pld.epsilon:.3f} (by Renyi divergences: {rdp:.3f})",
        "AUC of any attack": f"at most {auc:.3f} (0.5 is guessing)",
        "of several trainings": ", ".join(f"{n}: {value:.2f}" for n, value in repeated.items()),
    }
    for name, text in lines.items():
        console.out.print(f"{name:22}{text}", highlight=False)


def _row(entry: Entry) -> tuple[str, ...]:
    mechanism, delta = entry.mechanism, entry.delta
    if mechanism is None or delta is None:
        return ("none", "-", "-", "no bound", "-")
    cost: Any = _cost(entry)
    return (
        f"{mechanism.noise:.3f}",
        f"{100 * mechanism.sampling_rate:.3g}%",
        str(mechanism.steps),
        f"{cost:.3f}",
        coarse(delta),
    )


def _cost(entry: Entry) -> float | None:
    if entry.mechanism is None or entry.delta is None:
        return None
    return epsilon([entry.mechanism], entry.delta)
