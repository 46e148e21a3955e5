"""The target's patients are of two kinds, and every source has patients of one kind: only routing can be right.

A phenotype that is bad in one kind is good in the other, as with subtypes of a cancer. What a slide holds besides, the
tissue of its kind, tells which kind it is. So no sum of the sources' vectors with the same coefficients for all
patients serves both kinds, and no model that scores instance by instance does: the sign depends on the whole bag.
"""

from __future__ import annotations

from fedsteph.simulations.worlds.world import TARGET, Disease, SiteModel, World

# The fourth phenotype is equally bad in both kinds: what the target's own model can learn.
_GLANDULAR = Disease((1.1, -0.8, 0.6, 0.3), kind="glandular")
_SOLID = Disease((-1.1, 0.8, -0.6, 0.3), kind="solid")

KINDS = World(
    "kinds",
    "the target's patients are of two kinds, each known to other sources",
    (
        SiteModel(TARGET, 300, 0.50, (_GLANDULAR, _SOLID)),
        SiteModel("glandular-a", 300, 0.50, (_GLANDULAR,)),
        SiteModel("glandular-b", 300, 0.50, (_GLANDULAR,)),
        SiteModel("solid-a", 300, 0.50, (_SOLID,)),
        SiteModel("solid-b", 300, 0.50, (_SOLID,)),
    ),
    comparators=("steph_param_w",),
)
