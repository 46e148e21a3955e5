"""Six hospitals of different cancers: helpful, useless and harmful sources.

The sites' relation to the target depends only on ``beta``: ``kin`` shares its prognostic phenotypes, ``cousin`` half
of them, and ``stranger`` none; ``conflict`` has them with the opposite sign. The labels of ``careless`` are shuffled
between its patients, so its model learns noise. Nothing is tuned in favour of merging.
"""

from __future__ import annotations

from fedsteph.simulations.worlds.world import TARGET, Disease, SiteModel, World

_BETA = (0.9, -0.7, 0.5, 0.0)
_OPPOSITE = (-0.9, 0.7, -0.5, 0.0)

SIX_CANCERS = World(
    "six_cancers",
    "six cancers: helpful, useless and harmful sources",
    (
        SiteModel(TARGET, 120, 0.35, (Disease(_BETA, (0.4, 0.0)),)),
        SiteModel("kin", 240, 0.45, (Disease(_BETA, (0.0, 0.4)),)),
        SiteModel("cousin", 180, 0.30, (Disease((0.9, -0.7, 0.0, 0.0), (0.5, -0.5)),)),
        SiteModel("stranger", 180, 0.35, (Disease((0.0, 0.0, 0.0, 0.0), (0.9, -0.9)),)),
        SiteModel("conflict", 200, 0.50, (Disease(_OPPOSITE),)),
        SiteModel("careless", 60, 0.15, (Disease(_BETA),), shuffled=True),
    ),
)
