"""Kaplan-Meier curves of patients above and below a risk cut-off that was set on training patients.

Curves, bands and tests come from lifelines. Test patients of all folds are pooled; each is grouped by the model and the
cut-off of a fold that was not trained on them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from fedsteph.client.target.evidence import Evidence
from fedsteph.common.model.survival import DAYS_PER_BIN
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.probability_axis import probability_axis
from fedsteph.common.report.style import HEIGHT, canvas, legend_above

_NAMES = ("lower risk", "higher risk")


@dataclass(frozen=True)
class Group:
    """One group's Kaplan-Meier curve: a step at each of ``years`` (of 365 days), with its pointwise 95% band."""

    name: str
    times: np.ndarray  # (n,) follow-up of its patients in days
    events: np.ndarray  # (n,), 1 = event
    years: np.ndarray  # (n_steps,), from 0
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at_risk(self, year: float) -> int:
        """How many patients are followed for at least ``year`` years."""
        return int((self.times >= year * DAYS_PER_BIN).sum())


@dataclass(frozen=True)
class RiskGroups:
    """Both groups and their comparison."""

    groups: tuple[Group, Group]
    p: float | None  # of the two-sided log-rank test; None if undefined
    # Higher against lower risk, by Cox regression on the group alone, then the ends of its 95% interval; None if a
    # group has no event, or the estimate is not finite.
    hazard_ratio: tuple[float, float, float] | None


def risk_groups(times: np.ndarray, events: np.ndarray, high: np.ndarray) -> RiskGroups | str:
    """Compare patients of higher and of lower risk; if that cannot be, a sentence says why.

    Args:
        times: ``(n,)`` follow-up in days.
        events: ``(n,)``, 1 = event.
        high: ``(n,)`` bool, whether the patient has the higher risk.
    """
    if len(times) < 2:
        return "There are fewer than two test patients."
    if not events.any():
        return "No test patient has an event: all are censored, and every curve would stay at 1."
    for side, name in ((~high, _NAMES[0]), (high, _NAMES[1])):
        if not side.any():
            return f"No test patient is of {name} by the training patients' median, so there is nobody to compare."
    groups = (_group(_NAMES[0], times[~high], events[~high]), _group(_NAMES[1], times[high], events[high]))
    return RiskGroups(groups, _log_rank(*groups), _hazard_ratio(times, events, high))


def _group(name: str, times: np.ndarray, events: np.ndarray) -> Group:
    from lifelines import KaplanMeierFitter  # noqa: PLC0415 (a second to import)

    fitted = KaplanMeierFitter().fit(times, events)
    band = fitted.confidence_interval_.to_numpy()
    survival = fitted.survival_function_.iloc[:, 0]
    years = survival.index.to_numpy() / DAYS_PER_BIN
    low, high = np.nan_to_num(band[:, 0], nan=0.0), np.nan_to_num(band[:, 1], nan=1.0)
    return Group(name, times, events, years, survival.to_numpy(), low, high)


def _log_rank(low: Group, high: Group) -> float | None:
    from lifelines.statistics import logrank_test  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = float(logrank_test(low.times, high.times, low.events, high.events).p_value)
    return p if np.isfinite(p) else None


