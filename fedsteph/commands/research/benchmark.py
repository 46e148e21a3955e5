"""``fedsteph benchmark``: methods x targets x folds x seeds over site folders on one machine."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import EXIT_DONE, EXIT_FEDERATION
from fedsteph.common.host import console
from fedsteph.common.host.lock import exclusive

if TYPE_CHECKING:
    from fedsteph.simulations.study.gather import Prepared
    from fedsteph.simulations.study.study_results import StudyResults

_LINE_EVERY_SECONDS = 10.0


def benchmark(
    config: Annotated[Path, typer.Argument(help="The study's YAML; see configs/benchmark-small.yaml.")],
    sites: Annotated[Path | None, typer.Option(help="Folder of site folders, instead of the YAML's.")] = None,
    out: Annotated[Path, typer.Option(help="The study's folder; what is done in it is not done again.")] = Path(
        "fedsteph-benchmark"
    ),
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key, e.g. --set recipe.training.epochs=5. Repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core, one on a GPU.")] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the study's page, as 'fedsteph report' does.")
    ] = True,
    as_json: JsonOption = False,
) -> int:
    """Compare methods on your own sites: methods x targets x folds x seeds, with intervals and costs.

    \b
    Examples:
      fedsteph benchmark configs/benchmark-small.yaml --sites sites --out small
      fedsteph benchmark configs/real-rna.yaml --sites sites --out rna
      fedsteph benchmark configs/paper.yaml --sites uni2 --set seeds='\\[0,1,2]' --set targets='\\[kipan]'
      fedsteph benchmark my.yaml --json | jq .overall

    No finished training is lost when it is stopped: the same command goes on. Rows can be added to the YAML later.

    \b
    Exit codes:
      0 done
      1 your input
      2 some trainings failed; the tables hold the others
      3 a bug
    """
    from fedsteph.client.training.device import resolve_device, usual_workers
    from fedsteph.commands.terminal.page_drawing import draw_page
    from fedsteph.simulations.run.run_folder import refuse_among_sites
    from fedsteph.simulations.study.run_study import prepare_study
    from fedsteph.simulations.study.study_file import load_study
    from fedsteph.simulations.study.study_page import write_study_page

    out = out.resolve()
    study = load_study(config, sites.resolve() if sites is not None else None, settings or [])
    assert study.file.sites is not None
    refuse_among_sites(out, study.file.sites)
    with exclusive(out, wait=False):
        prepared = prepare_study(study, out)
        results = _run(prepared, workers or usual_workers(resolve_device(study.file.device)))
    if as_json:
        console.show_json(results)
    else:
        _show(results, out)
    if report:
        draw_page(lambda progress: write_study_page(out, progress=progress))
    return EXIT_FEDERATION if results["failures"] else EXIT_DONE


def _run(prepared: Prepared, workers: int) -> StudyResults:
    from fedsteph.simulations.study.run_study import run_study

    rows, targets = len(prepared.study.rows), ", ".join(prepared.targets)
    folds, seeds = prepared.study.evaluation.folds, len(prepared.study.file.seeds)
    console.tell(
        f"{rows} rows, targets {targets}, {folds} folds, {seeds} seeds: "
        f"{prepared.plan.n_units} trainings by {workers} processes"
    )
    spoke = time.monotonic()
    with console.progress_bar() as bar:
        if console.err.is_terminal:
            bar("starting")

        def on_line(what: str, done: float, total: float) -> None:
            nonlocal spoke
            if done == total or time.monotonic() - spoke >= _LINE_EVERY_SECONDS:
                spoke = time.monotonic()
                console.tell(f"{done} of {total} done ({what})")

        return run_study(prepared, workers, bar if console.err.is_terminal else lambda what: partial(on_line, what))


def _show(results: StudyResults, out: Path) -> None:
    from fedsteph.simulations.study.tables import c_index_table, difference_table, sentences

    _print(*c_index_table(results), "C-index")
    for reference in results["against"]:
        _print(*difference_table(results, reference), f"against {results['rows'][reference]['title']}")
    for sentence in sentences(results):
        console.say(sentence)
    names = ", ".join(str(out / name) for name in ("results.md", "results.json", "results.csv", "cells.csv"))
    console.say(f"Results: {names}")


def _print(header: list[str], body: list[list[str]], title: str) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap="interval" in name)
    for row in body:
        table.add_row(*row)
    console.out.print(table)
