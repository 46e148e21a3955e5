"""The frontier of a study whose vectors are attacked: from the study's YAML to the points of the plot."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from sites import make_site
from studies import RECIPE, in_this_process

from fedsteph.client.attack.attack_vector import attack_vector
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.common.errors import ConfigError
from fedsteph.common.host.progress import unseen
from fedsteph.common.model.resampling import interval_of_mean
from fedsteph.simulations.study.frontier import frontier_csv, frontier_table, points, write_frontier
from fedsteph.simulations.study.run_study import prepare_study, run_study
from fedsteph.simulations.study.study_file import load_study
from fedsteph.simulations.study.tables import markdown

SHARED = {"sharing": {"layers": "embed", "rank": 1}}
PRIVATE = {"noise": 6.0, "epochs": 1, "accountant": "rdp"}
VARIANTS: dict[str, Any] = {
    "whole": {"method": "half_average"},
    "embed": {"method": "half_average", "recipe": SHARED},
    "private": {"method": "half_average", "dp_sgd": PRIVATE, "recipe": SHARED},
}
N = 40  # patients of each site


def write_study(path: Path, **changes: Any) -> Path:
    recipe = RECIPE | {"training": RECIPE["training"] | {"epochs": 1}}
    study = {"methods": ["local"], "targets": ["alpha"], "references": 16, "recipe": recipe, "variants": VARIANTS}
    path.write_text(json.dumps(study | changes))  # JSON is YAML, and has no aliases
    return path


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("frontier")
    for k, name in enumerate(("alpha", "beta")):
        make_site(folder / "sites" / name, patients=N, event_share=0.6, seed=k, max_instances=4)
    study = load_study(write_study(folder / "study.yaml"), folder / "sites")
    out = folder / "out"
    prepared = prepare_study(study, out)
    with in_this_process():
        return out, run_study(prepared, 1, unseen)


def test_every_sharing_row_is_attacked_and_the_local_one_is_not(attacked: tuple[Path, dict[str, Any]]) -> None:
    _, results = attacked
    assert results["failures"] == []
    found = {name: row["attack"] for name, row in results["overall"].items()}
    assert found.pop("local") is None
    assert {row["sites"] for row in found.values()} == {1}
    assert found["private"]["epsilon"] == pytest.approx(DpSgd(**PRIVATE).guarantee(N // 2).epsilon)
    assert found["whole"]["epsilon"] is None
    assert found["whole"]["vector_bytes"] > found["embed"]["vector_bytes"] == found["private"]["vector_bytes"]


def test_an_attack_in_a_study_is_the_sites_own_audit(attacked: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, results = attacked
    study = load_study(write_study(tmp_path / "study.yaml"), out.parent / "sites")
    prepared = prepare_study(study, out)
    cells = [one for one in prepared.plan.cells if one.fold == 0 and one.row != "local"]
    assert len({prepared.worker.result(one.unit)[1].tobytes() for one in cells}) == 3  # three models at the target
    cell = next(one for one in cells if one.row == "whole")
    found = attack_vector(prepared.worker.workspace("beta", cell.unit.recipe))
    by_name = {f"{one['signal']}, {one['attack']}": one["procedure"] for one in found["attacks"]}
    row = results["overall"]["whole"]["attack"]
    best = max(by_name, key=lambda name: by_name[name]["auc"])
    assert (row["attack"], row["auc"], row["tpr"]) == (best, by_name[best]["auc"], by_name[best]["tpr"])
    assert row["auc_interval_95"] == pytest.approx(list(by_name[best]["auc_interval_95"]))


def test_the_files_say_what_the_results_say(attacked: tuple[Path, dict[str, Any]]) -> None:
    out, results = attacked
    rows = list(csv.DictReader(io.StringIO((out / "frontier.csv").read_text())))
    assert [row["row"] for row in rows] == list(VARIANTS)
    for row in rows:
        overall = results["overall"][row["row"]]
        assert float(row["c_index"]) == overall["mean"]
        assert float(row["minus_local"]) == overall["against"]["local"]["difference"]
        assert float(row["attack_auc"]) == overall["attack"]["auc"]
    text = (out / "results.md").read_text()
    assert "## Privacy against utility" in text
    for name in VARIANTS:
        assert f"| {name} | {results['overall'][name]['mean']:.3f} |" in text
    svg = (out / "frontier.svg").read_text()
    for name in VARIANTS:
        assert f"{name} (" in svg
    assert "AUC of the strongest membership attack" in svg
    picture = matplotlib.image.imread(out / "frontier.png")
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 10


def test_a_study_without_attacks_has_no_frontier(attacked: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, results = attacked
    without = {name: row | {"attack": None} for name, row in results["overall"].items()}
    assert points(results | {"overall": without}) == []
    assert write_frontier(results | {"overall": without}, tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert "Privacy against utility" not in markdown(results | {"overall": without})


def test_some_sites_are_attacked_where_only_they_are_named(
    attacked: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = attacked
    for names, expected in (((), {"alpha", "beta"}), (("beta",), {"beta"})):
        path = write_study(tmp_path / "study.yaml", targets=["alpha", "beta"], attacked=list(names))
        plan = prepare_study(load_study(path, out.parent / "sites"), tmp_path / "out").plan
        assert {unit.site for stage in plan.stages for unit in stage if unit.kind == "attack"} == expected
        assert {unit.site for stage in plan.stages for unit in stage if unit.kind == "references"} == expected
    with pytest.raises(ConfigError, match="there is no site 'nobody'"):
        prepare_study(load_study(write_study(tmp_path / "s.yaml", attacked=["nobody"]), out.parent / "sites"), tmp_path)


def test_a_mean_over_sites_and_its_interval_by_hand() -> None:
    # Half-widths 0.06 and 0.08: 0.1 / 2 of a mean of two.
    assert interval_of_mean([[0.54, 0.66], [0.62, 0.78]]) == pytest.approx([0.65 - 0.05, 0.65 + 0.05])
    assert interval_of_mean([]) is None


def test_points_without_an_interval_are_still_drawn(attacked: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, results = attacked
    bare = json.loads(json.dumps(results))
    for row in bare["overall"].values():
        if row["attack"] is not None:
            row["attack"]["auc_interval_95"] = row["against"]["local"]["interval_95"] = None
    assert len(write_frontier(bare, tmp_path)) == 3
    assert frontier_table(bare)[1][0][3] == "-"
    assert len(frontier_csv(bare).splitlines()) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"references": 8}, "at least 16"),
        ({"references": 17}, "even"),
        ({"references": None, "attacked": ["alpha"]}, "attacked needs references"),
        ({"variants": {"x": {"method": "steph", "dp_sgd": {"epochs": 3}}}}, "dp_sgd needs epsilon or noise"),
        ({"variants": {"x": {"method": "local", "dp_sgd": {"noise": 3}}}}, "receives no vectors"),
        ({"variants": {"x": {"method": "steph", "dp_sgd": {"sigma": 3}}}}, "unknown key"),
    ],
)
def test_what_a_study_may_say_of_privacy(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_study(write_study(tmp_path / "study.yaml", **changes), tmp_path)
