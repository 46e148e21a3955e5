"""The section on subgroups: what it draws, for whom it cannot, and that a changed table stops no page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from report_builders import WHO, drawn, make_evidence, says

from fedsteph.client.report.clinical.subgroup_section import subgroup_section
from fedsteph.client.site.site import Site
from fedsteph.client.target.evidence import Evidence
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Section

N = 80
COMPARED = {"local": "local", "panel": "enhanced"}


def evidence() -> Evidence:
    rng = np.random.default_rng(0)
    hazards = {method: rng.uniform(0.05, 0.4, (N, 4)) for method in COMPARED}
    return make_evidence(rng.exponential(900.0, N) + 1, rng.integers(0, 2, N), hazards, fold=np.arange(N) % 2)


def section(folder: Path, data: str, head: str = "patient_id,sex", cell: str = "{sex}") -> Section:
    (folder / "site.yaml").write_text(f"name: north\ndata: {data}\n")
    rows = [f"P{i:03d},{cell.format(sex='FM'[i % 2])}" for i in range(N)]
    (folder / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    return subgroup_section(Site.open(folder), evidence(), COMPARED, WHO)


def test_each_group_has_both_models_in_their_looks_and_its_numbers(tmp_path):
    (picture,) = section(tmp_path, "{clinical: {sex: category}}").blocks
    axes = drawn(picture).axes[0]
    labels = [label.get_text().splitlines()[0] for label in axes.get_yticklabels()]
    assert labels == ["all patients", "sex F", "sex M"] and len(axes.containers) == 2 * 3
    found = {(str(c.lines[0].get_color()), c.lines[0].get_marker()) for c in axes.containers}
    assert found == {(method_look(name).colour, method_look(name).marker) for name in COMPARED}
    assert picture.numbers.header == ["group", "patients", "events", "local", "enhanced", "enhanced minus local"]
    assert [row[1] for row in picture.numbers.rows] == ["80", "40", "40"] and "by chance" in picture.note


def test_a_project_column_groups_too_and_without_any_column_a_sentence_says_what_to_do(tmp_path):
    (picture,) = section(tmp_path, "{}", head="patient_id,project").blocks
    assert [row[0] for row in picture.numbers.rows] == ["all patients", "project F", "project M"]
    (picture,) = section(tmp_path, "{}").blocks
    assert "data.clinical" in says(picture)


def test_a_table_that_has_changed_since_the_run_is_a_sentence(tmp_path):
    (picture,) = section(tmp_path, "{clinical: {age: numeric}}").blocks
    assert "table of labels as it was" in says(picture)
    (picture,) = section(tmp_path, "{clinical: {sex: numeric}}").blocks
    assert "table of labels as it was" in says(picture)
