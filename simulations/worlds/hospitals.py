"""Hospitals of one cancer: the same tissue and the same risk everywhere, with other scanners, sizes and follow-up."""

from __future__ import annotations

from fedsteph.simulations.worlds.world import TARGET, Disease, SiteModel, World

_CANCER = "lung"
_DISEASE = (Disease((0.9, -0.7, 0.5, 0.0), (0.4, 0.0), kind=_CANCER),)

HOSPITALS = World(
    "hospitals",
    "hospitals of one cancer",
    (
        SiteModel(TARGET, 100, 0.35, _DISEASE, cancer=_CANCER),
        SiteModel("city", 240, 0.45, _DISEASE, cancer=_CANCER),
        SiteModel("coast", 180, 0.30, _DISEASE, cancer=_CANCER),
        SiteModel("county", 90, 0.35, _DISEASE, cancer=_CANCER),
        SiteModel("university", 220, 0.40, _DISEASE, cancer=_CANCER),
    ),
)
