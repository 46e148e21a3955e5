"""The label table: IDs stay what they are, times become days, and every bad row is reported at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from data_builders import HEADER, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsteph.client.data.settings import Columns, DataSettings
from fedsteph.client.data.tables.labels import Patient, absent_outcomes, listed_ids, read_labels
from fedsteph.common.errors import LabelError

DEFAULT = DataSettings()
HEAD = ",".join(HEADER) + "\n"


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_patients_are_sorted_and_slides_keep_their_order(tmp_path: Path) -> None:
    path = table(tmp_path, HEAD + "B,S3,KIRP,10,0\nA,S2,KIRP,734.0,1\nA,S1,KIRP,734,1.0\n")
    patients, problems = read_labels(path, DEFAULT)
    assert patients == [Patient("A", 734.0, 1, ("S2", "S1"), "KIRP"), Patient("B", 10.0, 0, ("S3",), "KIRP")]
    assert problems == []


@pytest.mark.parametrize("identity", ["007", "NA", "null", "1e5", "nan", "Ä-1", "a,b", 'a"b', "1.0", "True"])
def test_an_id_is_text(identity: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "labels.csv", [HEADER, (identity, identity, "", 5, 1)])
    assert read_labels(path, DEFAULT) == ([Patient(identity, 5.0, 1, (identity,))], [])


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + HEAD.encode() + b"A,S,KIRP,5,1\n",
        HEAD.replace("\n", "\r\n") + "A,S,KIRP,5,1\r\n",
        HEAD + "A,S,KIRP,5,1",
        HEAD + "\n,,,,\n  A , S ,KIRP, 5 , 1 \n\n",
        " patient_id ,pathology_id,project,t,e,,\nA,S,KIRP,5,1,,\n",
        "e,t,pathology_id,patient_id,project,age\ntrue,5,S,A,KIRP,63\n",
        HEAD + '"A","S","KIRP","5","TRUE"\n',
        HEAD.replace(",", ";") + "A;S;KIRP;5,0;1\n",
        HEAD.replace(",", "\t") + "A\tS\tKIRP\t5,0\tDead\n",
        HEAD + 'A,S,KIRP,"5,0",1\n',
        "sep=|\r\n" + HEAD.replace(",", "|") + "A|S|KIRP|5|DECEASED\r\n",
        (HEAD + "A,S,KIRP,5,1\n").encode("utf-16"),
        "#Patient\tSlide\n#STRING\tSTRING\n" + HEAD.replace(",", "\t") + "A\tS\tKIRP\t5\t1:DEAD WITH TUMOR\n",
    ],
)
def test_what_spreadsheets_make_of_it_is_read(text: str | bytes, tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, text), DEFAULT) == ([Patient("A", 5.0, 1, ("S",), "KIRP")], [])


def test_the_project_is_optional(tmp_path: Path) -> None:
    path = table(tmp_path, "patient_id,pathology_id,t,e\nA,S,5,1\n")
    assert read_labels(path, DEFAULT) == ([Patient("A", 5.0, 1, ("S",))], [])


def test_a_censorship_column_is_known_by_its_name_and_converted(tmp_path: Path) -> None:
    path = table(tmp_path, "patient_id,pathology_id,t,censorship\nA,S1,5,1\nB,S2,6,0\n")
    patients, problems = read_labels(path, DEFAULT)
    assert [(p.id, p.e) for p in patients] == [("A", 0), ("B", 1)] and problems == []


def test_event_and_censorship_must_not_contradict_each_other(tmp_path: Path) -> None:
    path = table(tmp_path, "patient_id,pathology_id,t,e,censorship\nA,S1,5,1,0\nB,S2,6,1,1\n")
    patients, [problem] = read_labels(path, DEFAULT)
    assert [(p.id, p.e) for p in patients] == [("A", 1)]
    assert problem.where.endswith("labels.csv:3") and "'e' and 'censorship' are both 1" in problem.what


def test_units_and_censorship(tmp_path: Path) -> None:
    path = table(tmp_path, "case,slide,years,censored\nA,S1,2,1\nB,S2,0.5,0\nC,S3,0,false\n")
    columns = Columns(patient="case", slide="slide", time="years", censorship="censored")
    patients, problems = read_labels(path, DataSettings(columns=columns, time_unit="years"))
    assert [(p.t, p.e) for p in patients] == [(730.0, 0), (182.5, 1), (0.0, 1)] and problems == []


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "has no rows"),
        ("\n\n", "has no rows"),
        (HEAD, "has no rows"),
        (HEAD + ",,,,\n", "has no rows"),
        ("patient_id,pathology_id,project,e\nA,S,K,1\n", "has no column 't'; it has 'patient_id', 'pathology"),
        ("patient_id,pathology_id,t\nA,S,5\n", "has no column 'e'"),
        ("Patient_ID,pathology_id,t,e\nA,S,5,1\n", "it has 'Patient_ID'"),
        ("a,b\n1,2\n", "has no column 'patient_id', 'pathology_id', 't', 'e'"),
        ("patient_id,pathology_id,t,t,e\nA,S,5,6,1\n", "has the column 't' more than once"),
        (HEAD + 'A,S,K,"1,298",1\n', "'t' has the value '1,298', whose comma may be for decimals or for thousands"),
        (HEAD + "A,S,K,5,1\nA,S2,K,5,5,1\n", "labels.csv:3: has 6 cells and 5 columns"),
        (HEAD + 'A,"S,K,5,1\n', "is not CSV at line 2"),
        (HEAD + '"A"x,S,K,5,1\n', "is not CSV at line 2"),
        (HEAD.encode("utf-16")[:-1], "is not UTF-8"),
        (HEAD.encode() + b"M\xfcller,S,K,5,1\n", "is not UTF-8"),
        (b"\x89HDF\r\n\x1a\n\x00\xff", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_label_table(text: str | bytes, fragment: str, tmp_path: Path) -> None:
    path = table(tmp_path, text)
    with pytest.raises(LabelError, match=re.escape(fragment)) as caught:
        read_labels(path, DEFAULT)
    assert str(path) in str(caught.value) and caught.value.remedy


def test_an_absent_table_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"absent\.csv: cannot be read \(No such file"):
        read_labels(tmp_path / "absent.csv", DEFAULT)
    with pytest.raises(LabelError, match=r"cannot be read \(Is a directory\)"):
        read_labels(tmp_path, DEFAULT)


GOOD_ROW = "A,S1,K,5,1\n"


@pytest.mark.parametrize(
    ("row", "fragment"),
    [
        ("B,S2,K,soon,1", "'t' is 'soon', not a number"),
        ("B,S2,K,,1", "'t' is '', a missing value"),
        ("B,S2,K,[Not Available],1", "'t' is '[Not Available]', a missing value"),
        ("B,S2,K,nan,1", "'t' is 'nan', a missing value"),
        ("B,S2,K,'--,1", "a missing value"),
        ("B,S2,K,2019-01-12,1", "'t' is '2019-01-12', a date"),
        ('B,S2,K,"1,5,7",1', "'t' is '1.5.7', not a number"),
        ("B,S2,K,1_298,1", "'t' is '1_298', not a number"),
        ("B,S2,K,-1,1", "'t' is -1, before the start"),
        ("B,S2,K,inf,1", "more than 150 years"),
        ("B,S2,K,-inf,1", "before the start"),
        ("B,S2,K,54751,1", "'t' is 54751 days, more than 150 years"),
        ("B,S2,K,5,2", "'e' is '2', not 0 or 1"),
        ("B,S2,K,5,", "'e' is '', a missing value"),
        ("B,S2,K,5", "'e' is '', a missing value"),
        ("B,S2,K,5,ill", "'e' is 'ill', not 0 or 1"),
        ("B,S2,K,5,0.5", "'e' is '0.5', not 0 or 1"),
        (",S2,K,5,1", "'patient_id' is empty"),
        ("B,,K,5,1", "'pathology_id' is empty"),
        ("A,S1,K,5,1", "the slide 'S1' is already in line 2"),
        ("B,S1,K,5,1", "the slide 'S1' is already in line 2"),
        ("A,S2,K,6,1", "the patient 'A' has another time or event than in line 2"),
        ("A,S2,K,5,0", "the patient 'A' has another time or event than in line 2"),
    ],
)
def test_a_bad_row_is_named(row: str, fragment: str, tmp_path: Path) -> None:
    path = table(tmp_path, HEAD + GOOD_ROW + row + "\n")
    patients, problems = read_labels(path, DEFAULT)
    assert [problem.where for problem in problems] == [f"{path}:3"] and fragment in problems[0].what
    assert problems[0].severity == "error" and problems[0].remedy and [patient.id for patient in patients] == ["A"]


def test_all_problems_of_all_rows_come_together(tmp_path: Path) -> None:
    path = table(tmp_path, HEAD + ",,K,x,y\n" + GOOD_ROW + "B,S2,K,-1,1\n")
    _, problems = read_labels(path, DEFAULT)
    assert [problem.where.rpartition(":")[2] for problem in problems] == ["2", "2", "2", "2", "4"]


def test_line_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    path = table(tmp_path, HEAD + "\n" + GOOD_ROW + "\nB,S2,K,x,1\n")
    assert [problem.where for problem in read_labels(path, DEFAULT)[1]] == [f"{path}:5"]


def test_ids_of_bad_rows_count_as_listed(tmp_path: Path) -> None:
    path = table(tmp_path, HEAD + GOOD_ROW + "B,S2,K,x,1\n,S3,K,5,1\n")
    assert listed_ids(path, DEFAULT) == ({"A", "B"}, {"S1", "S2", "S3"})


def rows(times: Sequence[float]) -> str:
    return HEAD + "".join(f"P{i},S{i},K,{t},1\n" for i, t in enumerate(times))


def test_short_times_raise_doubts_about_the_unit_and_no_conversion(tmp_path: Path) -> None:
    path = table(tmp_path, rows([20 * i for i in range(10)]))
    patients, problems = read_labels(path, DEFAULT)
    assert [(p.severity, p.what) for p in problems] == [
        ("warning", "the longest follow-up is 180 days: are these months?")
    ]
    assert max(patient.t for patient in patients) == 180
    assert read_labels(path, DataSettings(time_unit="months"))[1] == []
    assert read_labels(table(tmp_path, rows([*range(9), 200])), DEFAULT)[1] == []
    assert read_labels(table(tmp_path, rows(range(9))), DEFAULT)[1] == []


@pytest.mark.parametrize(
    ("unit", "longest", "doubt"),
    [
        ("months", 2390, "days"),
        ("months", 9.61, "years"),
        ("years", 115, "days or months"),
        ("years", 0.5, "years"),
        ("months", 24, None),
        ("years", 30, None),
    ],
)
def test_a_unit_is_doubted_in_both_directions(unit, longest, doubt, tmp_path: Path) -> None:
    path = table(tmp_path, rows([longest * (i + 1) / 12 for i in range(12)]))
    problems = [p for p in read_labels(path, DataSettings(time_unit=unit))[1] if p.severity == "warning"]
    assert bool(problems) == (doubt is not None)
    assert not doubt or f"are these {doubt}?" in problems[0].what


def test_patients_called_as_a_missing_value_are_told_where_there_are_several(tmp_path: Path) -> None:
    _, [problem] = read_labels(table(tmp_path, HEAD + "NA,S1,K,5,1\nNA,S2,K,5,1\nB,S3,K,5,1\n"), DEFAULT)
    assert problem.severity == "warning" and "2 rows have the patient 'NA'" in problem.what


@pytest.mark.parametrize(
    ("header", "ready"),
    [
        ("Patient_ID,Pathology_ID,T,E", "columns: {patient: Patient_ID, slide: Pathology_ID, time: T, event: E}"),
        (
            "PATIENT_ID,OS_MONTHS,OS_STATUS",
            "time: OS_MONTHS, event: OS_STATUS}} (cBioPortal, overall survival; its rows",
        ),
        ("bcr_patient_barcode,DSS,DSS.time,slide", "slide: slide, time: DSS.time, event: DSS}} (TCGA-CDR, DSS)"),
        (
            "case_id,slide_id,survival_months,censorship",
            "time_unit: months, columns: {patient: case_id, slide: slide_id",
        ),
    ],
)
def test_a_known_layout_is_named_with_what_to_write(header: str, ready: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="has no column") as caught:
        read_labels(table(tmp_path, header + "\n" + "1," * header.count(",") + "1\n"), DEFAULT)
    assert ready in str(caught.value.remedy)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(str.strip).filter(bool)
LABEL = st.tuples(st.floats(0, 150 * 365), st.booleans())


@settings(max_examples=40)
@given(labels=st.dictionaries(TEXT, LABEL, min_size=1, max_size=8), project=TEXT)
def test_any_ids_and_times_survive(labels, project, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    write_csv(path, [HEADER, *((key, key, project, t, e) for key, (t, e) in labels.items())])
    patients, problems = read_labels(path, DEFAULT)
    assert problems == [] and patients == [Patient(key, *labels[key], (key,), project) for key in sorted(labels)]


@given(content=st.binary(max_size=200) | st.text().map(str.encode), head=st.sampled_from([b"", HEAD.encode()]))
def test_any_bytes_give_typed_errors_only(content, head, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "random.csv"
    path.write_bytes(head + content)
    try:
        read_labels(path, DEFAULT)
    except LabelError as error:
        assert str(path) in str(error)


def test_a_table_without_slides_gives_each_patient_the_files_that_begin_with_its_id(tmp_path: Path) -> None:
    path = table(tmp_path, "patient_id,t,e\nA-1,5,1\nA-12,6,0\nB,nonsense,[Not Available]\nC,8,1\n")
    settings = DataSettings(columns=Columns(slide=None))
    files = ["A-1-DX2", "A-1_DX1", "A-12.x", "C", "D-1", "A-123"]
    patients, [problem] = read_labels(path, settings, files)
    assert {p.id: p.slides for p in patients} == {"A-1": ("A-1-DX2", "A-1_DX1"), "A-12": ("A-12.x",), "C": ("C",)}
    assert problem.severity == "warning" and problem.what.startswith("1 of its patients have no feature file")
    assert listed_ids(path, settings, files)[1] == {"A-1-DX2", "A-1_DX1", "A-12.x", "C"}
    with pytest.raises(LabelError, match=r"no feature file's name begins with an ID of the column 'patient_id'"):
        read_labels(path, settings, ["D-1", "A"])
    path.write_text("patient_id,t,e\nA,5,1\nA-1,6,0\nB,7,1\n")
    _, problems = read_labels(path, settings, ["A-1-DX1", "B"])
    assert [p.what for p in problems if p.severity == "error"] == [
        "the name of the file 'A-1-DX1' begins with the IDs of the patients 'A' and 'A-1'"
    ]


def test_new_patients_are_read_without_outcomes(tmp_path):
    for header, absent in (
        ("patient_id,pathology_id", ["'t'", "'e' (or 'censorship')"]),
        ("patient_id,pathology_id,t", ["'e' (or 'censorship')"]),
        ("patient_id,pathology_id,censorship", ["'t'"]),
        ("patient_id,pathology_id,t,censorship", []),
    ):
        path = table(tmp_path, header + "\nB,S2\nA,S1\nB,S3\n")
        assert absent_outcomes(path, DEFAULT) == absent
        patients = [Patient("A", 0.0, 0, ("S1",)), Patient("B", 0.0, 0, ("S2", "S3"))]
        assert read_labels(path, DEFAULT, outcomes=False) == (patients, [])
