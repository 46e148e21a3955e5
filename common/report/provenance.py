"""Page sections about a run's cost, its configuration, versions, seeds and digests, and the limits of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsteph.common.report.page import Block, Code, Points, Section, Table

ONE_PER_FOLD = "There is one model per fold and none of all patients; each is judged on patients that it has not seen."
WITH_FINAL = (
    "Each fold's model is judged on patients that it has not seen. The final model, of all patients, has no test set."
)
LIMITS = (
    "The C-index says how well patients are ranked. It says nothing of whether a decision that follows is a good one.",
    "Intervals resample patients of these cohorts. They hold neither the choice of training seed nor of hospital.",
    ONE_PER_FOLD,
    "Task vectors can tell whether a patient was in a training set unless they were trained with differential privacy.",
    "Fairness between groups of patients was not measured.",
)


def cost_section(seconds: Mapping[str, float], n_bytes: int, learnable: Mapping[str, int] | None = None) -> Section:
    """Seconds per phase, bytes sent and received, and by method title the parameters learned at the target."""
    rows = [[phase, f"{value:,.1f} s"] for phase, value in seconds.items()]
    rows.append(["sent and received", f"{n_bytes:,} bytes"])
    blocks: list[Block] = [Table(["phase", "cost"], rows, "Time and traffic")]
    if learnable:
        body = [[title, f"{count:,}"] for title, count in learnable.items()]
        blocks.append(Table(["method", "parameters learned at the target"], body, "Size"))
    return Section("Cost", blocks)


def provenance_section(manifest: Mapping[str, Any], configuration: str) -> Section:
    """Versions, seeds and digests, run and time of the manifest, and the whole configuration."""
    plain = [["run", str(manifest["run"])], ["begun (UTC)", str(manifest["created"])]]
    plain += [
        [f"{kind[:-1]} of {key}" if kind != "versions" else key, str(value)]
        for kind in ("versions", "seeds", "digests")
        for key, value in manifest[kind].items()
    ]
    table = Table(["what", "value"], plain, "Versions, seeds, digests")
    return Section("Configuration, versions, seeds, digests", [table, Code(configuration)])


def limits_section(own: Sequence[str] = (), models: str = ONE_PER_FOLD) -> Section:
    """The limits that a reader must know to interpret the results, those of this result (``own``) first.

    Args:
        models: a sentence on which models there are, and on whom they are judged.
    """
    return Section("Limits", [Points([*own, *(models if limit == ONE_PER_FOLD else limit for limit in LIMITS)])])
