"""Writes a model card beside every model: its training, scores, intended use and limits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import yaml

from fedsteph.client.sharing.spending import spent
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.target_result import ScreenedFolds, TargetResult
from fedsteph.common.config.digest import digest, to_dict
from fedsteph.common.encoders.base_kinds import KINDS
from fedsteph.common.host import atomic
from fedsteph.common.vector.shared_part import description
from fedsteph.common.wire.messages import band

_KINDS = {
    "local": "Local survival model, trained from the federation's M0 on this site's patients alone. It holds "
    "percentiles of their risks, their longest follow-up in whole years and digests of their IDs, so it stays at this "
    "site.",
    "imported": "Local survival model, trained elsewhere and imported: that it started from the federation's M0 "
    "and saw this fold's training part alone is what its owner said. It holds percentiles of the risks of this site's "
    "patients and their longest follow-up in whole years, so it stays at this site.",
    "steph": "Enhanced survival model: STEPH over this site's and the received task vectors "
    "(arXiv 2603.10526). Its file holds the received vectors, this site's own model, percentiles of its patients' "
    "risks, their longest follow-up in whole years and digests of their IDs, so it stays at this site.",
    "panel": "Panel: STEPH's enhanced model, this site's own and the received ones predict together, with a weight for "
    "each kind. Its file holds what that of the enhanced model holds, and the risk directions that came with the "
    "received vectors, so it stays at this site.",
}
USEFUL = {True: "yes", False: "no: no model is useful here", None: "too few patients to tell"}


def write_card(path: Path, workspace: Workspace, result: TargetResult | None, method: str, fold: int | None) -> None:
    """Write ``<model>.md``. It gives sizes in bands of 10, and contains no patient ID and no path.

    Args:
        result: the target's result; None for a model without a test part.
        method: ``local``, ``steph`` or ``panel``.
        fold: the fold whose training part the model was trained on; None: all patients.
    """
    where = "all patients" if fold is None else f"training part of fold {fold}"
    imported = None if fold is None else workspace.imported(fold)
    lines = (
        [] if imported is None else [f"| the local model was imported from a file with the SHA-256 | `{imported}` |"]
    )
    lines += _scores(result, method, fold) if result is not None and fold is not None else []
    meaning = _KINDS["imported" if imported and method == "local" else method]
    limit = "The C-index is of one fold of one site;"
    write(path, workspace, f"{method} model", meaning, [f"| training data | {where} |"], lines, limit)


def write(
    path: Path,
    workspace: Workspace,
    name: str,
    meaning: str,
    first: Sequence[str],
    last: Sequence[str],
    limit: str,
) -> None:
    """Write a card with the facts of every model, and rows of a table before (``first``) and after them (``last``).

    Args:
        limit: one line on what its C-index is of.
    """
    recipe, cohort = workspace.recipe, workspace.cohort
    lines = [
        f"# {workspace.site.name}: {name}",
        "",
        meaning,
        "",
        "| | |",
        "|---|---|",
        *first,
        f"| patients of the site | {band(len(cohort))} |",
        f"| events of the site | {band(int(cohort.events.sum()))} |",
        f"| privacy of all vectors that the site shared | {spent(workspace)} |",
        f"| base model | {KINDS[recipe.model.kind].title} |",
        f"| features | {cohort.width} wide, of {cohort.extraction} |",
        f"| output | hazards of {recipe.model.n_bins} years of 365 days; risk = -sum of yearly survival |",
        f"| M0 SHA-256 | `{recipe.model.m0_sha256}` |",
        f"| recipe SHA-256 | `{digest(recipe)}` |",
        f"| file SHA-256 | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |",
        f"| fedsteph | {version('fedsteph')} |",
        *last,
        "",
        "## Intended use and limits",
        "",
        "Research on prognosis at the site that made it, on features of the same encoder, magnification",
        "and patch size.",
        f"Not a medical device: it must not decide about a patient. {limit}",
        "discrimination elsewhere and fairness between groups were not measured.",
        "",
        "## Recipe",
        "",
        "```yaml",
        yaml.safe_dump(to_dict(recipe), sort_keys=False).rstrip(),
        "```",
        "",
    ]
    atomic.write_text(path.with_suffix(".md"), "\n".join(lines))


def _scores(result: TargetResult, method: str, fold: int) -> list[str]:
    def c_index(name: str) -> str:
        value = result.methods[name].c_index[fold]
        return "undefined (no comparable pair)" if value is None else f"{value:.3f}"

    lines = [f"| C-index on this fold's test part | {c_index(method)} |"]
    if method != "local":
        lines += [
            f"| C-index of the local model there | {c_index('local')} |",
            f"| sources | {', '.join(result.steph.sources[fold])} |",
            f"| their vectors were sent in | {description(result.sharing)} |",
            f"| gamma | {result.steph.gamma[fold]} ({result.steph.gamma_reason[fold]}) |",
            f"| collapsed | {'yes' if result.steph.collapsed[fold] else 'no'} |",
        ]
    lines.append(f"| screening | {_screening(result.screening, fold)} |")
    lines.append(f"| deployed in this fold | {result.deployed.choice[fold]}: {result.deployed.reason[fold]} |")
    return [*lines, f"| better than chance in inner cross-validation | {USEFUL[result.deployed.useful[fold]]} |"]


def _screening(screening: ScreenedFolds, fold: int) -> str:
    verdicts = screening.folds[fold]
    suspicious = [f"{name} ({verdict.reason})" for name, verdict in verdicts.items() if verdict.suspicious]
    return f"{screening.policy}: {'; '.join(suspicious) or 'no source is suspicious'}"
