"""The site's privacy commands."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from fedsteph.client.attack.attack_vector import audit_vector
from fedsteph.client.attack.coins import MIN_REFERENCES
from fedsteph.client.attack.signals import SIGNALS
from fedsteph.client.sharing.attack_result import audit_path
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.train_alone import local_recipe
from fedsteph.commands.site import ConfigOption, JsonOption, SetOption, SiteArgument
from fedsteph.common.config.recipe import load_config
from fedsteph.common.errors import EXIT_DONE, EXIT_FEDERATION
from fedsteph.common.host import console

privacy = typer.Typer(no_args_is_help=True, help="Bound, add up and measure what the site's own vectors give away.")


@privacy.command("audit")
def audit(
    site: SiteArgument,
    config: ConfigOption = None,
    settings: SetOption = None,
    references: Annotated[int, typer.Option(help="Reference models to train: even, 16 or more.")] = MIN_REFERENCES,
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
    opened = Site.open(site)
    workspace = Workspace.open(opened, local_recipe(opened, load_config(config, settings)))
    with console.progress_bars() as bars:
        task = bars.add_task(f"attacking the vector of {opened.name}", total=1.0)
        result = audit_vector(
            workspace,
            n_references=references,
            report=lambda done, total: bars.update(task, completed=done, total=total),
        )
    limit = opened.policy.max_attack_auc if opened.policy else None
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        _show(result)
        console.out.print(f"kept: {audit_path(opened.state, result['content_sha256'])}", soft_wrap=True)
    code = EXIT_DONE
    if limit is not None and result["strongest"]["auc"] > limit:
        _loudly(f"the policy allows an AUC of {limit:.3f}: this vector will not be shared")
        code = EXIT_FEDERATION
    if result["epsilon"]["contradicted"]:
        _loudly("the attack contradicts the training's privacy guarantee: share nothing, and report this")
        code = EXIT_FEDERATION
    return code


def _show(result: dict[str, Any]) -> None:
    table = Table("signal", "attack", "AUC, vector", "AUC, procedure", "TPR at 1% FPR, procedure")
    for attack in result["attacks"]:
        vector, procedure = attack["vector"], attack["procedure"]
        table.add_row(
            attack["signal"],
            attack["attack"],
            _with_interval(vector["auc"], vector["auc_interval_95"]),
            _with_interval(procedure["auc"], procedure["auc_interval_95"]),
            _with_interval(procedure["tpr"], procedure["tpr_interval_95"]),
        )
    console.out.print(table)
    for line in _in_words(result):
        console.out.print(line, highlight=False, soft_wrap=True)


def _in_words(result: dict[str, Any]) -> list[str]:
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
    shown = f"the attack shows an epsilon of at least {epsilon['lower_bound']:.2f} (delta {epsilon['delta']:.1e})"
    if epsilon["reported"] is None:
        return [*lines, f"The training has no privacy guarantee; {shown}."]
    return [*lines, f"The training reports an epsilon of {epsilon['reported']:.2f}; {shown}."]


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _loudly(text: str) -> None:
    console.err.print(f"error: {text}", style="red", markup=False, highlight=False)
