"""A study's Markdown and CSV: well-formed, in agreement with its JSON, and plain about what is worse."""

from __future__ import annotations

import copy
import re

import pandas as pd
import pytest
from studies import STUDY

from fedsteph.client.evaluation.metrics import METRICS
from fedsteph.simulations.study.tables import cells_csv, markdown, results_csv, sentences


def tables_of(text: str) -> dict[str, list[list[str]]]:
    """Every table of a Markdown text by its heading, as lines of cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        if line.startswith("|"):
            assert line.endswith("|")
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_every_table_is_well_formed(whole):
    text = (whole.out / "results.md").read_text()
    assert text == markdown(whole.results)
    tables = tables_of(text)
    against = [f"Against {whole.results['rows'][name]['title']}" for name in STUDY["against"]]
    assert [*tables] == ["C-index", *against, "Further metrics", "Costs"]
    titles = [about["title"] for about in whole.results["rows"].values()]
    for heading, table in tables.items():
        assert len({len(line) for line in table}) == 1
        assert set(table[1]) == {"---"}
        assert all(cell for line in table for cell in line)
        assert [line[0] for line in table[2:]] == [t for t in titles if heading != f"Against {t}"]
    sent = {line[0]: line[-1] for line in tables["Costs"][2:]}
    assert (sent["pooled, fine-tuned"], sent["local"]) == ("all data", "0.0")


def test_the_c_index_table_has_the_numbers_of_the_json(whole):
    table = tables_of(markdown(whole.results))["C-index"]
    assert table[0] == ["method", "alpha", "beta", "mean", "95% interval"]
    for line, (row, about) in zip(table[2:], whole.results["overall"].items(), strict=True):
        for cell, target in zip(line[1:3], ("alpha", "beta"), strict=True):
            one = whole.results["targets"][target]["rows"][row]
            assert cell == f"{one['mean']:.3f}±{one['sd']:.3f}"
        low, high = about["interval_95"]
        assert line[3:] == [f"{about['mean']:.3f}", f"{low:.3f}-{high:.3f}"]


def test_the_difference_table_has_the_numbers_of_the_json(whole):
    table = tables_of(markdown(whole.results))["Against local"]
    titles = {about["title"]: row for row, about in whole.results["rows"].items()}
    for line in table[2:]:
        found = whole.results["overall"][titles[line[0]]]["against"]["local"]
        low, high = found["interval_95"]
        assert line[1:] == [
            f"{found['difference']:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
            f"{found['targets_won']} of 2",
            f"{found['worst_target']:+.3f}",
            f"{found['folds_won']} of 4",
        ]


@pytest.fixture
def results(whole) -> dict:
    """To be changed."""
    return copy.deepcopy(whole.results)


def against(gap, interval, won=0) -> dict:
    found = {"difference": gap, "interval_95": interval, "targets_won": won, "targets": 2}
    return found | {"worst_target": gap, "folds_won": 0, "folds": 8}


def test_where_steph_is_worse_is_said_as_plainly_as_where_it_is_better(results):
    results["overall"]["steph"]["against"] = {
        "local": against(-0.1234, [-0.2, -0.05]),
        "half_average": against(0.0321, [0.01, 0.05], won=2),
    }
    results["overall"]["deployed"]["against"] = {"local": against(-0.02, [-0.05, 0.01], won=1)}
    said = "\n".join(sentences(results))
    assert "STEPH is worse than local by 0.1234 in the mean (-0.2000 to -0.0500: the interval leaves 0 out), " in said
    assert "on 0 of 2 targets." in said
    assert "STEPH is better than half average by 0.0321 in the mean (+0.0100 to +0.0500: the interval" in said
    assert "deployed is worse than local by 0.0200 in the mean (-0.0500 to +0.0100: no difference is estab" in said
    for sentence in sentences(results):
        assert f"- {sentence}" in markdown(results).splitlines()


def test_only_steph_s_rows_are_read_aloud_and_all_of_them(results):
    results["rows"]["1 source"]["method"] = "steph"  # a variant of it
    about = [sentence.partition(" is ")[0] for sentence in sentences(results)]
    assert about == ["STEPH", "STEPH", "deployed", "deployed", "1 source", "1 source"]


def test_equal_rows_are_neither_better_nor_worse(results):
    results["overall"]["steph"]["against"] = {"local": against(0.0, [0.0, 0.0])}
    (said,) = (sentence for sentence in sentences(results) if sentence.startswith("STEPH "))
    assert not re.search("better|worse", said)


def test_what_is_undefined_is_said_to_be(results):
    for about in results["targets"].values():
        for one in about["rows"].values():
            one |= {"mean": None, "sd": None, "seed_sd": None}
    for whole_row in results["overall"].values():
        whole_row |= {"mean": None, "interval_95": None, "further": dict.fromkeys(METRICS)}
        for reference in whole_row["against"]:
            whole_row["against"][reference] = against(None, None)
    text = markdown(results)
    assert all(len({len(line) for line in table}) == 1 for table in tables_of(text).values())
    assert tables_of(text)["C-index"][2][1:] == ["undefined", "undefined", "-", "undefined"]
    assert "STEPH cannot be compared with local." in text
    assert results_csv(results).splitlines()[1].startswith("local,alpha,,,")


def test_results_csv_agrees_with_the_json(whole):
    assert (whole.out / "results.csv").read_text() == results_csv(whole.results)
    table = pd.read_csv(whole.out / "results.csv")
    n_lines = {row: len(about["against"]) for row, about in whole.results["overall"].items()}
    assert table.groupby("row").size().to_dict() == {row: 3 * n for row, n in n_lines.items()}
    for line in table.itertuples():
        places = whole.results["targets"] | {"mean": {"rows": whole.results["overall"]}}
        one = places[line.target]["rows"][line.row]
        assert line.c_index == pytest.approx(one["mean"], abs=1e-12)
        found = one["against"][line.reference]
        assert line.difference == pytest.approx(found["difference"], abs=1e-12)
        assert [line.low, line.high] == pytest.approx(found["interval_95"], abs=1e-12)
        if line.target == "mean":
            assert pd.isna(line.sd_folds) and pd.isna(line.sd_seeds)
        else:
            assert line.sd_folds == pytest.approx(one["sd"], abs=1e-12) and pd.isna(line.sd_seeds)  # of one seed


def test_an_interval_over_targets_stands_beside_that_over_patients(results):
    for about in results["overall"].values():
        for found in about["against"].values():
            found["interval_95_targets"] = [-0.111, 0.222]
    table = tables_of(markdown(results))["Against local"]
    assert table[0][2:5] == ["95% interval", "targets resampled too", "targets won"]
    assert {line[3] for line in table[2:]} == {"-0.111 to +0.222"}
    lines = [line.split(",") for line in results_csv(results).splitlines()]
    place = lines[0].index("low_targets")
    ends = {tuple(line[place : place + 2]) for line in lines if line[1] == "mean" and line[5]}
    assert ends == {("-0.111", "0.222")}


def test_cells_csv_agrees_with_the_json(whole):
    assert (whole.out / "cells.csv").read_text() == cells_csv(whole.results)
    table = pd.read_csv(whole.out / "cells.csv")
    assert len(table) == len(whole.results["cells"])
    for line, cell in zip(table.to_dict("records"), whole.results["cells"], strict=True):
        for key in ("row", "target", "seed", "fold", "learnable", "peak_bytes", "shown"):
            assert line[key] == cell[key]
        for key, value in {**cell["metrics"], "c_index": cell["c_index"], "gamma": cell["notes"].get("gamma")}.items():
            assert pd.isna(line[key]) if value is None else line[key] == pytest.approx(value, abs=1e-12)
    assert {*table.loc[table["row"] == "steph", "gamma"]} <= {0.0, 0.5}
