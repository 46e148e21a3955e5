"""Removes rotated logs and work of recipes that a site has not used for long, and never what cannot be made again.

Deployed models, ledger, audit log, kept vectors and numbers are not even looked at.
"""

from __future__ import annotations

import re
import time
from datetime import timedelta
from pathlib import Path

from fedsteph.client.sharing.shared_model import GUARANTEE_FILE
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_log import FILE as LOG_FILE
from fedsteph.client.site.workspace import IMPORTED_FILE
from fedsteph.client.target.enhance import RECIPE_FILE
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.schema import build
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.host.lock import exclusive
from fedsteph.common.host.pruned import Old, Pruning, half_removed, last_change, remove, rotated, size_of

_WORK = re.compile(r"(?:base-)?([0-9a-f]{12})-[0-9a-f]{12}")


def prune_site(site: Site, older_than: timedelta, *, dry_run: bool = False) -> Pruning:
    """Remove what was not used for so long.

    Work that stays whatever its age: that of the last merge, which pages and folds need; what holds an imported model,
    which cannot be made again; and what holds a model trained by DP-SGD, which would cost privacy again.

    Args:
        dry_run: tell only what would go.

    Raises:
        RunFolderError: the site is at work in this folder.
        ModelFileError: the recipe of the last merge is damaged, so that its work cannot be told.
    """
    found, before = Pruning(), time.time() - older_than.total_seconds()
    if not site.state.is_dir():
        return found
    with exclusive(site.state, wait=False):
        for path in rotated(site.state / LOG_FILE):
            if last_change(path) < before:
                found.gone.append(Old(path, "rotated log", size_of(path)))
        last = _last_recipe(site.state)
        for path in sorted(site.state.iterdir()):
            name = _WORK.fullmatch(path.name)
            if name is None or not path.is_dir() or path.is_symlink() or last_change(path) >= before:
                continue
            reason = "of the last merge" if name[1] in last else _why_it_stays(path)
            if reason is None:
                found.gone.append(Old(path, "work of a recipe", size_of(path)))
            else:
                found.kept[path] = reason
        found.gone += [Old(path, "half removed", size_of(path)) for path in half_removed(site.state)]
        if not dry_run:
            remove(found.gone)
    return found


def _last_recipe(state: Path) -> tuple[str, ...]:
    """The digests in the names of the last merge's work; none before the first one."""
    path = state / RECIPE_FILE
    if not path.exists():
        return ()
    recipe = build(Recipe, read_json(path), path)
    return recipe.folds_digest[:12], recipe.base_digest[:12]


def _why_it_stays(path: Path) -> str | None:
    if any(path.rglob(IMPORTED_FILE)):
        return "holds an imported model"
    if any(path.rglob(GUARANTEE_FILE)):
        return "holds a model trained by DP-SGD: made again, it would cost privacy again"
    return None
