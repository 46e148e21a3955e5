"""The page of a site's own training: how well its models rank patients who were not among their training patients."""

from __future__ import annotations

from pathlib import Path

from fedsteph.client.report import calibration, risk_groups
from fedsteph.client.report.site_page import OWN, recipe_section
from fedsteph.client.target.train_alone import OwnModels
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.common.report.c_index import c_index_picture
from fedsteph.common.report.page import Page, Points, Section, write_page
from fedsteph.common.report.provenance import limits_section

TRAINING = "report-training"  # default folder of the page, in a site's state folder; that of a merge is not replaced
_MODELS = (
    "Each fold's model is judged on patients that it has not seen. The model of all patients is judged on nobody: "
    "no patient is left for that."
)


def write_training_page(found: OwnModels, out: Path | None = None, progress: NamedProgress = unseen) -> Path:
    """Write the page, by default into the site's state folder; its path."""
    progress("ranking, risk groups and calibration")
    page = training_page(found)
    return write_page(page, out or found.site.state / TRAINING, progress("writing the figures"))


def training_page(found: OwnModels) -> Page:
    """The page of a site's own models; it shows patients' outcomes, so it is for the site alone."""
    name, tested, shown = found.site.name, found.evidence.once, {"local": "local"}
    n, n_events, n_folds = len(tested), int(tested.events.sum()), len(found.scores.c_index)
    who = f"{name}: n = {n} test patients, {n_events} events, {n_folds} folds, seed {found.recipe.training.seed}"
    facts = [
        f"{found.n_patients} patients, {found.n_events} events.",
        f"{found.storage[:1].upper()}{found.storage[1:]}.",
        f"The model of all patients is {found.model.name} in the site's state folder, with a card beside it.",
    ]
    few = [f"There are {found.n_events} events: intervals are wide, and single folds mislead."]
    sections = [
        Section(f"Site {name}", [Points(facts)]),
        Section("How well patients are ranked", [c_index_picture(f"{name}.c-index", {"local": found.scores}, who)]),
        Section("Survival by risk group", risk_groups.pictures(name, tested, shown, who)),
        Section("Calibration", [calibration.draw(f"{name}.calibration", tested, shown, who)]),
        recipe_section(found.recipe),
        limits_section(few if found.n_events < 50 else [], _MODELS),
    ]
    return Page("How good is the site's own model?", OWN, [_verdict(found)], sections)


def _verdict(found: OwnModels) -> str:
    scores, name = found.scores, found.site.name
    if scores.mean is None:
        return f"{name} is too small to evaluate a model: no test fold has a comparable pair of patients."
    text = f"At {name}, the local model's C-index is {scores.mean:.3f}"
    if scores.interval_95 is None:
        return f"{text}."
    low, high = scores.interval_95
    sure = "better than chance" if low > 0.5 else "not surely better than chance, which is 0.5"
    return f"{text} (95% interval {low:.3f} to {high:.3f}): {sure}."
