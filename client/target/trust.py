"""Whether the enhanced model, with its panel, is better than the local one, and what speaks against trust."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedsteph.common.model.method_scores import Interval

if TYPE_CHECKING:
    from fedsteph.client.target.target_result import TargetResult

FEW_EVENTS = 50
HARDLY_VARY = 0.02  # between the 10th and the 90th percentile of predicted survival
GAP = 0.1  # most between predicted and observed probability of an event within 3 years, in the mean over folds
_CHANCE = 0.5

State = Literal["better", "not shown", "worse"]
SENTENCES: dict[State, str] = {
    "better": "the enhanced model is better than the local one",
    "not shown": "the enhanced model is not shown to be better than the local one",
    "worse": "the enhanced model is worse than the local one",
}


@dataclass(frozen=True)
class Flag:
    """A reason not to trust a result: a name for scripts, and a sentence."""

    name: str
    sentence: str


@dataclass(frozen=True)
class Trust:
    """The answer, its sentence, and all red flags."""

    state: State
    sentence: str
    flags: tuple[Flag, ...]

    @property
    def is_given(self) -> bool:
        """Whether the enhanced model is better, and nothing speaks against it."""
        return self.state == "better" and not self.flags

    def at(self, name: str) -> str:
        """The sentence of the site with this name."""
        return f"At {name}, {self.sentence[0].lower()}{self.sentence[1:]}"


def trust_of(result: TargetResult) -> Trust:
    """Judge a target's result by the paired 95% intervals of enhanced minus local, for Harrell's and Uno's C.

    ``better``: the C-index's interval lies above 0, Uno's C does not fall, and the enhanced model is above chance.
    ``worse``: the C-index's interval lies below 0, and Uno's C does not rise. All else is ``not shown``.
    """
    state, gap = _state(result), result.enhanced_minus_local
    told = f"{SENTENCES[state]}: C-index {with_interval(gap.mean, gap.interval_95)}, "
    told += f"Uno's C {with_interval(gap.uno_mean, gap.uno_interval_95)}"
    return Trust(state, f"{told[0].upper()}{told[1:]}.", tuple(_flags(result)))


def _state(result: TargetResult) -> State:
    gap = result.enhanced_minus_local
    if gap.interval_95 is None or gap.uno_mean is None:
        return "not shown"
    own = result.enhanced_row.interval_95
    if gap.interval_95[0] > 0 and gap.uno_mean >= 0 and own is not None and own[0] > _CHANCE:
        return "better"
    return "worse" if gap.interval_95[1] < 0 and gap.uno_mean <= 0 else "not shown"


def with_interval(mean: float | None, interval: Interval | None) -> str:
    """A difference and its 95% interval, in words."""
    if mean is None or interval is None:
        return "cannot be compared"
    return f"{mean:+.3f} (95% interval {interval[0]:+.3f} to {interval[1]:+.3f})"


def _flags(result: TargetResult) -> Iterator[Flag]:
    yield from _of_numbers(result)
    yield from _of_predictions(result)
    yield from _of_the_merge(result)


def _of_numbers(result: TargetResult) -> Iterator[Flag]:
    n, gap = result.n_events, result.enhanced_minus_local
    if n < FEW_EVENTS:
        what = f"There are {n} events: with fewer than {FEW_EVENTS}, intervals are wide, and single folds mislead."
        yield Flag("too few events", what)
    best = max((result.methods["local"], result.enhanced_row), key=lambda row: -1.0 if row.mean is None else row.mean)
    if best.mean is None or best.interval_95 is None:
        yield Flag("near chance", "No C-index is defined, so no model is shown to rank patients better than chance.")
    elif best.interval_95[0] <= _CHANCE:
        what = f"The best C-index, {best.mean:.3f}, is not above chance, which is 0.5"
        yield Flag("near chance", f"{what} (95% interval {best.interval_95[0]:.3f} to {best.interval_95[1]:.3f}).")
    if gap.mean is not None and (gap.uno_mean is None or gap.uno_interval_95 is None):
        yield Flag("Uno's C unknown", "Uno's C cannot be compared, so the C-index has no second witness.")
    elif _disagree(gap.mean, gap.interval_95, gap.uno_mean) or _disagree(gap.uno_mean, gap.uno_interval_95, gap.mean):
        what = "The C-index and Uno's C disagree on which model is better: censoring may decide it."
        yield Flag("C-index and Uno's C disagree", what)


def _disagree(mean: float | None, interval: Interval | None, other: float | None) -> bool:
    """Whether one difference is established, and the other goes the other way."""
    if mean is None or interval is None or other is None:
        return False
    return not interval[0] <= 0 <= interval[1] and mean * other < 0


def _of_predictions(result: TargetResult) -> Iterator[Flag]:
    if result.spread is not None and result.spread < HARDLY_VARY:
        what = (
            f"The deployed model tells patients hardly apart: its middle 80% of survival are {result.spread:.3f} wide"
        )
        yield Flag("predictions hardly vary", f"{what}, less than {HARDLY_VARY}.")
    gap = result.deployed.further.get("calibration_gap_3y")
    if gap is not None and abs(gap) > GAP:
        more = "more" if gap > 0 else "less"
        what = f"The deployed model's probability of an event within 3 years is in the mean {abs(gap):.2f} {more} than"
        yield Flag("calibration off", f"{what} is observed; {GAP} is the limit.")
    if result.useful is False:
        what = "By inner cross-validation, neither model ranks patients better than chance in most folds"
        yield Flag("no model is useful", f"{what}: differences between such models mean nothing.")


def _of_the_merge(result: TargetResult) -> Iterator[Flag]:
    if result.unequal is not None:
        yield Flag("unequal training", result.unequal)
    chosen = result.deployed.choice
    if 2 * chosen.count("local") > len(chosen):
        what = f"Most folds, {chosen.count('local')} of {len(chosen)}, do not deploy the enhanced model."
        yield Flag("mostly not deployed", what)
    folds = result.screening.folds
    refused = [name for name in result.sources if any(name in fold and fold[name].weight == 0 for fold in folds)]
    if refused:
        what = f"The screening refused {', '.join(refused)} in at least one fold: the merge is of fewer sources there."
        yield Flag("sources refused", what)
    if any(folds) and result.n_events < FEW_EVENTS:
        what = "Sources were screened on few events: a harmful one may have passed, and a harmless one been refused."
        yield Flag("screening on a small target", what)
