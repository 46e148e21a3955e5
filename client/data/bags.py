"""Loads a cohort: patients with survival labels, and one bag ``(n_instances, d)`` per patient from all slides."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsteph.client.data.discovery import usable_contents
from fedsteph.client.data.feature_cache import FOLDER, FeatureCache, clear, room
from fedsteph.client.data.formats import read_features
from fedsteph.client.data.headers import known_header
from fedsteph.client.data.instances import ALL, GRAPHS, InstanceRule, NeighbourCache
from fedsteph.client.data.settings import DataSettings, Rule
from fedsteph.client.data.source import ALIGNED
from fedsteph.client.data.storage import Storage
from fedsteph.client.data.tables.clinical_table import ClinicalValues
from fedsteph.client.data.tables.labels import Patient
from fedsteph.common.config.extraction import UNSTATED, Extraction
from fedsteph.common.errors import FeatureFileError, SplitError


class BagCache:
    """Cache of the most recently used bags, limited to ``n_bytes`` bytes."""

    def __init__(self, n_bytes: float) -> None:
        self.n_bytes = n_bytes
        self.used = 0
        self._bags: OrderedDict[str, torch.Tensor] = OrderedDict()

    def get(self, key: str) -> torch.Tensor | None:
        """Return the bag and mark it as most recently used; None if it is not cached."""
        if key in self._bags:
            self._bags.move_to_end(key)
        return self._bags.get(key)

    def put(self, key: str, bag: torch.Tensor) -> None:
        """Add the bag and evict the least recently used ones; a bag larger than the whole cache is not added."""
        if bag.nbytes > self.n_bytes or key in self._bags:
            return
        self._bags[key] = bag
        self.used += bag.nbytes
        while self.used > self.n_bytes:
            _, oldest = self._bags.popitem(last=False)
            self.used -= oldest.nbytes

    def clear(self) -> None:
        """Remove all bags."""
        self._bags.clear()
        self.used = 0


@dataclass(eq=False, repr=False)  # a text of it would name patients
class Cohort:
    """Patients in a fixed order; labels are in memory, bags are loaded on demand."""

    patients: Sequence[Patient]  # with distinct IDs
    files: Mapping[str, Path]  # feature file per slide ID
    width: int  # d, the number of features per instance
    cache: BagCache  # bags in memory; shared with all subsets
    dropped: Sequence[str] = ()  # IDs of patients whose slides are all excluded; splits may name them
    extraction: Extraction = UNSTATED  # how the features were made, as far as the files state it
    disk: FeatureCache | None = None  # features on disk; None: the feature files are read directly
    storage: str = "features: read from their files"  # use of memory and disk, without paths or IDs
    lengths: dict[str, int] = field(default_factory=dict)  # instances per patient; shared with all subsets
    match: tuple[Rule, ...] = ()  # rules under which two patients' IDs are the same, as the site file has them
    clinical: ClinicalValues | None = None  # of all the site's patients, if its file names clinical columns
    rule: InstanceRule = ALL  # what the base model asks of a bag

    @classmethod
    def of_bags(cls, patients: Sequence[Patient], bags: Sequence[torch.Tensor]) -> Cohort:
        """A cohort held in memory: one bag ``(n_instances, d)`` per patient."""
        cohort = cls(patients, {}, bags[0].shape[1], BagCache(float("inf")))
        for patient, bag in zip(patients, bags, strict=True):
            cohort.cache.put(patient.id, bag)
            cohort.lengths[patient.id] = len(bag)
        return cohort

    @cached_property
    def times(self) -> npt.NDArray[np.float64]:
        """Follow-up times in days, ``(n_patients,)``; read-only."""
        return _constant([patient.t for patient in self.patients], np.float64)

    @cached_property
    def events(self) -> npt.NDArray[np.int64]:
        """1 = event, 0 = censored, ``(n_patients,)``; read-only."""
        return _constant([patient.e for patient in self.patients], np.int64)

    def __len__(self) -> int:
        return len(self.patients)

    def under(self, rule: InstanceRule) -> Cohort:
        """The same patients, whose bags are as a base model asks for them.

        Raises:
            FeatureFileError: the model wants neighbours, and slides do not say where their patches lie.
        """
        if rule == self.rule:
            return self
        if rule.neighbours:
            self._require_coords()
        return replace(self, rule=rule, cache=BagCache(self.cache.n_bytes))

    def _require_coords(self) -> None:
        lack = sorted(path.name for path in self.files.values() if not known_header(path).counted)
        if lack or not self.files:
            named = f"{', '.join(lack[:3])}{f' and {len(lack) - 3} more' if len(lack) > 3 else ''}"
            what = f"{len(lack)} of {len(self.files)} slides do not say where their patches lie ({named})"
            remedy = "Give HDF5 files with 'coords' (N, 2), or take a model.kind that does without"
            raise FeatureFileError(what, where="data.features", remedy=remedy)

    @property
    def row_width(self) -> int:
        """Numbers per instance of a bag: its features, and its neighbours if the rule asks for them."""
        return self.width + self.rule.neighbours

    def bag(self, i: int) -> torch.Tensor:
        """Load all slides of patient ``i``, in order, as one float32 tensor ``(n_instances, d)`` on the CPU.

        Under a rule it is a draw of the instances, or has their neighbours behind the features. The tensor may be
        shared with the cache or memory-mapped from a file: do not change it in place.

        Raises:
            FeatureFileError: a feature file is unreadable, not finite, empty, or not ``width`` wide.
            StorageError: the disk cache cannot be written.
        """
        patient = self.patients[i]
        bag = self.cache.get(patient.id)
        if bag is None:
            slides = [self._slide(slide) for slide in patient.slides]
            bag = (slides[0] if len(slides) == 1 else torch.cat(slides)).float()
            bag = self.as_asked(i, bag)
            if bag.data_ptr() % ALIGNED:
                bag = bag.clone()  # else the last bit of a matrix product depends on the address
            # Memory-mapped bags are not cached: the operating system manages their pages.
            if self.disk is None or bag is not slides[0]:
                self.cache.put(patient.id, bag)
        return bag

    def as_asked(self, i: int, bag: torch.Tensor) -> torch.Tensor:
        """What the rule asks for of patient ``i``'s bag, given all its instances; FeatureFileError without coords."""
        if self.rule == ALL:
            return bag
        return self.rule.rows(bag, self._near(self.patients[i]) if self.rule.neighbours else None)

    def by_slide(self, i: int, bag: torch.Tensor) -> dict[str, torch.Tensor]:
        """The bag of patient ``i`` divided into its slides: slide ID -> ``(n_instances, d)``, as views."""
        patient = self.patients[i]
        if len(patient.slides) == 1:
            return {patient.slides[0]: bag}
        sizes = [known_header(path).n_instances for path in self.paths(patient)]
        return dict(zip(patient.slides, torch.split(bag, sizes), strict=True))

    def _near(self, patient: Patient) -> np.ndarray:
        paths = self.paths(patient)
        if self.disk is None:
            return self.rule.near_of(paths)
        return NeighbourCache(self.disk.folder.parent / GRAPHS).read(self.rule, paths)

    def _slide(self, slide: str) -> torch.Tensor:
        source = self.files[slide]
        if self.disk is not None:
            return self.disk.read(slide, source)
        return torch.from_numpy(read_features(source, width=self.width))

    def forget_bags(self) -> None:
        """Clear the cache; bags are read again on the next access."""
        self.cache.clear()

    def n_instances(self, i: int) -> int:
        """Number of instances in patient ``i``'s bag, from the file headers; FeatureFileError if one is unreadable."""
        key = self.patients[i].id
        if key not in self.lengths:
            self.lengths[key] = sum(known_header(path).n_instances for path in self.paths(self.patients[i]))
        return self.rule.n(self.lengths[key])

    def paths(self, patient: Patient) -> list[Path]:
        """The patient's feature files, in slide order."""
        return [self.files[slide] for slide in patient.slides]

    def subset(self, ids: Iterable[str]) -> Cohort:
        """The patients ``ids``, in the given order, with this cohort's cache; SplitError if one is not in it."""
        by_id, ids = {patient.id: patient for patient in self.patients}, list(ids)
        if unknown := [key for key in ids if key not in by_id]:
            raise SplitError(
                f"not in the cohort: {len(unknown)} patients (first: '{unknown[0]}')",
                remedy="Add them to the label table or take them out of the split",
            )
        return replace(self, patients=tuple(by_id[key] for key in ids))


