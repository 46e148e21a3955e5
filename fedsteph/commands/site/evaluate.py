"""``fedsteph evaluate``: models on patients that they were not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.evaluation.external import Evaluation


def evaluate(
    models: Annotated[
        list[Path], typer.Argument(help="Model files, or folders of fold models. Differences are to the first.")
    ],
    site: Annotated[
        Path | None, typer.Option(help="Site folder or site file: its patients, read as its site file says.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Folder of feature files. With --site: in place of its own.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Table with patient_id, pathology_id, t and e. With --site: in place of its own."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and the tables.")] = Path("evaluation"),
    held_out_only: Annotated[
        bool, typer.Option("--held-out-only", help="Leave out patients that a model was trained on.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure models on patients that they were not trained on: C-index, Uno's C, AUC, Brier score, calibration.

    \b
    Examples:
      fedsteph evaluate deployed --site sites/external
      fedsteph evaluate deployed model.safetensors --site sites/external --out external
      fedsteph evaluate model.safetensors --features new --labels new.csv
      fedsteph evaluate deployed/fold_0.safetensors --site sites/kirp --held-out-only

    Where a model's file tells that a patient was in its training, all are
    refused; --held-out-only leaves these patients out. 95% intervals are of
    1000 bootstrap resamples of the patients, paired between models. OUT has
    index.html, evaluation.json, evaluation.csv and predictions.csv.
    """
    from fedsteph.client.evaluation import external
    from fedsteph.client.report.evaluation_files import content, outputs, write_evaluation
    from fedsteph.commands.terminal.check_table import show_problems

    with console.progress_bar() as progress:
        told = progress("predicting")
        found = external.evaluate(
            models, features, labels, told, site=site, held_out_only=held_out_only, outputs=outputs(out)
        )
        files = [str(path) for path in write_evaluation(found, out, progress("drawing"))]
    show_problems(console.err, found.warnings)
    if as_json:
        return console.show_json(content(found) | {"files": files})
    _say(found)
    for path in files:
        console.say(f"written: {path}")


def _say(found: Evaluation) -> None:
    from fedsteph.client.report.evaluation_page import score_tables, verdict

    console.say(f"{len(found.patients)} patients, {int(found.events.sum())} events")
    for table in score_tables(found):
        console.show_table(table.header, table.rows, title=table.title)
    for sentence in (*found.left_out, *verdict(found)):
        console.say(sentence)
