"""Draws a patient's survival as a small SVG: thousands of them fit on a page, which figures of matplotlib would not."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedsteph.client.models.context.cohort_survival import CohortSurvival
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.style import without_control

# In points; the width is that of all figures, so that letters are as large.
_WIDTH, _LEFT, _RIGHT, _HEIGHT = 331, 34, 321, 150
_LINE, _LETTERS = 11, 66  # height of a line of text, and letters of the title in one
_ZONES = ("#d9e8f4", "#f1f1f1", "#fbdcc8")  # lowest risk first
_ZONE_NAMES = ("zone of the lowest-risk third", "zone of the middle third", "zone of the highest-risk third")
_DASHES = ("", "5 3")


@dataclass(frozen=True)
class Curve:
    """A model's survival of one patient ``(n_years,)``, and its range over members, if there are several."""

    label: str
    survival: np.ndarray
    low_high: tuple[np.ndarray, np.ndarray] | None = None


def survival_drawing(title: str, curves: Sequence[Curve], n_years: int, cohort: CohortSurvival | None) -> bytes:
    """The SVG of one or two curves over at most 10 years, above the training patients' where they are known."""
    heading = textwrap.wrap(without_control(title), _LETTERS)
    frame = _Frame(len(heading) * _LINE + 8, n_years)
    legend = [*_legend(curves, cohort is not None)]
    height = frame.bottom + 28 + _LINE * ((len(legend) + 1) // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(title)}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="8">',
        f'<path fill="#fff" d="M0 0h{_WIDTH}v{height}H0z"/>',
        *(_text(4, 10 + i * _LINE, line, "") for i, line in enumerate(heading)),
        *([] if cohort is None else _cohort(frame, cohort)),
        *_axes(frame),
        *(part for i, curve in enumerate(curves) for part in _curve(frame, curve, i)),
    ]
    for i, (mark, label) in enumerate(legend):
        x, y = (4, 165)[i % 2], frame.bottom + 34 + _LINE * (i // 2)
        parts += [mark.format(f"M{x} {y - 3}"), _text(x + 24, y, label, "")]
    return "".join([*parts, "</svg>"]).encode()


@dataclass(frozen=True)
class _Frame:
    """The place of the axes in the figure."""

    top: int
    n_years: int

    @property
    def bottom(self) -> int:
        return self.top + _HEIGHT

    def x(self, year: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * year / self.n_years

    def y(self, survival: float) -> float:
        return self.bottom - _HEIGHT * survival

    def points(self, survival: np.ndarray) -> list[str]:
        """From 1 at year 0 to the last year."""
        values = [1.0, *survival[: self.n_years]]
        return [f"{self.x(year):.1f} {self.y(value):.1f}" for year, value in enumerate(values)]

    def line(self, survival: np.ndarray, look: str) -> str:
        return f'<path fill="none" {look} d="M{"L".join(self.points(survival))}"/>'

    def between(self, high: np.ndarray, low: np.ndarray, look: str) -> str:
        return f'<path {look} d="M{"L".join([*self.points(high), *self.points(low)[::-1]])}z"/>'


def _cohort(frame: _Frame, cohort: CohortSurvival) -> Iterator[str]:
    low, middle, high = _ZONES
    upper, lower = cohort.borders()
    yield f'<path fill="{high}" d="M{_LEFT} {frame.top}H{_RIGHT}V{frame.bottom}H{_LEFT}z"/>'
    yield frame.between(np.ones_like(lower), lower, f'fill="{middle}"')
    yield frame.between(np.ones_like(upper), upper, f'fill="{low}"')
    yield frame.line(cohort.everyone, 'stroke="#555" stroke-dasharray="1 2"')


def _curve(frame: _Frame, curve: Curve, i: int) -> Iterator[str]:
    if curve.low_high is not None:
        low, high = curve.low_high
        yield frame.between(high, low, f'fill="{method_look(curve.label).colour}" fill-opacity=".3"')
    yield frame.line(curve.survival, _look(curve, i))


def _look(curve: Curve, i: int) -> str:
    return f'stroke="{method_look(curve.label).colour}" stroke-width="1.5" stroke-dasharray="{_DASHES[i]}"'


def _axes(frame: _Frame) -> Iterator[str]:
    lines = []
    for step in range(5):
        y = frame.y(step / 4)
        lines.append(f"M{_LEFT} {y:.1f}H{_RIGHT}")
        if step % 2 == 0:
            yield _text(_LEFT - 3, y + 3, f"{step / 4:g}", ' text-anchor="end"')
    # One element for all years, a letter at each place; only the last year may have two. It makes the page open sooner.
    places = " ".join(f"{frame.x(year):.1f}" for year in range(frame.n_years + 1))
    years = "".join(map(str, range(frame.n_years + 1)))
    yield f'<text x="{places}" y="{frame.bottom + 10}" text-anchor="middle">{years}</text>'
    yield f'<path stroke="#999" stroke-width=".4" d="{"".join(lines)}"/>'
    middle = frame.bottom - _HEIGHT / 2
    yield _text((_LEFT + _RIGHT) / 2, frame.bottom + 20, "years of 365 days", ' text-anchor="middle"')
    turned = f' text-anchor="middle" transform="rotate(-90 8 {middle})"'
    yield _text(8, middle, "probability of no event", turned)


def _legend(curves: Sequence[Curve], with_cohort: bool) -> Iterator[tuple[str, str]]:
    """Each mark, with a gap for its place, and its label."""
    for i, curve in enumerate(curves):
        yield f'<path {_look(curve, i)} d="{{}}h20"/>', curve.label
        if curve.low_high is not None:
            band = f'fill="{method_look(curve.label).colour}" fill-opacity=".3"'
            yield f'<path {band} d="{{}}m0-4h20v8h-20z"/>', "middle 95% of its members"
    if with_cohort:
        yield '<path stroke="#555" stroke-dasharray="1 2" d="{}h20"/>', "mean of the training patients"
        for colour, name in zip(_ZONES, _ZONE_NAMES, strict=True):
            yield f'<path fill="{colour}" stroke="#999" stroke-width=".3" d="{{}}m0-4h20v8h-20z"/>', name


def _text(x: float, y: float, words: str, further: str) -> str:
    return f'<text x="{x:.5g}" y="{y:.5g}"{further}>{html.escape(words)}</text>'
