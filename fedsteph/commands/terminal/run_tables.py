"""Formats the results of a run, or of one target, as tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from fedsteph.client.target.target_result import TargetResult
from fedsteph.common.host import console
from fedsteph.simulations.run.run_folder import RunFolder
from fedsteph.simulations.run.run_results import RunResults
from fedsteph.simulations.run.summary import run_sentences, score_rows, target_sentences, target_title


def show(folder: RunFolder, results: RunResults) -> None:
    """The whole run on the terminal."""
    for target, result in results.targets.items():
        show_target(target, result)
        console.out.print()
    for sentence in run_sentences(folder, results):
        console.say(sentence)


def show_target(target: str, result: TargetResult) -> None:
    """One target's scores, and what they say."""
    header, *found = score_rows(result)
    console.out.print(target_title(target, result), style="bold", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in found:
        table.add_row(*row)
    console.out.print(table)
    for sentence in target_sentences(result):
        console.say(f"  {sentence}")
