"""No source knows anything of use: the best that a merge can do is no harm.

The risk of the sources' patients depends on tissue that the target does not have, or on nothing at all.
"""

from __future__ import annotations

from fedsteph.simulations.worlds.world import TARGET, Disease, SiteModel, World

_BETA = (0.9, -0.7, 0.5, 0.0)
_NOTHING = (0.0, 0.0, 0.0, 0.0)

STRANGERS = World(
    "strangers",
    "no source knows anything that the target needs",
    (
        SiteModel(TARGET, 300, 0.40, (Disease(_BETA, (0.4, 0.0)),)),
        SiteModel("north", 250, 0.40, (Disease(_NOTHING, (0.9, -0.9)),)),
        SiteModel("east", 250, 0.35, (Disease(_NOTHING, (-0.5, 0.9)),)),
        SiteModel("south", 250, 0.45, (Disease(_NOTHING, (0.7, 0.7)),)),
        SiteModel("west", 250, 0.40, (Disease(_BETA),), shuffled=True),
    ),
)
