"""Tables of labels as portals and tools lay them out, known by their column names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from fedsteph.common.config.run_config import SITE_NAME


@dataclass(frozen=True)
class KnownTable:
    """A layout: which column holds what, and the unit of the time."""

    maker: str
    patient: str
    slide: str | None  # None: the table has a row per patient, and names no slides
    time: str
    outcome: str
    unit: str
    censorship: bool = False  # whether 1 in the outcome's column is a censored patient

    @property
    def columns(self) -> set[str]:
        """All columns that the layout needs."""
        return {self.patient, self.time, self.outcome, *([self.slide] if self.slide else [])}

    def __str__(self) -> str:
        """The layout as the key 'data' of a site file, in one line."""
        outcome = "censorship" if self.censorship else "event"
        names = f"patient: {self.patient}, slide: {self.slide or 'null'}, time: {self.time}, {outcome}: {self.outcome}"
        addition = "" if self.slide else "; its rows name no slides: the files' names begin with the patients' IDs"
        return f"data: {{time_unit: {self.unit}, columns: {{{names}}}}} ({self.maker}{addition})"


def _all() -> Iterator[KnownTable]:
    # TCGA's cBioPortal studies: docs.cbioportal.org, file formats, clinical data.
    for end, spoken in (("DSS", "disease-specific"), ("OS", "overall"), ("PFS", "progression-free")):
        maker = f"cBioPortal, {spoken} survival"
        for slide in ("SLIDE_ID", "SLIDE", "slide", None):
            yield KnownTable(maker, "PATIENT_ID", slide, f"{end}_MONTHS", f"{end}_STATUS", "months")
    # Liu et al., Cell 2018, table S1 (TCGA-CDR).
    for end in ("DSS", "OS", "PFI"):
        for slide in ("slide", None):
            yield KnownTable(f"TCGA-CDR, {end}", "bcr_patient_barcode", slide, f"{end}.time", end, "days")
    # The tables in the repositories of CLAM, MCAT and PORPOISE.
    yield KnownTable("CLAM, MCAT, PORPOISE", "case_id", "slide_id", "survival_months", "censorship", "months", True)


def known_layouts(columns: Collection[str]) -> list[KnownTable]:
    """The layouts whose columns are all there; for one outcome, only the one that names the slides."""
    found: dict[str, KnownTable] = {}
    for table in _all():
        if table.columns <= {*columns}:
            found.setdefault(table.maker, table)
    return [*found.values()]


def cancer_of(projects: Iterable[str]) -> str | None:
    """The short name of the one project that all rows are of, as TCGA names projects: TCGA-BRCA is brca.

    None if they are of several, or if the name cannot be a cancer's short name.
    """
    names = {project.lower().removeprefix("tcga-") for project in projects}
    name = names.pop() if len(names) == 1 else ""
    return name if SITE_NAME.fullmatch(name) else None
