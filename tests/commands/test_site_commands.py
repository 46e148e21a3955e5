"""The site's own commands: what they print, where they write, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from client_builders import Spy, plain_c
from sites import TINY, make_site

import fedsteph.client.data.bags
import fedsteph.client.training.survival_fit
from fedsteph.client.models.model_file import load_base

SETTINGS = ["--no-report"] + [part for setting in TINY for part in ("--set", setting)]


@pytest.fixture
def site(tmp_path) -> Path:
    return make_site(tmp_path / "site", patients=16)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_check_of_good_data_as_a_table_and_as_json(cli, site):
    code, out, err = cli("data", "check", site)
    assert (code, err) == (0, "") and "no problem found" in out and "test-encoder" in out
    report = json.loads(cli("data", "check", site, "--json")[1])
    assert (report["site"], report["patients"], report["events"], report["problems"]) == ("site", 16, 8, [])
    assert (report["widths"], report["encoders"], report["splits"]) == ([6], ["test-encoder"], 2)


def test_init_writes_a_site_file_for_what_it_finds_and_checks_it(cli, refused, site):
    (site / "labels.csv").rename(site / "outcomes.csv")
    said = refused("data", "init", site)
    assert "unit of 't'" in said and said.endswith("days, months, years. Say which with --time-unit")
    assert "'weeks' is no unit" in refused("data", "init", site, "--time-unit", "weeks")
    assert not (site / "site.yaml").exists()
    code, out, _ = cli("data", "init", site, "--time-unit", "days")
    assert code == 0 and "labels: outcomes.csv" in out and "no problem found" in out
    assert "is there already" in refused("data", "init", site)


def test_check_lists_every_problem(cli, site):
    (site / "features/P001-DX1.h5").write_bytes(b"junk")
    (site / "features/P002-DX1.h5").unlink()
    (site / "splits_0.csv").write_text("train,test\nP003,P003\n")
    code, out, _ = cli("data", "check", site, "--json")
    problems = json.loads(out)["problems"]
    assert code == 1
    told = [f"{problem['where']}: {problem['what']}" for problem in problems if problem["severity"] == "error"]
    for place, what in (("P001-DX1.h5", "neither HDF5"), ("features", "'P002-DX1'"), ("splits_0.csv", "both train")):
        assert [line for line in told if place in line and what in line], told
    code, out, err = cli("data", "check", site)
    assert code == 1 and f"{len(problems)} problems" in err
    [line] = [line for line in out.splitlines() if "P001-DX1.h5" in line]
    assert line.startswith(f"error: {site}/features/P001-DX1.h5: is neither HDF5") and "Store features" in line


def test_names_that_differ_by_a_rule_are_one_line_and_are_mended_on_request(cli, site):
    labels = site / "labels.csv"
    labels.write_text(labels.read_text().replace("-DX1,", "-DX1.svs,"))
    (site / "site.yaml").write_text("# ours\nname: kirp  # its name\n")
    code, out, _ = cli("data", "check", site)
    [line] = [line for line in out.splitlines() if line.startswith("error")]
    assert code == 1 and "all 16 slides" in line and "without '.svs': 'P000-DX1.svs' is 'P000-DX1'" in line
    before = (site / "site.yaml").read_text()
    code, out, err = cli("data", "check", site, "--fix")
    assert code == 0 and "no problem found" in out and "data.match is now endings" in err
    assert (site / "site.yaml").read_text().startswith(before) and cli("data", "check", site)[0] == 0


def test_every_problem_is_shown_on_request(cli, site):
    for path in (site / "features").iterdir():
        path.write_bytes(b"junk")
    short, every = (cli("data", "check", site, *words)[1].count("is neither HDF5") for words in ((), ("--all",)))
    assert (short, every) == (1, len([*(site / "features").iterdir()]))


def test_a_warning_is_a_problem_too(cli, site):
    (site / "features/stray.h5").write_bytes((site / "features/P001-DX1.h5").read_bytes())
    code, out, _ = cli("data", "check", site, "--json")
    assert (code, [problem["severity"] for problem in json.loads(out)["problems"]]) == (1, ["warning"])


def test_train_writes_a_model_and_says_where(cli, site, tmp_path):
    code, out, err = cli("train", site, "--out", tmp_path / "out", *SETTINGS, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["site"], len(result["c_index"])) == ("site", 2)
    model = Path(result["model"])
    assert model == tmp_path / "out" / "model.safetensors" and load_base(model).architecture.width == 6
    assert model.with_suffix(".md").is_file() and not (tmp_path / "out" / "report-training").exists()
    assert not (site / "fedsteph-state").exists()


def test_train_again_trains_nothing(monkeypatch, cli, site):
    first = cli("train", site, *SETTINGS)
    spy = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    assert cli("train", site, *SETTINGS) == first and spy.calls == []
    code, out, _ = first
    assert code == 0 and "95% interval" in out and str(site / "fedsteph-state") in last_line(out)


def test_train_of_a_site_without_an_event(cli, tmp_path):
    site = make_site(tmp_path / "site", patients=12, event_share=0.0)
    code, out, _ = cli("train", site, *SETTINGS)
    assert code == 0 and "too small to evaluate" in out and "undefined" in out


def test_train_reads_a_configuration(cli, site, tmp_path):
    (tmp_path / "f.yaml").write_text("model: {embed: 8, attention: 6}\ntraining: {epochs: 1}\nevaluation: {folds: 1}\n")
    words = ["-c", tmp_path / "f.yaml", "--set", "model.embed=9", "--json", "--no-report"]
    code, out, _ = cli("train", site, *words)
    result = json.loads(out)
    assert (code, len(result["c_index"])) == (0, 1) and load_base(Path(result["model"])).architecture.embed == 9


def test_train_draws_a_page_where_the_site_wants_one(cli, site):
    words = [word for word in SETTINGS if word != "--no-report"]
    page = site / "fedsteph-state" / "report-training" / "index.html"
    (site / "site.yaml").write_text("page: false\n")
    assert cli("train", site, *words)[0] == 0 and not page.exists()
    (site / "site.yaml").unlink()
    assert cli("train", site, *words)[2] == f"Page: {page}\n" and page.is_file()


@pytest.mark.parametrize("command", [["train"], ["privacy", "audit"]])
def test_a_state_that_cannot_be_written_is_named_before_any_feature_is_read(monkeypatch, cli, site, command):
    """As on a read-only share: below a file, no account can make a folder, not even root."""
    (site / "site.yaml").write_text("state: labels.csv/state\n")
    spy = Spy(monkeypatch, fedsteph.client.data.bags, "known_header")
    code, out, err = cli(*command, site)
    told = last_line(err)
    assert (code, out, spy.calls) == (1, "", []) and told.startswith(f"error: {site / 'labels.csv' / 'state'}: ")
    assert "--out" in told and "'state' in site.yaml" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("merge", "'merge'. 'simulate' merges on this machine, 'run' in a deployed federation"),
        ("check", "'check'. 'data check' looks at a site's data"),
        ("trian", "'trian'. Did you mean 'train'?"),
        ("Report", "'Report'. Did you mean 'report'?"),
        ("keys nwe", "'nwe'. Did you mean 'new'?"),
        ("keys merge", "'merge'. See --help for all commands"),
        ("xyzzy", "'xyzzy'. See --help for all commands"),
    ],
)
def test_an_unknown_command_is_answered_with_what_was_meant_once(cli, words, told):
    code, out, err = cli(*words.split())
    assert (code, out) == (1, "") and last_line(err).startswith(f"error: there is no command {told}")
    assert last_line(err).count("Did you mean") <= 1 and (words == "check" or "doctor" not in last_line(err))


def test_predict_with_a_trained_model(cli, site, tmp_path):
    _, out, _ = cli("train", site, *SETTINGS, "--json")
    model, labels = json.loads(out)["model"], site / "labels.csv"
    target = tmp_path / "risk.csv"
    code, out, _ = cli("predict", model, "--features", site / "features", "--labels", labels, "--out", target)
    assert code == 0
    known = pd.read_csv(labels).groupby("patient_id").first()
    risk = pd.read_csv(target).set_index("patient_id").loc[known.index, "risk"].to_numpy()
    assert f"C-index {plain_c(known['t'].to_numpy(), known['e'].to_numpy(), risk):.3f} over" in out
    assert f"16 patients -> {target}" in out
    code, out, _ = cli("predict", model, "--features", site / "features", "--out", target)
    assert code == 0 and f"{len(list((site / 'features').iterdir()))} patients" in out
    assert last_line(out) == "no C-index: no table of outcomes was given"
    again = [*cli("predict", model, "--site", site, "--out", target, "--json")]
    assert (again[0], again[2]) == (0, "")
    told = {"patients": 16, "c_index": pytest.approx(plain_c(known["t"].to_numpy(), known["e"].to_numpy(), risk))}
    assert json.loads(again[1]) == {**told, "why_no_c_index": None, "files": [str(target)]}


def faults(site: Path) -> dict[str, tuple[list[object], str]]:
    """Command line and what its last line on stderr must tell."""
    features, absent = site / "features", site.parent / "absent"
    train, predict = ["train", site, *SETTINGS], ["predict", absent, "--features", features, "--out", site / "x.csv"]
    return {
        "unknown command": (["trian", site], "trian"),
        "unknown option": ([*train, "--epochs", 3], "--epochs"),
        "unknown option of check": (["data", "check", site, "--jsn"], "--jsn"),
        "missing argument": (["train"], "SITE"),
        "missing option": (["predict", absent], "--out"),
        "nobody to predict": (["predict", site, "--out", "x.csv"], "holds no .safetensors file"),
        "unknown key": ([*train, "--set", "training.epoch=3"], "Did you mean 'training.epochs'?"),
        "out of range": ([*train, "--set", "training.epochs=0"], "epochs must be 1 to 1000"),
        "no assignment": ([*train, "--set", "training.epochs"], "not key=value"),
        "absent configuration": ([*train, "-c", absent], str(absent)),
        "absent site to check": (["data", "check", absent], str(absent)),
        "absent site to train": (["train", absent], str(absent)),
        "absent model": (predict, str(absent)),
        "too many folds": ([*train, "--set", "evaluation.folds=3"], "2 split files"),
        "wrong width": ([*train, "--set", "model.width=5"], "6 wide, the federation's 5"),
    }


@pytest.mark.parametrize("fault", faults(Path()))
def test_a_fault_of_the_user_ends_with_1_and_its_cause(cli, site, fault):
    args, cause = faults(site)[fault]
    code, out, err = cli(*args)
    assert (code, out) == (1, "") and last_line(err).startswith("error: ") and cause in last_line(err)


def test_a_site_file_with_a_fault_is_named(cli, site):
    (site / "site.yaml").write_text("devise: cpu\n")
    code, _, err = cli("data", "check", site)
    assert code == 1 and last_line(err) == f"error: {site / 'site.yaml'}: unknown key 'devise'. Did you mean 'device'?"


def test_data_that_cannot_be_used_is_a_table_and_a_sentence(cli, site):
    (site / "features/P001-DX1.h5").unlink()
    (site / "features/P002-DX1.h5").unlink()
    code, out, err = cli("train", site, *SETTINGS)
    assert (code, out) == (1, "") and "'P001-DX1' has no feature file" in err
    assert "'P002-DX1' has no feature file" in err
    assert last_line(err).startswith(f"error: {site}: the data cannot be used, 2 problems found")


def test_an_absent_device_is_an_error(cli, site):
    (site / "site.yaml").write_text("device: cuda:99\n")
    code, _, err = cli("train", site, *SETTINGS)
    assert code == 1 and "cuda:99 was asked for" in last_line(err)


def test_the_installed_command(tmp_path):
    """The real process: exit code, the cause on the last line of stderr, and nothing on stdout."""
    command = Path(sys.executable).with_name("fedsteph")
    done = subprocess.run(
        [command, "train", tmp_path / "absent"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert last_line(done.stderr).startswith(f"error: {tmp_path / 'absent'}: there is no such site folder")
    assert "Traceback" not in done.stderr
