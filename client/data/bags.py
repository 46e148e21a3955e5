"""A cohort: patients with their labels, and per patient one bag ``(n_instances, d)`` from all slides."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from client.data.discovery import discover
from client.data.formats import read_features, read_header
from client.data.labels import Patient
from client.data.problems import refuse_errors
from client.data.settings import DataSettings
from common.errors import SplitError


class BagCache:
    """The most recently used bags, as many as fit into a number of bytes."""

    def __init__(self, n_bytes: float) -> None:
        self.n_bytes = n_bytes
        self.used = 0
        self._bags: OrderedDict[str, torch.Tensor] = OrderedDict()

    def get(self, key: str) -> torch.Tensor | None:
        """The bag, which thereby becomes the most recently used one; None if it is not held."""
        if key in self._bags:
            self._bags.move_to_end(key)
        return self._bags.get(key)

    def put(self, key: str, bag: torch.Tensor) -> None:
        """Hold the bag and let go of those used longest ago; one larger than the whole cache is not held."""
        if bag.nbytes > self.n_bytes:
            return
        self._bags[key] = bag
        self.used += bag.nbytes
        while self.used > self.n_bytes:
            _, oldest = self._bags.popitem(last=False)
            self.used -= oldest.nbytes

    def clear(self) -> None:
        """Let go of all bags."""
        self._bags.clear()
        self.used = 0


class Cohort:
    """Patients in a fixed order, with labels at once and bags on demand.

    Args:
        patients: with distinct IDs.
        files: feature file per slide ID.
        width: d, the features per instance.
        cache: shared with all subsets.
        dropped: IDs of patients without a bag because their slides are excluded; splits may name them.
        encoder: the name of the feature encoder, where the files tell it.
    """

    def __init__(
        self,
        patients: Sequence[Patient],
        files: Mapping[str, Path],
        width: int,
        cache: BagCache,
        dropped: Sequence[str] = (),
        encoder: str | None = None,
    ) -> None:
        self.patients = tuple(patients)
        self.width = width
        self.dropped = tuple(dropped)
        self.encoder = encoder
        self._lengths: dict[str, int] = {}
        self._files = files
        self._cache = cache

    @classmethod
    def of_bags(cls, patients: Sequence[Patient], bags: Sequence[torch.Tensor]) -> Cohort:
        """A cohort that is all in memory: one bag ``(n_instances, d)`` per patient."""
        cohort = cls(patients, {}, bags[0].shape[1], BagCache(float("inf")))
        for patient, bag in zip(patients, bags, strict=True):
            cohort._cache.put(patient.id, bag)
            cohort._lengths[patient.id] = len(bag)
        return cohort

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Follow-up times in days, ``(n_patients,)``."""
        return np.array([patient.t for patient in self.patients], dtype=np.float64)

    @property
    def events(self) -> npt.NDArray[np.int64]:
        """1 = event, 0 = censored, ``(n_patients,)``."""
        return np.array([patient.e for patient in self.patients], dtype=np.int64)

    def bag(self, i: int) -> torch.Tensor:
        """All slides of patient ``i`` in order, as one float32 tensor ``(n_instances, d)`` on the CPU.

        The tensor may be the cache's own: do not change it in place.

        Raises:
            FeatureFileError: a feature file is unreadable, not finite, empty, or not ``width`` wide.
        """
        patient = self.patients[i]
        bag = self._cache.get(patient.id)
        if bag is None:
            slides = [read_features(self._files[slide], width=self.width) for slide in patient.slides]
            bag = torch.from_numpy(slides[0] if len(slides) == 1 else np.concatenate(slides))
            self._cache.put(patient.id, bag)
        return bag

    def forget_bags(self) -> None:
        """Let go of the bags in memory; they are read again when they are asked for."""
        self._cache.clear()

    def n_instances(self, i: int) -> int:
        """The size of patient ``i``'s bag, from the files' headers alone."""
        key = self.patients[i].id
        if key not in self._lengths:
            self._lengths[key] = sum(read_header(path).n_instances for path in self.paths(self.patients[i]))
        return self._lengths[key]

    def paths(self, patient: Patient) -> list[Path]:
        """The patient's feature files, in the order of the slides."""
        return [self._files[slide] for slide in patient.slides]

    def subset(self, ids: Iterable[str]) -> Cohort:
        """The patients ``ids`` in the order given, with this cohort's cache.

        Raises:
            SplitError: an ID is not in this cohort.
        """
        by_id, ids = {patient.id: patient for patient in self.patients}, list(ids)
        if unknown := [key for key in ids if key not in by_id]:
            raise SplitError(
                f"not in the cohort: {len(unknown)} patients (first: '{unknown[0]}')",
                remedy="Add them to the label table or take them out of the split",
            )
        patients = [by_id[key] for key in ids]
        part = Cohort(patients, self._files, self.width, self._cache, self.dropped, self.encoder)
        part._lengths = self._lengths
        return part


def open_cohort(folder: Path, settings: DataSettings) -> Cohort:
    """Open a site's folder; the feature files' headers are read, their values only when a bag is asked for.

    Raises:
        DataError: something is wrong. The message is a table of everything that was found.
    """
    site = discover(folder, settings)
    refuse_errors(site.problems, folder)
    header = next(iter(site.headers.values()))
    told = (header.encoder for header in site.headers.values() if header.encoder is not None)
    cache = BagCache(settings.cache_gib * 2**30)
    return Cohort(site.patients, site.files, header.width, cache, site.dropped, next(told, None))
