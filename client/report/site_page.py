"""A target's pages: its own page, which shows patients' outcomes, and the page that it may give to others."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import yaml

from fedsteph.client.report.answer import answer_of
from fedsteph.client.report.public import PublicCurve, PublicTarget, public_target
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.report.target_sections import arrived, developer_sections, target_sections, title_of
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import Site
from fedsteph.common.config.digest import digest, to_dict
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.common.report.conclusion import rounded
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import REPORT, Block, Code, Page, Picture, Section, Table, Text, write_page
from fedsteph.common.report.probability_axis import probability_axis
from fedsteph.common.report.provenance import ONE_PER_FOLD, WITH_FINAL, cost_section, limits_section
from fedsteph.common.report.style import canvas, legend_above
from fedsteph.common.report.transfer import SHARED_EVENTS, decided, transfer_section
from fedsteph.common.trust.audit_log import read_lines
from fedsteph.common.vector.shared_part import description

SHARED = "report-shared"
OWN = "For this site alone: it shows patients' outcomes"
_FOR_OTHERS = "For partners: only what the site's policy lets out"


def write_site_page(
    site: Site, out: Path | None = None, progress: NamedProgress = unseen, slides: Path | None = None
) -> Path:
    """Write a target's own page, by default into its state folder; ModelFileError if the site has no result."""
    return write_page(site_page(site, progress, slides), out or site.state / REPORT, progress("writing the figures"))


def write_shared_page(site: Site, out: Path | None = None) -> Path:
    """Write the page for others, as the policy allows: by default, bands and means. ModelFileError: no result."""
    found = public_target(site.name, TargetFiles.open(site.state), site.file.policy or Policy())
    return write_page(shared_page(found), out or site.state / SHARED)


def site_page(site: Site, progress: NamedProgress = unseen, slides: Path | None = None) -> Page:
    """The full page of a target, for the site itself; errors as :func:`write_site_page`."""
    files = TargetFiles.open(site.state)
    result, recipe = files.result, files.recipe
    lines = list(read_lines(site.audit.folder))
    last = next((line for line in reversed(lines) if line.event.event == "vector.open"), None)
    run = None if last is None else last.event.run
    n_bytes = sum(line.event.size or 0 for line in lines if line.event.run == run and line.event.event in SHARED_EVENTS)
    learnable = {title_of(method): row.learnable for method, row in result.trained.items()}
    sections = [
        *target_sections(site, files, result, progress, slides=slides),
        transfer_section([decided(lines, run, site.name)], [], description(recipe.sharing), arrived(result)),
        *developer_sections(site, files, result, progress),
        replace(cost_section({}, n_bytes, learnable), level=3),
        replace(recipe_section(recipe), level=3),
        limits_section(
            [result.too_small] if result.too_small else [], WITH_FINAL if result.final is not None else ONE_PER_FOLD
        ),
    ]
    when = "" if last is None else f" run {run} of {last.time[:10]};"
    made = [f"Made by{when} fedsteph {version('fedsteph')}."]
    return Page("Is the enhanced model better?", OWN, sections=sections, answer=answer_of(site.name, result, made))


def recipe_section(recipe: Recipe) -> Section:
    """The recipe, with its digests, seed and version."""
    provenance = [
        ["recipe SHA-256", digest(recipe)],
        ["M0 SHA-256", str(recipe.model.m0_sha256)],
        ["seed", str(recipe.training.seed)],
        ["fedsteph", version("fedsteph")],
    ]
    table = Table(["what", "value"], provenance, "Versions, seeds, digests")
    plain = Code(yaml.safe_dump(to_dict(recipe), sort_keys=False))
    return Section("Configuration, versions, seeds, digests", [table, plain])


def shared_page(found: PublicTarget) -> Page:
    """The page for others, made only from the data selected for them."""
    scores = [[title, "not told" if value is None else f"{value:.2f}"] for title, value in found.scores.items()]
    facts = [
        ["patients", found.patients or "not told"],
        ["events", found.events or "not told"],
        ["folds", str(found.n_folds)],
        ["seed", str(found.seed)],
        ["sources", ", ".join(found.sources)],
    ]
    digests = [["recipe SHA-256", found.recipe], ["M0 SHA-256", found.m0], ["fedsteph", version("fedsteph")]]
    sections = [
        Section(f"Target {found.site}", [Table(["what", "as the policy lets it out"], facts)]),
        Section("How well patients are ranked", [Table(["method", "mean C-index"], scores, "C-index")]),
        Section("Survival by risk group", _curves(found)),
        Section("Versions, seeds, digests", [Table(["what", "value"], digests)]),
        limits_section(["Numbers are rounded and in bands; the site's own page has intervals."]),
    ]
    return Page(f"What {found.site} found", _FOR_OTHERS, rounded(found.site, found.scores), sections)


def _curves(found: PublicTarget) -> list[Block]:
    if not found.curves:
        return [Text(found.no_curves)]
    return [_picture(found, title, groups) for title, groups in found.curves.items()]


def _picture(found: PublicTarget, title: str, groups: tuple[PublicCurve, PublicCurve]) -> Picture:
    caption = f"Survival by risk group of the {title} model, once a year"
    who = f"{found.site}: {found.patients or 'number not told'} patients, {found.n_folds} folds, seed {found.seed}"
    with canvas(caption, who) as figure:
        axes = figure.subplots()
        for group, look in zip(groups, method_look(title).groups, strict=True):
            years = range(len(group.survival))
            label = f"{group.name} ({group.patients} patients)"
            axes.plot(years, group.survival, label=label, marker=".", **look)
        axes.set_xlabel("follow-up, years of 365 days")
        probability_axis(axes, "probability of no event", min(min(group.survival) for group in groups))
        legend_above(axes)
    rows = [
        [group.name, str(year), f"{survival:.2f}", at_risk]
        for group in groups
        for year, (survival, at_risk) in enumerate(zip(group.survival, group.at_risk, strict=True))
    ]
    note = (
        f"Kaplan-Meier at the end of each year, to a multiple of {found.step:g}, while the policy's smallest group is "
        "followed."
    )
    numbers = Table(["group", "year", "survival", "at risk"], rows, "survival", folded=True)
    return Picture(f"{found.site}.risk-groups.{title}", caption, figure, note=note, numbers=numbers)
