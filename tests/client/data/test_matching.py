"""Rules that make two spellings of an ID equal: never two names into one, and never without being asked."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
from sites import make_site

from fedsteph.client.data.check import check_site
from fedsteph.client.data.matching import find_match, same
from fedsteph.client.data.settings import DataSettings, Rule
from fedsteph.client.site.mended_file import add_match
from fedsteph.client.site.site_file import read_site_file
from fedsteph.common.errors import ConfigError

UUID = "0A1B2C3D-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("rule", "one", "other"),
    [
        ("endings", "TCGA-1.svs", "TCGA-1"),
        ("endings", "TCGA-1.ome.tif", "TCGA-1.ome"),
        ("uuid", f"TCGA-1.{UUID}", "TCGA-1"),
        ("case", "Slide-A", "slide-a"),
        ("zeros", "0012", "12"),
        ("point_zero", "1015.0", "1015"),
        ("spaces", "A\u00a0 1 ", "A 1"),
        ("dashes", "A\u20131", "A-1"),
        ("unicode", unicodedata.normalize("NFD", "Müller"), "Müller"),
    ],
)
def test_each_rule_is_found_by_itself(rule: Rule, one: str, other: str) -> None:
    names, others = (["same", f"{one}"], ["same", f"{other}"])
    for mine, its in ((names, others), (others, names)):
        found = find_match(mine, its)
        assert found is not None and found.rules == (rule,) and found.pairs == {mine[1]: its[1]}
    assert one != other and same(one, (rule,)) == same(other, (rule,))


def test_several_rules_together_and_the_fewest() -> None:
    found = find_match([f"a-{i}.{UUID}.svs" for i in range(9)], [f"A-{i}" for i in range(9)])
    assert found is not None and {*found.rules} == {"endings", "uuid", "case"} and len(found.pairs) == 9
    assert found.problem("t.csv", "slides").what.startswith("all 9 slides")


@pytest.mark.parametrize(
    ("names", "others"),
    [(["a", "A"], ["a.", "A."]), (["S1", "s1"], ["x1"]), (["12"], ["012", "0012"]), (["a"], ["b"]), (["a"], ["a"])],
)
def test_no_rule_makes_one_of_two_names(names: list[str], others: list[str]) -> None:
    assert find_match(names, others) is None


def test_two_files_for_one_slide_and_two_slides_for_one_file_are_errors(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", patients=4)
    (site / "features" / "p001-dx1.h5").write_bytes((site / "features" / "P001-DX1.h5").read_bytes())
    problems = check_site(site, DataSettings(match=("case",))).problems
    assert ["2 feature files" in p.what for p in problems] == [True]
    labels = site / "labels.csv"
    labels.write_text(labels.read_text() + "p001,p001-dx1,x,5,1\n")
    problems = check_site(site, DataSettings(match=("case",))).problems
    assert any("are one under 'data.match'" in p.what for p in problems)


def test_names_that_are_alike_under_no_rule_are_one_problem_with_both_sides(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", patients=8)
    for i, path in enumerate(sorted((site / "features").iterdir())):
        path.rename(path.with_name(f"slide{i}.h5"))
    [problem] = check_site(site, DataSettings()).problems
    assert problem.what == (
        "10 of 10 slides have no feature file: the table has 'P000-DX1', and the folder has 'slide0'"
    )
    assert "exclude" not in problem.remedy and "data.columns.slide" in problem.remedy


def test_a_copy_of_a_file_is_no_second_file_of_its_slide(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", patients=4)
    shutil.copyfile(site / "features" / "P000-DX1.h5", site / "features" / "P000-DX1.h5.bak")
    assert [p for p in check_site(site, DataSettings(match=("endings",))).problems if p.severity == "error"] == []


def test_excluded_slides_are_found_in_another_spelling(tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", patients=4)
    report = check_site(site, DataSettings(match=("case",), exclude=("p001-dx1",)))
    assert report.patients == 3 and [p.severity for p in report.problems] == ["warning"]


@pytest.mark.parametrize(
    "text", ["", "# note\n", "name: a\ndata: {time_unit: months}  # in months\n", "data:\n  match: [case]\n"]
)
def test_a_site_file_keeps_what_it_had(text: str, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    before = read_site_file(tmp_path)[1]
    assert add_match(tmp_path, ("endings",)) == path
    after = read_site_file(tmp_path)[1]
    assert after.data.match == (*before.data.match, "endings") and after.name == before.name
    assert after.data.time_unit == before.data.time_unit
    assert all(note in path.read_text() for note in ("# note", "# in months") if note in text)


def test_a_site_file_with_a_fault_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("data: [1]\n")
    with pytest.raises(ConfigError):
        add_match(tmp_path, ("case",))
    assert path.read_text() == "data: [1]\n"
