"""``fedsteph train``: the site's own model, without any network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsteph.commands.terminal.options import ConfigOption, JsonOption, SetOption, SiteArgument
from fedsteph.common.host import console


def train(
    site: SiteArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for the model; default: SITE's state folder.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write a page about the models, into their folder.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Train the site's own survival model, without any network: per fold, then on all patients.

    \b
    Examples:
      fedsteph train sites/kirp --out kirp-model
      fedsteph train sites/kirp --set training.epochs=10 --set evaluation.folds=3

    The model of all patients is model.safetensors in that folder, with its card model.md; the next training replaces
    it. A site file with 'page: false' has no page.
    """
    from rich.logging import RichHandler

    from fedsteph.client.data.discovery import discover
    from fedsteph.client.data.tables.split_files import split_files
    from fedsteph.client.report.training_page import write_training_page
    from fedsteph.client.site.site import Site
    from fedsteph.client.site.site_log import told_of_work
    from fedsteph.client.target.train_alone import train_models
    from fedsteph.client.training.epoch_log import to_tensorboard
    from fedsteph.commands.terminal.check_table import show_problems
    from fedsteph.commands.terminal.page_drawing import draw_page
    from fedsteph.common.config.run_config import load_config
    from fedsteph.common.host.lock import exclusive

    opened = Site.open(site, state=out)
    opened.require_state()
    problems = discover(opened.folder, opened.file.data).problems
    problems += split_files(opened.folder, opened.file.data.splits)[1]
    if warnings := [problem for problem in problems if problem.severity == "warning"]:
        show_problems(console.err, warnings)
    said = logging.Logger("fedsteph train")
    said.addHandler(RichHandler(console=console.err, show_time=False, show_path=False))
    telling = told_of_work(said), to_tensorboard(opened.tensorboard)
    with exclusive(opened.state, wait=False):
        with console.progress_bar() as progress, telling[0], telling[1]:
            found = train_models(opened, load_config(config, settings), progress(f"training at {opened.name}"))
        _show(found.to_dict(), as_json)
        if report and opened.file.page:
            draw_page(lambda progress: write_training_page(found, progress=progress))


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return console.show_json(result)
    values = ["undefined" if value is None else f"{value:.3f}" for value in result["c_index"]]
    console.show_table(["fold", "C-index"], [[str(fold), value] for fold, value in enumerate(values)])
    if result["mean"] is not None and result["interval_95"] is not None:
        low, high = result["interval_95"]
        console.out.print(f"mean {result['mean']:.3f}, 95% interval {low:.3f} to {high:.3f}")
    else:
        console.out.print("too small to evaluate: no test fold has a comparable pair of patients")
    console.say(result["storage"])
    console.say(f"model: {result['model']}")
