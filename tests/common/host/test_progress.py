"""A piece of work moves a larger bar by its share."""

from __future__ import annotations

from fedsteph.common.host.progress import part, silent, unseen


def test_parts_of_parts_add_up():
    told = []
    folds = [part(lambda *step: told.append(step), 3 * fold, 6, 3) for fold in range(2)]
    for fold in folds:
        part(fold, 1, 3, 2)(1, 4)
        part(fold, 0, 3)(5, 5)
    assert told == [(1.5, 6), (1, 6), (4.5, 6), (4, 6)] and unseen("a name") is silent
