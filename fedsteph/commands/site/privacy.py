"""``fedsteph privacy``: what the site's own vectors give away, planned, added up and attacked."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsteph.commands.terminal.options import ConfigOption, JsonOption, SetOption, SiteArgument
from fedsteph.common.errors import EXIT_DONE, EXIT_FEDERATION, ConfigError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.privacy.ledger import Entry

privacy = typer.Typer(no_args_is_help=True, help="Bound, add up and measure what the site's own vectors give away.")


@privacy.command("audit")
def audit(
    site: SiteArgument,
    config: ConfigOption = None,
    settings: SetOption = None,
    references: Annotated[int, typer.Option(help="Reference models to train: even, 16 or more.")] = 16,
    as_json: JsonOption = False,
) -> int:
    """Attack the vector that the site would share, as its recipient could, and keep the result at the site.

    The recipe must be the federation's (--config, --set), or it is another vector. The reference models take as long
    as so many trainings on half of the patients; stopped, the same command goes on where it was.

    \b
    Examples:
      fedsteph privacy audit sites/kirp --config federation.yaml
      fedsteph privacy audit sites/kirp --config federation.yaml --references 32 --json

    \b
    Exit codes:
      0 done
      1 your input, or too few patients
      2 the policy's max_attack_auc is exceeded, or the attack contradicts the training's privacy guarantee
    """
    from fedsteph.client.attack.attack_vector import attack_vector
    from fedsteph.client.sharing.attack_result import result_path
    from fedsteph.client.site.site import Site
    from fedsteph.client.site.workspace import Workspace
    from fedsteph.client.target.train_alone import local_recipe
    from fedsteph.common.config.run_config import load_config

    opened = Site.open(site)
    opened.require_state()
    workspace = Workspace.open(opened, local_recipe(opened, load_config(config, settings)))
    with console.progress_bar() as progress:
        bar = progress(f"attacking the vector of {opened.name}")
        result = attack_vector(workspace, n_references=references, progress=bar)
    limit = opened.file.policy.max_attack_auc if opened.file.policy else None
    if as_json:
        console.show_json(result)
    else:
        _show(result)
        console.say(f"kept: {result_path(opened.state, result['content_sha256'])}")
    code = EXIT_DONE
    with_head = result["with_head"] or result
    if limit is not None and max(result["strongest"]["auc"], with_head["strongest"]["auc"]) > limit:
        which = "this vector" if result["strongest"]["auc"] > limit else "this vector with its head"
        console.tell(f"error: the policy allows an AUC of {limit:.3f}: {which} will not be shared", "red")
        code = EXIT_FEDERATION
    if result["epsilon"]["contradicted"] or with_head["epsilon"]["contradicted"]:
        text = "error: the attack contradicts the training's privacy guarantee: share nothing, and report this"
        console.tell(text, "red")
        code = EXIT_FEDERATION
    return code


@privacy.command("ledger")
def ledger(site: SiteArgument, as_json: JsonOption = False) -> None:
    """Show what every shared vector of a site cost, all of them together, and what is left of the budget.

    \b
    Examples:
      fedsteph privacy ledger sites/kirp
      fedsteph privacy ledger sites/kirp --json | jq .epsilon
    """
    from fedsteph.client.privacy.ledger import Ledger, total
    from fedsteph.client.site.site import Site

    opened = Site.open(site)
    entries = Ledger(opened.audit).entries()
    with console.progress_bar() as progress:
        progress("adding up the privacy loss")
        spent = total(entries)
    budget = opened.file.policy.epsilon_budget if opened.file.policy else None
    if as_json:
        found = {
            "epsilon": None if math.isinf(spent.epsilon) else spent.epsilon,
            "bounded": not math.isinf(spent.epsilon),
            "delta": spent.delta,
            "budget": budget,
            "trainings": [asdict(entry) | {"epsilon": _cost(entry)} for entry in entries],
        }
        return console.show_json(found)
    header = ["time", "run", "training", "noise", "patients in a step", "steps", "epsilon", "delta"]
    if entries:
        console.show_table(header, [[one.time[:19], one.run, _named(one.training), *_row(one)] for one in entries])
    console.out.print(f"together: {spent}", highlight=False)
    console.out.print("budget: none set (policy.epsilon_budget)" if budget is None else f"budget: epsilon {budget:g}")


@privacy.command("plan")
def plan(
    patients: Annotated[int, typer.Option(help="Patients that the vector is trained on.", min=2)],
    target: Annotated[float | None, typer.Option("--epsilon", help="Epsilon wanted; the noise is solved for.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise multiplier; epsilon is solved for.")] = None,
    delta: Annotated[float | None, typer.Option(help="Default: patients^-1.1.")] = None,
    batch: Annotated[int | None, typer.Option(help="Patients in a step on average; default: all.")] = None,
    epochs: Annotated[int, typer.Option(help="How often each patient is used on average.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Say how much noise an epsilon needs, or which epsilon a noise gives, for one vector and for several.

    \b
    Examples:
      fedsteph privacy plan --patients 300 --epsilon 8
      fedsteph privacy plan --patients 300 --noise 2 --batch 16 --json
    """
    from fedsteph.client.privacy.accounting import epsilon, largest_auc
    from fedsteph.client.privacy.dp_settings import DpSgd

    if (target is None) == (noise is None):
        raise ConfigError("give --epsilon or --noise", where="privacy plan", remedy="The other is solved for")
    try:
        wanted = DpSgd(epsilon=target, noise=noise, delta=delta, batch=batch, epochs=epochs)
    except ValueError as error:
        raise ConfigError(str(error), where="privacy plan") from error
    with console.progress_bar() as progress:
        progress("solving for the noise" if noise is None else "adding up the privacy loss")
        pld = wanted.guarantee(patients)
        rdp = epsilon([pld.mechanism], pld.delta, "rdp")
        progress("bounding every attack")
        auc = largest_auc([pld.mechanism])
        progress("adding up several trainings")
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


