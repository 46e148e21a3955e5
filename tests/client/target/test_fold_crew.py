"""A target's folds side by side: the same result and the same files as one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client_builders import make_vectors, trained_workspace

from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.enhance import enhance_target
from fedsteph.client.target.fold_crew import n_workers

SETTINGS = ("training.epochs=2", "final.members=2", "comparators.methods=[half_average]")


def with_workers(workspace: Workspace, workers: int | str) -> Workspace:
    return replace(workspace, site=replace(workspace.site, file=replace(workspace.site.file, workers=workers)))


def merged(folder: Path, workers: int) -> tuple[dict, dict[str, bytes]]:
    workspace = with_workers(trained_workspace(folder, *SETTINGS, patients=20), workers)
    told: list[tuple[float, float]] = []
    result = enhance_target(workspace, make_vectors(workspace.recipe, 2), lambda *at: told.append(at)).to_dict()
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    state = workspace.site.state
    assert not list(state.glob(".handed*"))
    kinds = ("*.safetensors", "screening-*.json", "inner/*.json")
    files = {str(path.relative_to(state)): path.read_bytes() for kind in kinds for path in state.rglob(kind)}
    return {key: value for key, value in result.items() if key != "models"}, files


def test_two_workers_leave_what_one_process_leaves_bit_for_bit(tmp_path):
    (alone, files), (together, same) = merged(tmp_path / "one", 1), merged(tmp_path / "two", 2)
    assert together == alone and files.keys() == same.keys() and len(files) > 10
    assert [name for name in files if files[name] != same[name]] == []


def test_little_work_is_done_by_one_process(tmp_path):
    workspace = trained_workspace(tmp_path, *SETTINGS, patients=20)
    assert n_workers(workspace, 20) == 1 and n_workers(workspace, 10**7) >= 1
    assert n_workers(with_workers(workspace, 3), 20) == 3 and n_workers(with_workers(workspace, 3), 2) == 2
