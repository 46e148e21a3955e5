"""What goes from a site's state folder when it was not used for long, and what never does."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from client_builders import make_recipe, make_workspace

from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.upkeep.site_pruning import prune_site
from fedsteph.common.config.digest import to_dict
from fedsteph.common.errors import ModelFileError, RunFolderError
from fedsteph.common.host import checked_file
from fedsteph.common.host.lock import exclusive

AGE = timedelta(days=90)
A, B, C, D = (f"{letter * 12}-{'1' * 12}" for letter in "abcd")
STAYS = (
    "deployed/model.safetensors",
    "vectors/luad-0.vector",
    "sent.json",
    "audit/audit.jsonl",
    "result.json",
    "site.log",
)


def old(path: Path) -> None:
    """As it was 100 days ago, its folder too."""
    then = time.time() - 100 * 86400
    for one in (*path.rglob("*"), path):
        os.utime(one, (then, then), follow_symlinks=False)


@pytest.fixture
def site(tmp_path) -> Site:
    folder = tmp_path / "kirp"
    for name in (*STAYS, "site.log.1", "site.log.2", f"{A}/fold_0/x.checkpoint", f"base-{B}/fold_0/local.safetensors"):
        (folder / "fedsteph-state" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "fedsteph-state" / name).write_bytes(b"x" * 100)
    old(folder)
    return Site.open(folder)


def names(site: Site, paths: object) -> list[str]:
    return sorted(path.relative_to(site.state).as_posix() for path in paths)


def test_old_logs_and_work_go_and_nothing_else(site):
    (site.state / "site.log.1").touch()
    told = prune_site(site, AGE, dry_run=True)
    assert names(site, [one.path for one in told.gone]) == sorted([A, f"base-{B}", "site.log.2"])
    assert told.freed == 300 and (site.state / A).exists()
    assert prune_site(site, AGE) == told
    left = [path for path in site.state.rglob("*") if path.is_file() and path.name != ".lock"]
    assert names(site, left) == sorted([*STAYS, "site.log.1"])
    assert prune_site(site, AGE).gone == []


def test_what_cannot_be_made_again_stays_whatever_its_age(site):
    recipe = make_recipe()
    last = f"base-{recipe.base_digest[:12]}-{'2' * 12}"
    for name in (f"{C}/fold_0/imported.safetensors", f"{D}/shared/guarantee.json", f"{last}/x"):
        (site.state / name).parent.mkdir(parents=True)
        (site.state / name).write_bytes(b"x")
    checked_file.write_json(site.state / "recipe.json", to_dict(recipe, whole=True))
    (site.state / A / "link").symlink_to(site.state / "deployed")
    old(site.state)
    found = prune_site(site, AGE)
    assert names(site, found.kept) == sorted([C, D, last]) and names(site, [one.path for one in found.gone])[0] == A
    assert (site.state / "deployed" / "model.safetensors").exists(), "a link is not followed"
    (site.state / "recipe.json").write_text("{")
    with pytest.raises(ModelFileError):
        prune_site(site, AGE)
    with exclusive(site.state, wait=False), pytest.raises(RunFolderError, match="another process"):
        prune_site(site, AGE)


def test_work_that_is_used_is_not_old(tmp_path):
    workspace = make_workspace(tmp_path, patients=12)
    workspace.train_local(0)
    old(workspace.site.state)
    assert [one.path for one in prune_site(workspace.site, AGE, dry_run=True).gone] == [workspace.base_folder]
    Workspace.open(workspace.site, make_recipe())  # a repeated request, which finds its work and writes nothing
    assert prune_site(workspace.site, AGE).gone == []


def test_a_pruning_that_was_stopped_is_ended_by_the_next_one(site):
    half = site.state / f".{A}.pruned"
    (site.state / A).rename(half)
    assert half in [one.path for one in prune_site(site, AGE).gone] and not half.exists()