def _show(result: dict[str, Any]) -> None:
    header = ["signal", "attack", "AUC, vector", "AUC, procedure", "TPR at 1% FPR, procedure"]
    rows = []
    for one in (result["with_head"] or result)["attacks"]:
        measured = (
            _with_interval(one["vector"], "auc"),
            *(_with_interval(one["procedure"], k) for k in ("auc", "tpr")),
        )
        rows.append([one["signal"], one["attack"], *measured])
    console.show_table(header, rows)
    for line in _in_words(result):
        console.say(line)


def _in_words(result: dict[str, Any]) -> list[str]:
    from fedsteph.client.attack.signals import HEAD_SIGNALS, SIGNALS

    strongest, epsilon = result["strongest"], result["epsilon"]
    name = (strongest["signal"], strongest["attack"])
    found = next(attack for attack in result["attacks"] if (attack["signal"], attack["attack"]) == name)
    lines = [
        f"Strongest attack ({name[1]}): {SIGNALS[name[0]]}.",
        "Whoever receives this vector, and holds the records of one patient that it was trained on and of one that it "
        f"was not, tells which is which in {100 * strongest['auc']:.0f} of 100 cases; 50 would be guessing.",
        f"With one false alarm in 100 they are sure of {100 * found['procedure']['tpr']:.0f} in 100 patients that it "
        "was trained on.",
    ]
    if (with_head := result["with_head"]) is not None:
        by, auc = with_head["strongest"], with_head["strongest"]["auc"]
        more = "as without it" if by == strongest else f"by the {(SIGNALS | HEAD_SIGNALS)[by['signal']]}"
        lines.append(f"With its head, as a site of the same cancer may receive it: in {100 * auc:.0f} of 100, {more}.")
    shown = f"the attack shows an epsilon of at least {epsilon['lower_bound']:.2f} (delta {epsilon['delta']:.1e})"
    if epsilon["reported"] is None:
        return [*lines, f"The training has no privacy guarantee; {shown}."]
    return [*lines, f"The training reports an epsilon of {epsilon['reported']:.2f}; {shown}."]


def _with_interval(found: dict[str, Any], key: str) -> str:
    value, interval = found[key], found[f"{key}_interval_95"]
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _row(entry: Entry) -> tuple[str, ...]:
    from fedsteph.client.privacy.ledger import coarse

    mechanism, delta = entry.mechanism, entry.delta
    if entry.epsilon is not None:
        return ("not known", "-", "-", f"{entry.epsilon:.3f}, as the site answers", coarse(delta) if delta else "-")
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
    from fedsteph.client.privacy.accounting import epsilon

    if entry.mechanism is None or entry.delta is None:
        return entry.epsilon
    return epsilon([entry.mechanism], entry.delta)


def _named(training: str) -> str:
    """The beginning of a digest, or the words that stand in its place."""
    return training[:12] if " " not in training else training
