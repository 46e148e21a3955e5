"""``fedsteph predict``: a model used on a site's patients or on new ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import DataError
from fedsteph.common.host import console
from fedsteph.common.host.progress import Progress

if TYPE_CHECKING:
    from fedsteph.client.models.predict import PatientView
    from fedsteph.client.site.prediction import Prediction

_Site = Annotated[Path | None, typer.Option(help="Site folder or site file: its patients, read as its site file says.")]
_Features = Annotated[
    Path | None, typer.Option(help="Folder of feature files, or a site folder. With --site: in place of its own.")
]
_Labels = Annotated[
    Path | None,
    typer.Option(
        help="Table with patient_id and pathology_id, and t and e (or censorship) if known. With --site: in place of "
        "its own. Default without a site: one slide, one patient."
    ),
]


def predict(
    model: Annotated[
        Path, typer.Argument(help="A model.safetensors: final, local or enhanced; or a folder of fold models.")
    ],
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    site: _Site = None,
    features: _Features = None,
    labels: _Labels = None,
    clinical: Annotated[
        Path | None,
        typer.Option(
            help="Table with patient_id and the clinical columns. Default: SITE's own, if its file names them."
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML to write too: a part per patient, with survival, quality and sources.")
    ] = None,
    patients: Annotated[
        list[str] | None, typer.Option("--patient", help="On the page, this patient alone. Repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write each patient's risk, yearly survival, and the sources that an enhanced model kept for them.

    \b
    Examples:
      fedsteph predict model.safetensors --site sites/kirp --out risk.csv
      fedsteph predict deployed/model.safetensors --site sites/kirp --out risk.csv --json
      fedsteph predict deployed --site sites/kirp --features new --labels new.csv --out r.csv
      fedsteph predict model.safetensors --features new --out risk.csv
      fedsteph predict model.safetensors --features new --labels new.csv --out r.csv
      fedsteph predict deployed/model.safetensors --features new --clinical values.csv --out r.csv
      fedsteph predict model.safetensors --features new --out risk.csv --page new.html
      fedsteph predict model.safetensors --features new --out r.csv --page p.html --patient P017

    Survival ends at the longest follow-up of the model's training patients.
    Where the model's file allows it, the CSV has the risk's percentile among
    them, and the risk by the site's own model (risk_local).

    A final model (deployed/model.safetensors) predicts the mean of its members.
    Its CSV has the column unlike: how far a patient's slide is from the training
    slides (1: as far as the farthest of them). Above 1.5, a warning says so.
    With clinical values, where a clinical.json lies beside the model, it has
    risk_clinical, risk_both and survival_both_1y too. For a missing number or
    level the training patients' median is taken, for a missing or new category
    the most frequent one; a warning counts them.

    MODEL may be a folder of models that fit together, such as 'deployed', where
    the models of folds count: the CSV then has means over them. risk_low and risk_high are the 2.5th and
    97.5th percentile of their risks: how far the models disagree, and no
    confidence interval of an outcome.
    """
    from fedsteph.client.site.prediction import predict_file
    from fedsteph.commands.terminal.check_table import show_problems

    if patients and page is None:
        raise DataError("chooses patients of a page, and there is none", where="--patient", remedy="Give --page too")
    with console.progress_bar() as progress:
        found = predict_file(
            model, features, labels, out, progress("predicting"), site=site, page=page, clinical=clinical
        )
        if page is not None:
            _draw(found, model, site, page, patients or [], progress("drawing"))
    show_problems(console.err, found.warnings)
    files = [str(path) for path in (out, page) if path is not None]
    if as_json:
        why = found.why_no_c_index
        told = {"patients": found.n_patients, "c_index": found.c_index, "why_no_c_index": why, "files": files}
        return console.show_json(told)
    _say(found, files)


def _say(found: Prediction, files: Sequence[str]) -> None:
    console.say(f"{found.n_patients} patient{'' if found.n_patients == 1 else 's'} -> {files[0]}")
    for page in files[1:]:
        console.say(f"page -> {page}")
    if found.c_index is None:
        console.say(f"no C-index: {found.why_no_c_index}")
    else:
        console.say(
            f"C-index {found.c_index:.3f} over {found.n_comparable} comparable pairs "
            "(no test, where the model was trained on some of these patients)"
        )


def _draw(
    found: Prediction, model: Path, site: Path | None, page: Path, names: Sequence[str], progress: Progress
) -> None:
    from fedsteph.client.report.patients.heatmap_blocks import Heatmaps
    from fedsteph.client.report.patients_page import Beside, patients_page
    from fedsteph.common.host import atomic
    from fedsteph.common.report.page import html

    name = model.name if found.n_models == 1 else f"{model.name} (mean of {found.n_models} models)"
    views = _chosen(found.views, names, page)
    beside = Beside(found.cohort, found.quality, Heatmaps(page, model, found.files, site))
    atomic.write_text(page, html(patients_page(views, name, progress, found.followed_years, beside)))


def _chosen(views: Sequence[PatientView], names: Sequence[str], page: Path) -> list[PatientView]:
    """The patients of a page: those named, or all."""
    from fedsteph.client.report.patients_page import MOST_PATIENTS

    if unknown := set(names) - {view.id for view in views}:
        raise DataError(f"there is no patient '{min(unknown)}'", where="--patient", remedy="Give an ID as in the CSV")
    chosen = [view for view in views if not names or view.id in names]
    if len(chosen) > MOST_PATIENTS:
        what = f"a page of {len(chosen)} patients would be too large to be read; {MOST_PATIENTS} are the most"
        raise DataError(what, where=page, remedy="Name those to show with --patient; the CSV has them all")
    return chosen
