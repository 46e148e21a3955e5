"""``fedsteph predict``: a model used on new patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.common.errors import DataError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.models.predict import PatientView


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
    from fedsteph.client.models.predict import predict_file, refuse_overwriting
    from fedsteph.client.report.patients_page import patients_page
    from fedsteph.common.host import atomic
    from fedsteph.common.report.page import html

    if patients and page is None:
        raise DataError("chooses patients of a page, and there is none", where="--patient", remedy="Give --page too")
    if page is not None:
        refuse_overwriting(page, (model, labels, features, out))
    with console.progress_bar() as progress:
        found = predict_file(model, features, labels, out, progress("predicting"), with_local=page is not None)
        if page is not None:
            views = _chosen(found.views, patients or [], page)
            drawn = patients_page(views, model.name, progress("drawing"))
            atomic.write_text(page, html(drawn))
    many = "" if found.n_patients == 1 else "s"
    console.say(f"{found.n_patients} patient{many} -> {out}")
    if page is not None:
        console.say(f"page -> {page}")
    if found.c_index is not None:
        console.out.print(
            f"C-index {found.c_index:.3f} over {found.n_comparable} comparable pairs "
            "(no test, where the model was trained on some of these patients)"
        )


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
