"""The site's own commands: check the data, train locally, predict. None of them uses the network."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.table import Table

from fedsteph.client.data.check import check_site
from fedsteph.client.data.discovery import discover
from fedsteph.client.data.problems import counted
from fedsteph.client.models.predict import PatientView, predict_file, refuse_overwriting
from fedsteph.client.report.patients_page import MOST_PATIENTS, patients_page
from fedsteph.client.site.device import resolve_device
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_log import told_of_work
from fedsteph.client.target.train_alone import train_site
from fedsteph.client.training.epoch_log import to_tensorboard
from fedsteph.commands.terminal.check_table import check_table, problem_table
from fedsteph.common.config.recipe import load_config
from fedsteph.common.errors import EXIT_DONE, EXIT_INPUT, DataError
from fedsteph.common.host import atomic, console
from fedsteph.common.report.page import html

data = typer.Typer(no_args_is_help=True, help="Look at a site's data.")

SiteArgument = Annotated[Path, typer.Argument(help="The site's folder, with features/ and labels.csv.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The federation's YAML; default: common/config/recipe.py.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change one key, e.g. --set training.epochs=5. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@data.command("check")
def check(site: SiteArgument, as_json: JsonOption = False) -> int:
    """Say what a site's data holds, and every problem in it. Exit code 1 if there is any, a warning too.

    \b
    Examples:
      fedsteph data check sites/kirp
      fedsteph data check sites/kirp --json | jq .problems
    """
    opened = Site.open(site)
    resolve_device(opened.device)
    with console.progress_bars() as bars:
        task = bars.add_task(f"reading the features of {opened.name}", total=None)
        report = check_site(
            opened.folder, opened.data, lambda done, total: bars.update(task, completed=done, total=total)
        )
    if as_json:
        print(json.dumps({"site": opened.name, **report.to_dict()}, indent=2, allow_nan=False))
    else:
        console.out.print(check_table(opened.name, report))
        if report.problems:
            console.out.print(problem_table(report.problems))
        else:
            console.out.print("no problem found")
    if report.ok:
        return EXIT_DONE
    console.err.print(f"{opened.folder}: {counted(report.problems)} found", markup=False, highlight=False)
    return EXIT_INPUT


def train(
    site: SiteArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for the model; default: SITE's state folder.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the site's own ABMIL survival model, without any network: per fold, then on all patients.

    \b
    Examples:
      fedsteph train sites/kirp --out kirp-model
      fedsteph train sites/kirp --set training.epochs=10 --set evaluation.folds=3
    """
    opened = Site.open(site, state=out)
    if warnings := [p for p in discover(opened.folder, opened.data).problems if p.severity == "warning"]:
        console.err.print(problem_table(warnings))
    said = logging.Logger("fedsteph train")
    said.addHandler(RichHandler(console=console.err, show_time=False, show_path=False))
    with console.progress_bars() as bars, told_of_work(said), to_tensorboard(opened.tensorboard):
        task = bars.add_task(f"training at {opened.name}", total=1.0)
        result = train_site(
            opened,
            load_config(config, settings),
            lambda done, total: bars.update(task, completed=done, total=total),
        )
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    table = Table("fold", "C-index")
    for fold, value in enumerate(result["c_index"]):
        table.add_row(str(fold), "undefined" if value is None else f"{value:.3f}")
    console.out.print(table)
    if result["mean"] is not None and result["interval_95"] is not None:
        low, high = result["interval_95"]
        console.out.print(f"mean {result['mean']:.3f}, 95% interval {low:.3f} to {high:.3f}")
    else:
        console.out.print("too small to evaluate: no test fold has a comparable pair of patients")
    console.out.print(result["storage"], soft_wrap=True)
    console.out.print(f"model: {result['model']}", soft_wrap=True)


def predict(
    model: Annotated[Path, typer.Argument(help="A model.safetensors, local or enhanced.")],
    features: Annotated[Path, typer.Option(help="Folder of feature files.")],
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV with patient_id and pathology_id, and t, e if known. Default: one slide, one patient."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML to write too: a part per patient, with survival curves and sources.")
    ] = None,
    patients: Annotated[
        list[str] | None, typer.Option("--patient", help="On the page, this patient alone. Repeatable.")
    ] = None,
) -> None:
    """Write each patient's risk, yearly survival, and the sources that an enhanced model kept for them.

    \b
    Examples:
      fedsteph predict model.safetensors --features new --out risk.csv
      fedsteph predict model.safetensors --features new --labels new.csv --out r.csv
      fedsteph predict model.safetensors --features new --out risk.csv --page new.html
      fedsteph predict model.safetensors --features new --out r.csv --page p.html --patient P017
    """
    if patients and page is None:
        raise DataError("chooses patients of a page, and there is none", where="--patient", remedy="Give --page too")
    if page is not None:
        refuse_overwriting(page, (model, labels, features, out))
    with console.progress_bars() as bars:
        task = bars.add_task("predicting", total=None)
        found = predict_file(
            model,
            features,
            labels,
            out,
            lambda done, total: bars.update(task, completed=done, total=total),
            with_local=page is not None,
        )
        if page is not None:
            views = _chosen(found.views, patients or [], page)
            bars.update(task, description="drawing", completed=0, total=len(views))
            drawn = patients_page(views, model.name, lambda done, total: bars.update(task, completed=done))
            atomic.write_text(page, html(drawn))
    many = "" if found.n_patients == 1 else "s"
    console.out.print(f"{found.n_patients} patient{many} -> {out}", soft_wrap=True)
    if page is not None:
        console.out.print(f"page -> {page}", soft_wrap=True)
    if found.c_index is not None:
        console.out.print(
            f"C-index {found.c_index:.3f} over {found.n_comparable} comparable pairs "
            "(no test, where the model was trained on some of these patients)"
        )


def _chosen(views: Sequence[PatientView], names: Sequence[str], page: Path) -> list[PatientView]:
    """The patients of a page: those named, or all."""
    if unknown := set(names) - {view.id for view in views}:
        raise DataError(f"there is no patient '{min(unknown)}'", where="--patient", remedy="Give an ID as in the CSV")
    chosen = [view for view in views if not names or view.id in names]
    if len(chosen) > MOST_PATIENTS:
        what = f"a page of {len(chosen)} patients would be too large to be read; {MOST_PATIENTS} are the most"
        raise DataError(what, where=page, remedy="Name those to show with --patient; the CSV has them all")
    return chosen
