"""``fedsteph measure poison``: tests poisoned vectors on real cohorts, with 1 to 4 malicious sources.

Every attack is measured without screening and with each screening policy. Each fold of each attack is saved when it is
done, so that the same command resumes, and several commands with different targets can share one folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsteph.client.evaluation.metrics import number
from fedsteph.client.site.policy import Mode
from fedsteph.client.site.site import site_folders
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.digest import digest
from fedsteph.common.config.run_config import load_config
from fedsteph.common.host import atomic, checked_file
from fedsteph.common.model.initial_model import m0_digest
from fedsteph.common.report.csv_text import csv_text
from fedsteph.simulations.attacks.suite import ATTACKS
from fedsteph.simulations.attacks.trial import HONEST, MODES, Ground, measure
from fedsteph.simulations.markdown import table_lines
from fedsteph.simulations.run.run_folder import open_sites, same_features

SCHEMA = "fedsteph/poison/v1"
AIM = -0.01  # lowest acceptable C-index of deployed minus local model, mean over folds, for every target


@dataclass(frozen=True)
class Cell:
    """One fold of one target under one attack with ``n`` malicious sources."""

    target: str
    fold: int
    attack: str
    n: int


def cells_of(targets: Sequence[str], folds: Sequence[int], attacks: Sequence[str], counts: Sequence[int]) -> list[Cell]:
    """All cells, fold by fold, the honest federation first, so that early results cover all targets and attacks."""
    wanted = [(HONEST, 0), *((attack, n) for n in sorted(counts, reverse=True) for attack in attacks)]
    return [Cell(target, fold, attack, n) for fold in folds for attack, n in wanted for target in targets]


def summary(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per attack and number of malicious sources, with means over all cells."""
    rows = []
    for attack in (HONEST, *ATTACKS):
        for n in sorted({len(cell["malicious"]) for cell in cells if cell["attack"] == attack}):
            rows.append(_row(attack, n, [c for c in cells if c["attack"] == attack and len(c["malicious"]) == n]))
    return rows


def _row(attack: str, n: int, cells: list[dict[str, Any]]) -> dict[str, Any]:
    gaps = {mode: _gaps(cells, mode) for mode in MODES}
    honest = sum(cell["sources"] - n for cell in cells)
    return {
        "attack": attack,
        "malicious": n,
        "folds": len(cells),
        "local": _mean([cell["local"] for cell in cells]),
        "steph_unscreened": _mean([cell["steph"]["report"] for cell in cells]),
        **{f"deployed_{mode}": _mean([cell["deployed"][mode] for cell in cells]) for mode in MODES},
        **{f"worst_{mode}": min(gaps[mode].values()) for mode in MODES},
        "gaps": gaps,
        "caught": _count(cells, "caught") / (n * len(cells)) if n else None,
        "false_alarms": _count(cells, "false_alarms") / honest,
        "rise": _rises(cells),
    }


def _gaps(cells: list[dict[str, Any]], mode: Mode) -> dict[str, float]:
    """Target -> mean C-index of the deployed minus the local model."""
    targets = sorted({cell["target"] for cell in cells})
    return {one: _mean([c["deployed"][mode] - c["local"] for c in cells if c["target"] == one]) for one in targets}


def _rises(cells: list[dict[str, Any]]) -> dict[str, float] | None:
    """Model -> mean rise of the risk percentile; None for attacks without a trigger."""
    return {key: _mean([cell["rise"][key] for cell in cells]) for key in cells[0].get("rise", {})} or None


def _count(cells: list[dict[str, Any]], key: str) -> int:
    return sum(len(cell[key]) for cell in cells)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def attack_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and body of the attack table; "worst" is the lowest difference of any target."""
    header = ["attack", "malicious", "local", "STEPH, unscreened"]
    header += [f"deployed, {mode}" for mode in MODES] + [f"worst, {mode}" for mode in MODES]
    header += ["caught", "false alarms", "rise: local", "STEPH, unscreened", "deployed, refuse"]
    body = []
    for row in rows:
        rise = row["rise"] or {}
        title = "honest federation" if row["attack"] == HONEST else ATTACKS[row["attack"]].title
        body.append(
            [title, str(row["malicious"]), number(row["local"]), number(row["steph_unscreened"])]
            + [number(row[f"deployed_{mode}"]) for mode in MODES]
            + [f"{row[f'worst_{mode}']:+.3f}" for mode in MODES]
            + ["-" if row["caught"] is None else f"{row['caught']:.0%}", f"{row['false_alarms']:.1%}"]
            + [number(rise.get(key)) for key in ("local", "steph, report", "deployed, refuse")]
        )
    return header, body


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The attack table as Markdown."""
    return "\n".join(table_lines(*attack_table(rows))) + "\n"


def cells_csv(cells: Sequence[dict[str, Any]]) -> str:
    """The cells as CSV, one line each."""
    header = ["target", "fold", "attack", "malicious", "local", "steph_unscreened", *MODES, "caught", "false"]
    lines: list[list[Any]] = [header]
    for cell in cells:
        scores = [cell["local"], cell["steph"]["report"], *(cell["deployed"][mode] for mode in MODES)]
        who = [len(cell["caught"]), len(cell["false_alarms"])]
        lines.append([cell["target"], cell["fold"], cell["attack"], len(cell["malicious"]), *scores, *who])
    return csv_text(lines)


def workspaces_of(folder: Path, out: Path, settings: Sequence[str]) -> dict[str, Workspace]:
    """Every site's workspace, with its state in ``out/sites``, under a configuration with these ``key=value`` texts."""
    opened = open_sites(site_folders(folder))
    config = load_config(None, ["comparators.methods=[]", *settings])
    model = same_features(config.model, list(opened.values()))
    recipe = replace(config.recipe, model=replace(model, m0_sha256=m0_digest(model)))
    return {
        name: Workspace.open(
            replace(site, state=out / "sites" / name, file=replace(site.file, threads=1, m0=None)), recipe
        )
        for name, site in opened.items()
    }


def measured(out: Path, ground: Ground, cell: Cell) -> dict[str, Any]:
    """The result of one cell; read from ``out`` if it was measured before."""
    key = digest([ground.workspace.data_digest, digest(ground.workspace.recipe), ground.wanted])[:12]
    path = out / "cells" / f"{cell.target}-{cell.fold}-{cell.attack}-{cell.n}-{key}.json"
    found = checked_file.kept(path, checked_file.read_json)
    if found is None:
        checked_file.write_json(path, measure(ground, cell.fold, cell.attack, cell.n))
        found = checked_file.read_json(path)
    return found


def keep_results(out: Path, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write ``poison.json``, ``.md`` and ``.csv`` for the finished cells; returns the content of ``poison.json``."""
    rows = summary(cells)
    found = {"schema": SCHEMA, "aim": AIM, "rows": rows, "cells": list(cells)}
    checked_file.write_json(out / "poison.json", found)
    atomic.write_text(out / "poison.md", markdown(rows))
    atomic.write_text(out / "poison.csv", cells_csv(cells))
    return found
