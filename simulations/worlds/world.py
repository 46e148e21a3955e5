"""What a synthetic world consists of: sites, and the diseases that decide the risk of their patients."""

from __future__ import annotations

from dataclasses import dataclass

TARGET = "target"
N_SHARED, N_OWN = 4, 2  # phenotypes that all patients have, and those of a disease


@dataclass(frozen=True)
class Disease:
    """How the tissue of some patients decides their risk: ``beta`` of each phenotype, per standard deviation."""

    shared: tuple[float, ...]  # of the phenotypes that all patients have
    own: tuple[float, ...] = (0.0,) * N_OWN  # of the disease's own phenotypes
    kind: str = ""  # one name, one tissue, at whatever site; without a name, the tissue is found at this site alone


@dataclass(frozen=True)
class SiteModel:
    """Parameters of one site: size, share of events, and the diseases of its patients, each of whom has one."""

    name: str
    n_patients: int
    event_share: float
    diseases: tuple[Disease, ...]
    shuffled: bool = False  # outcomes are permuted between the patients
    cancer: str | None = None  # as its site file states it; None: no site file


@dataclass(frozen=True)
class World:
    """A set of sites, of which ``target`` is the one that merges the others' vectors."""

    name: str
    title: str  # in a few words, for lists of worlds
    sites: tuple[SiteModel, ...]
    comparators: tuple[str, ...] = ()  # what its target trains, besides what the configuration asks for

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the diseases that have one, in the order of the sites."""
        return tuple(dict.fromkeys(one.kind for site in self.sites for one in site.diseases if one.kind))
