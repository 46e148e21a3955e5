"""Files of an external validation: the page, all numbers as JSON and CSV, and each patient's predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedsteph.client.evaluation.external import RESAMPLES, SEED, Evaluation
from fedsteph.client.evaluation.side_by_side import Number
from fedsteph.client.report.evaluation_page import evaluation_page
from fedsteph.common.config.digest import to_dict
from fedsteph.common.host import atomic
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.report.csv_text import csv_text
from fedsteph.common.report.page import PAGE_FILE, write_page

SCHEMA = "fedsteph/evaluation/v1"
NUMBERS, TABLE, PREDICTIONS = "evaluation.json", "evaluation.csv", "predictions.csv"
_HEADER = ("model", "metric", "value", "low", "high", "minus_first", "minus_first_low", "minus_first_high")


def write_evaluation(found: Evaluation, out: Path, progress: Progress = silent) -> list[Path]:
    """Write all files into a folder; their paths."""
    _, numbers, table, predictions = paths = outputs(out)
    write_page(evaluation_page(found), out, progress)
    atomic.write_text(numbers, json.dumps(content(found), indent=2, allow_nan=False) + "\n")
    atomic.write_text(table, csv_text([_HEADER, *_rows(found)], 9))
    atomic.write_text(predictions, csv_text([*_predictions(found)], 9))
    return paths


def outputs(out: Path) -> list[Path]:
    """The files that are written into a folder, the page first."""
    return [out / name for name in (PAGE_FILE, NUMBERS, TABLE, PREDICTIONS)]


def content(found: Evaluation) -> dict[str, Any]:
    """The content of ``evaluation.json``."""
    return {
        "schema": SCHEMA,
        "fedsteph": version("fedsteph"),
        "n_patients": len(found.patients),
        "n_events": int(found.events.sum()),
        "years": list(found.years),
        "left_out": list(found.left_out),
        "warnings": [problem.line for problem in found.warnings],
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED},
        "models": {name: to_dict(scores) for name, scores in found.scores.items()},
    }


def _rows(found: Evaluation) -> Iterator[list[object]]:
    for name, scores in found.scores.items():
        for metric, number in scores.metrics.items():
            yield [name, metric, *_cells(number), *_cells(scores.minus_first.get(metric))]


def _cells(number: Number | None) -> tuple[float | None, ...]:
    if number is None:
        return None, None, None
    return number.value, *(number.interval_95 or (None, None))


def _predictions(found: Evaluation) -> Iterator[list[object]]:
    yield ["patient_id", "t_days", "e", *(f"risk_{name}" for name in found.views)]
    for i, patient in enumerate(found.patients):
        yield [patient.id, patient.t, patient.e, *(views[i].risk for views in found.views.values())]
