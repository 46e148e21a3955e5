"""The privacy-utility frontier of a study with attacks on shared vectors: one point per row, as CSV, table and plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsteph.client.evaluation.metrics import number
from fedsteph.common.host import atomic
from fedsteph.common.report.style import COLOURS, KINDS, encoded
from fedsteph.simulations.csv_text import csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def points(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One flat mapping per row whose shared vectors were all attacked; empty without a local row as reference."""
    found = []
    for name, row in results["overall"].items():
        attack, against = row.get("attack"), row["against"].get("local")
        if attack is None or against is None or against["difference"] is None:
            continue
        found.append(
            {
                "row": name,
                "c_index": row["mean"],
                "minus_local": against["difference"],
                **_ends("minus_local", against["interval_95"]),
                "attack": attack["attack"],
                "attack_auc": attack["auc"],
                **_ends("attack_auc", attack["auc_interval_95"]),
                "attack_auc_largest": attack["auc_largest"],
                "sites_above_chance": attack["sites_above_chance"],
                "attack_tpr_at_1_percent": attack["tpr"],
                "epsilon": attack["epsilon"],
                "epsilon_at_least": attack["epsilon_at_least"],
                "vector_bytes": attack["vector_bytes"],
            }
        )
    return found


def frontier_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and body: per row the gain in C-index, the attack's AUC and TPR, epsilon, and bytes per vector."""
    header = ["row", "C-index", "against local", "interval", "AUC of the attack", "interval", "largest AUC"]
    header += ["sites above chance", "TPR at 1% FPR", "epsilon", "shown by attack", "bytes per vector"]
    body = [
        [
            one["row"],
            number(one["c_index"]),
            f"{one['minus_local']:+.3f}",
            _interval(one, "minus_local", "+.3f"),
            number(one["attack_auc"]),
            _interval(one, "attack_auc", ".3f"),
            number(one["attack_auc_largest"]),
            str(one["sites_above_chance"]),
            number(one["attack_tpr_at_1_percent"]),
            "no bound" if one["epsilon"] is None else f"{one['epsilon']:.2f}",
            f"{one['epsilon_at_least']:.2f}",
            f"{one['vector_bytes']:,}",
        ]
        for one in points(results)
    ]
    return header, body


def frontier_csv(results: dict[str, Any]) -> str:
    """The points as CSV."""
    found = points(results)
    return csv_text([list(found[0]), *(list(one.values()) for one in found)])


def write_frontier(results: dict[str, Any], out: Path) -> list[Path]:
    """Write ``frontier.csv``, ``.svg`` and ``.png`` if vectors were attacked; returns the written paths."""
    if not points(results):
        return []
    atomic.write_text(out / "frontier.csv", frontier_csv(results))
    draw(results, out)
    return [out / f"frontier.{kind}" for kind in ("csv", "svg", "png")]


def draw(results: dict[str, Any], out: Path) -> None:
    """Write ``frontier.svg`` and ``frontier.png``."""
    figure = drawn(results)
    for kind in KINDS:
        atomic.write_bytes(out / f"frontier.{kind}", encoded(figure, kind))


def drawn(results: dict[str, Any]) -> Figure:
    """Plot the gain in C-index over the local model against the AUC of the attack, one point per row."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (takes half a second, so only when drawing)

    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle=":")
    axes.axhline(0.0, color="0.6", linewidth=1, linestyle=":")
    for i, one in enumerate(points(results)):
        x, y = one["attack_auc"], one["minus_local"]
        epsilon = "" if one["epsilon"] is None else f", epsilon {one['epsilon']:.1f}"
        axes.errorbar(
            x,
            y,
            xerr=_bars(one, "attack_auc"),
            yerr=_bars(one, "minus_local"),
            marker="o" if one["epsilon"] is None else "s",
            color=COLOURS[i % len(COLOURS)],
            elinewidth=0.8,
            capsize=2,
            linestyle="none",
            label=f"{one['row']} ({_size(one['vector_bytes'])}{epsilon})",
        )
    axes.set_xlabel("AUC of the strongest membership attack, mean over sites (0.5 is guessing)")
    axes.set_ylabel("C-index of the enhanced model minus local, mean over targets")
    seeds = len(results["seeds"])
    axes.set_title(
        f"{len(results['targets'])} targets, {results['folds']} folds, {seeds} seed{'s' if seeds > 1 else ''}; "
        "squares: trained with differential privacy; bars: 95% intervals",
        fontsize="medium",
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def _ends(key: str, interval: Sequence[float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{key}_low": low, f"{key}_high": high}


def _bars(one: dict[str, Any], key: str) -> list[list[float]] | None:
    low, high = one[f"{key}_low"], one[f"{key}_high"]
    return None if low is None else [[max(0.0, one[key] - low)], [max(0.0, high - one[key])]]


def _interval(one: dict[str, Any], key: str, form: str) -> str:
    low, high = one[f"{key}_low"], one[f"{key}_high"]
    return "-" if low is None else f"{low:{form}} to {high:{form}}"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"
