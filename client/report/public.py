"""Selects what a target may show to others, field by field, and rounds it as the site's policy says.

Survival curves leave only if ``policy.metrics`` names them and both groups have at least ``policy.min_group`` patients.
They have one value per year, rounded to steps of at least three patients of the smallest group, and end when fewer than
``min_group`` patients of a group are followed. So no step shows a patient's time, and no value an exact count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile

from fedsteph.client.report.risk_groups import Group, risk_groups, survival_at
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.policy import Policy
from fedsteph.common.config.digest import digest
from fedsteph.common.config.method_names import METHODS

_STEPS = (0.05, 0.1, 0.2, 0.25, 0.5)  # allowed rounding steps of a survival probability
_PER_STEP = 3  # patients of the smallest drawn group per step: no value fits only one number of events
_KEPT = "Survival curves are kept by the site's policy."
_SMALL = "Survival curves are not drawn: a risk group has fewer patients than the site's policy asks for."


@dataclass(frozen=True)
class PublicCurve:
    """A group's survival at the end of each year, and its number at risk, as a band."""

    name: str
    patients: str
    survival: tuple[float, ...]  # from year 0 on
    at_risk: tuple[str, ...]


@dataclass(frozen=True)
class PublicTarget:
    """All data of a target from which the page for others is made; the page gets nothing else."""

    site: str
    patients: str | None  # as a band; None if the policy withholds it
    events: str | None  # likewise
    scores: Mapping[str, float | None]  # title of a method -> mean C-index, rounded; None if withheld or undefined
    n_folds: int
    sources: tuple[str, ...]  # names of the sites whose vectors were received
    seed: int
    recipe: str
    m0: str
    curves: Mapping[str, tuple[PublicCurve, PublicCurve]]  # title of a model -> its two risk groups
    no_curves: str  # the reason if there are none
    step: float  # rounding step of the curves


def public_target(site: str, files: TargetFiles, policy: Policy) -> PublicTarget:
    """Select what may be shown of a target, and round it."""
    result = files.result
    curves, why = _curves(files, policy)
    return PublicTarget(
        site=site,
        patients=policy.band("patients", result.n_patients),
        events=policy.band("events", result.n_events),
        scores={
            METHODS[name].title: policy.c_index(row.mean, result.n_pairs)
            for name, row in result.methods.items()
            if name in METHODS
        },
        n_folds=files.n_folds,
        sources=result.sources,
        seed=files.recipe.training.seed,
        recipe=digest(files.recipe),
        m0=str(files.recipe.model.m0_sha256),
        curves=curves,
        no_curves=why,
        step=step_of(policy),
    )


def _curves(files: TargetFiles, policy: Policy) -> tuple[dict[str, tuple[PublicCurve, PublicCurve]], str]:
    if "curves" not in policy.metrics:
        return {}, _KEPT
    found, evidence = {}, files.evidence().once
    enhanced = "panel" if "panel" in evidence.hazards else "steph"
    for method, title in (("local", "local"), (enhanced, "enhanced")):
        groups = risk_groups(evidence.times, evidence.events, evidence.high_risk(method))
        # One sentence for all reasons: no events, or an empty group, must not be told.
        if isinstance(groups, str) or min(len(group.times) for group in groups.groups) < policy.min_group:
            return {}, _SMALL
        low, high = (_public(group, policy) for group in groups.groups)
        found[title] = (low, high)
    return found, ""


def _public(group: Group, policy: Policy) -> PublicCurve:
    years = [0, *takewhile(lambda year: group.at_risk(year) >= policy.min_group, count(1))]
    step = step_of(policy)
    survival = tuple(round(round(survival_at(group, year) / step) * step, 2) for year in years)
    at_risk = tuple(_band(group.at_risk(year), policy) for year in years)
    return PublicCurve(group.name, _band(len(group.times), policy), survival, at_risk)


def step_of(policy: Policy) -> float:
    """Rounding step of a survival probability: at least three patients of the policy's smallest group."""
    return next(step for step in _STEPS if step * policy.min_group >= _PER_STEP - 1e-9)


def _band(count: int, policy: Policy) -> str:
    return policy.band("patients", count) or "-"