def _hazard_ratio(times: np.ndarray, events: np.ndarray, high: np.ndarray) -> tuple[float, float, float] | None:
    import pandas as pd  # noqa: PLC0415
    from lifelines import CoxPHFitter  # noqa: PLC0415
    from lifelines.exceptions import ConvergenceError  # noqa: PLC0415

    if not (events[high].any() and events[~high].any()):
        return None  # the ratio would be 0 or infinite
    table = pd.DataFrame({"t": times, "e": events, "high": high.astype(float)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = CoxPHFitter().fit(table, "t", "e", fit_options={"precision": 1e-10}).summary.loc["high"]
        except (ConvergenceError, np.linalg.LinAlgError):
            return None
    ratio = tuple(float(found[key]) for key in ("exp(coef)", "exp(coef) lower 95%", "exp(coef) upper 95%"))
    return (ratio[0], ratio[1], ratio[2]) if np.isfinite(ratio).all() else None


_NOTE = (
    "Kaplan-Meier with pointwise 95% bands (log-log), which begin at a group's first event. The cut-off is the median "
    "risk of the training patients of each test patient's fold, so no test patient had a say in it; groups may differ "
    "in size. Folds, and so models, stand together: p and the hazard ratio (Cox's, of the group alone, unadjusted) "
    "describe these patients."
)


def draw(name: str, model: str, found: RiskGroups | str, who: str, note: str = _NOTE) -> Picture:
    """Draw both curves with their bands, and the numbers at risk below them; ``model``: whose risk divides them."""
    title = f"Time to event by risk group of the {model} model"
    if isinstance(found, str):
        return Picture(name, title, instead=found)
    until = max(1.0, *(float(group.times.max()) for group in found.groups)) / DAYS_PER_BIN
    ticks = _ticks(until)
    with canvas(title, who, height=HEIGHT + 1.2) as figure:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(5.4, 1))
        for group, look in zip(found.groups, method_look(model).groups, strict=True):
            n_events = int(group.events.sum())
            label = f"{group.name} (n = {len(group.times)}, {n_events} event{'' if n_events == 1 else 's'})"
            years = np.append(group.years, group.times.max() / DAYS_PER_BIN)
            # Each curve is held to the end of the last patient's follow-up.
            curve, *band = (np.append(values, values[-1]) for values in (group.survival, group.low, group.high))
            axes.step(years, curve, where="post", label=label, **look)
            axes.fill_between(years, *band, step="post", color=look["color"], alpha=0.15, linewidth=0)
        axes.set(xlim=(0, ticks[-1]), xticks=ticks)
        probability_axis(axes, "probability of no event", min(float(group.low.min()) for group in found.groups))
        legend_above(axes, title=describe(found))
        axes.set_xlabel("follow-up, years of 365 days")
        axes.tick_params(labelbottom=True)
        below.set(ylim=(-0.5, 1.5), yticks=(0, 1), yticklabels=("higher", "lower"))
        below.set_title("number at risk", fontsize=7.5)
        below.tick_params(length=0, labelbottom=False, pad=12)
        for side in ("left", "bottom"):
            below.spines[side].set_visible(False)
        for row, group in zip((1, 0), found.groups, strict=True):
            for year in ticks:
                below.text(year, row, str(group.at_risk(year)), ha="center", va="center", fontsize=7.5)
    finding = "" if found.hazard_ratio is None else f"Higher risk has {found.hazard_ratio[0]:.2f} times the hazard."
    return Picture(name, title, figure, note=note, numbers=_numbers(found, ticks), finding=finding)


def pictures(site: str, found: Evidence, models: Mapping[str, str], who: str) -> list[Picture]:
    """One picture per model (method -> title), of the test patients of all folds."""
    groups = {method: risk_groups(found.times, found.events, found.high_risk(method)) for method in models}
    return [draw(f"{site}.risk-groups.{method}", models[method], one, who) for method, one in groups.items()]


def describe(found: RiskGroups) -> str:
    """The hazard ratio and the log-rank test, one line each."""
    p = "log-rank p not defined" if found.p is None else f"log-rank p {p_value(found.p)}"
    if found.hazard_ratio is None:
        some = all(group.events.any() for group in found.groups)
        why = "the groups are wholly apart" if some else "a group without events"
        return f"hazard ratio not estimable ({why})\n{p}"
    ratio, low, high = found.hazard_ratio
    return f"hazard ratio {ratio:.2f} (95% {low:.2f} to {high:.2f})\n{p}"


def p_value(p: float) -> str:
    """A p-value with two digits, and never as 0."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}"


def _ticks(until: float) -> list[float]:
    step = next((step for step in (0.5, 1, 2, 5, 10, 20) if until / step <= 7), 50)
    return [step * i for i in range(int(np.ceil(until / step - 1e-9)) + 1)]


def _numbers(found: RiskGroups, years: Sequence[float]) -> Table:
    rows = []
    for year in years:
        cells = ((f"{survival_at(group, year):.3f}", str(group.at_risk(year))) for group in found.groups)
        rows.append([f"{year:g}", *chain.from_iterable(cells)])
    header = ["years", *(text for group in found.groups for text in (group.name, "at risk"))]
    return Table(header, rows, "survival and numbers at risk", folded=True)


def survival_at(group: Group, year: float) -> float:
    """The curve's value at ``year`` years."""
    return float(group.survival[np.searchsorted(group.years, year, side="right") - 1])
