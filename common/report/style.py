"""How every picture looks: sizes that a phone can show, colours that the colour-blind can tell apart, no junk."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette; black last, which text and reference lines have too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
# Whoever sees no colour tells lines apart by their dashes.
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
REFERENCE: dict[str, Any] = {"color": "0.55", "linewidth": 0.8, "linestyle": ":"}
GRADED = "cividis"  # perceptually uniform, and the same to the colour-blind
WIDTH, HEIGHT = 4.6, 3.3  # inches: on a phone's 360 points text stays legible

_RC: Any = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.4,
    "svg.fonttype": "path",  # the same on every machine, whatever fonts it has
}
_DPI = 160


@contextmanager
def canvas(width: float = WIDTH, height: float = HEIGHT) -> Iterator[Figure]:
    """A figure to draw on, in inches; no window system is asked for."""
    import matplotlib as mpl  # noqa: PLC0415 (half a second, for those who draw)
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_RC):
        yield Figure(figsize=(width, height), layout="constrained")


def encoded(figure: Figure, kind: Literal["svg", "png"], salt: str = "fedsteph") -> bytes:
    """A figure as the bytes of a file, the same for the same figure; no date and no path is in them.

    Args:
        salt: makes the ids within an SVG its own, so that several can stand in one document.
    """
    import matplotlib as mpl  # noqa: PLC0415

    buffer = io.BytesIO()
    # The SVG writer names its maker, and the day, unless told not to.
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(_RC | {"svg.hashsalt": salt}):
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


def line_look(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th line: two lines share one of them at most."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[(i + i // len(COLOURS)) % len(DASHES)]}