def _constant(values: list[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    array = np.array(values, dtype=dtype)
    array.flags.writeable = False  # shared by all users of the cohort
    return array


def open_cohort(folder: Path, settings: DataSettings, state: Path | None = None) -> Cohort:
    """Open a site's folder. Reads the headers of all feature files; values are read when a bag is requested.

    Args:
        state: the site's state folder, which holds the disk cache that ``settings.disk_cache`` allows. Cache files that
            are no longer useful are removed. None, enough for reading headers, does not touch the disk.

    Raises:
        DataError: the data has errors. The message is a table of all of them.
        StorageError: there is no space for the disk cache, or its old files cannot be removed.
    """
    site = usable_contents(folder, settings)
    cache = BagCache(settings.cache_gib * 2**30)
    free = None if state is None else room(state / FOLDER)
    storage, disk = Storage.of(settings, site.n_bytes, free), None
    if state is None:
        storage = replace(storage, keep=None)
    elif storage.keep is None:
        clear(state / FOLDER)
    else:
        disk = FeatureCache(state / FOLDER, storage.keep, site.width)
        disk.prune(site.files)
    lengths = {p.id: sum(site.headers[slide].n_instances for slide in p.slides) for p in site.patients}
    patients, dropped = tuple(site.patients), tuple(site.dropped)
    facts = dropped, site.extraction, disk, str(storage), lengths, settings.match, site.clinical
    return Cohort(patients, site.files, site.width, cache, *facts)
