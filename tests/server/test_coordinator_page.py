"""The coordinator's page of a run tells what its results hold, and no more."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from keys_and_rosters import roster_of

from fedsteph.common.config.run_config import Config, dump_yaml, load_config
from fedsteph.common.errors import RunFolderError
from fedsteph.common.host import atomic, checked_file
from fedsteph.common.model.initial_model import pin_m0
from fedsteph.common.report.page import Code, Page, Points, Table
from fedsteph.common.report.transfer import TITLE
from fedsteph.common.trust.audit_log import AuditLog, Event
from fedsteph.common.wire.messages import MergeReply, Refusal, Score
from fedsteph.server.coordinator_page import run_page, write_run_page
from fedsteph.server.manifest import CONFIG_FILE, MANIFEST_FILE, manifest
from fedsteph.server.outcome import OUTCOME_FILE, Failure, Outcome

ROOT = Path(__file__).parents[2]
SITES = ("north", "south", "west")
SHA = "ab" * 32


def config() -> Config:
    names = "[north, south, west]"
    settings = ["preset=null", "model.width=6", "model.embed=8", "model.attention=6", "sharing.dtype=bfloat16"]
    settings.append("training.seed=17")
    return pin_m0(
        load_config(
            None, [*settings, "federation.name=kidney", f"federation.sites={names}", "federation.targets=[north, west]"]
        )
    )


def outcome() -> Outcome:
    """As a ServerApp leaves it: bands, rounded scores, phrases."""
    refusal = Refusal("PolicyError", "the site's policy does not allow this", "south")
    north = (Score("local", 0.61), Score("steph", 0.64), Score("deployed", 0.64), Score("fedavg", None))
    west = (Score("local", None), Score("steph", None), Score("deployed", None), Score("ties", 0.5))
    return Outcome(
        sites={
            "north": {"software": "0.1.0", "encoder": "uni2-h", "patients": "230-239", "events": "50-59"},
            "south": {"software": "0.1.1", "encoder": None, "patients": None, "events": "below 10"},
            "west": {"software": "0.1.0", "encoder": "uni2-h"},  # out before it told its sizes
        },
        targets={"north": MergeReply("230-239", "50-59", (refusal,), north), "west": MergeReply(None, None, (), west)},
        failures=[
            Failure("south", "train.merge", f"refused by north: {refusal.phrase}"),
            Failure("node 17", "query.hello", "it <b>never</b> answered"),
        ],
        seconds={"query.hello": 0.512, "train.local": 1834.25, "train.merge": 61.0},
        bytes=12_345_678,
    )


@dataclass(frozen=True)
class Run:
    path: Path
    manifest: dict[str, Any]

    def write(self, found: Outcome) -> None:
        checked_file.write_json(self.path / "server" / OUTCOME_FILE, found.to_dict())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A deployment's run folder at its end, all but the results; its audit log holds another run as well."""
    path, made = tmp_path / "runs" / "20260101-120000-abcd", config()
    audit = AuditLog(tmp_path / "audit")
    found = manifest(made, roster_of(*SITES, federation="kidney"), audit.folder)
    atomic.write_text(path / CONFIG_FILE, dump_yaml(made))
    checked_file.write_json(path / MANIFEST_FILE, found)
    for event in (
        Event("envelope.relay", "allowed", "f" * 32, "south -> east", "cd" * 32, 99),
        Event("run.start", run=found["run"]),
        Event("envelope.relay", "allowed", found["run"], "south -> north", SHA, 4242),
        Event("envelope.relay", "allowed", found["run"], "west -> north", "ef" * 32, 4243),
        Event("run.end", "allowed", found["run"]),
    ):
        audit.append(event)
    return Run(path, found)


def section(page: Page, title: str) -> list[Any]:
    (found,) = [section for section in page.sections if section.title == title]
    return list(found.blocks)


def table(page: Page, title: str) -> Table:
    (found,) = [block for block in section(page, title) if isinstance(block, Table)]
    return found


def test_who_took_part_is_told_in_bands(run):
    found = table(run_page(run.path, outcome()), "Who took part")
    assert found.header == ["site", "patients", "events", "software"]
    assert found.rows == [
        ["north", "230-239", "50-59", "0.1.0"],
        ["south", "not told", "below 10", "0.1.1"],
        ["west", "not told", "not told", "0.1.0"],
    ]


def test_scores_are_those_of_the_results_and_what_is_not_told_is_said_so(run):
    found = table(run_page(run.path, outcome()), "How well patients are ranked")
    assert found.header == ["method", "north", "west"]
    assert found.rows == [
        ["local", "0.61", "not told"],
        ["STEPH", "0.64", "not told"],
        ["deployed", "0.64", "not told"],
        ["FedAvg, fine-tuned", "not told", "not told"],
        ["TIES + AM", "not told", "0.50"],
    ]


def test_the_verdict_is_a_sentence_per_target_and_a_warning_for_all(run):
    several = run_page(run.path, outcome()).verdict
    assert several == [
        "At north, the enhanced model has a C-index of 0.64, 0.03 better than the local one's 0.61. What is deployed "
        "there has 0.64.",
        "At west, scores are undefined or kept by the site's policy: nothing can be said of the enhanced model.",
        "These are rounded means without intervals, which establish nothing; a site's own page says how sure it is.",
    ]
    found = outcome()
    del found.targets["west"]
    first, second = run_page(run.path, found).verdict
    assert first == several[0] and "without intervals, which establish nothing" in second


def test_a_loss_is_told_as_one(run):
    found = outcome()
    scores = (Score("local", 0.61), Score("steph", 0.55))
    found.targets["north"] = replace(found.targets["north"], scores=scores)
    assert "0.55, 0.06 worse than the local one's 0.61" in run_page(run.path, found).verdict[0]


def test_what_was_relayed_in_this_run_alone_and_every_failure(run):
    blocks = section(run_page(run.path, outcome()), TITLE)
    assert blocks[0].text.startswith("What travelled: task vectors in bfloat16, sealed")
    assert [[row[0], row[1], row[3]] for row in blocks[1].rows] == [
        ["south -> north", "4,242", SHA],
        ["west -> north", "4,243", "ef" * 32],
    ]
    (points,) = [block for block in blocks if isinstance(block, Points)]
    assert points.sentences == [
        "south in train.merge: refused by north: the site's policy does not allow this (PolicyError)",
        "node 17 in query.hello: it <b>never</b> answered",
    ]


def test_what_it_cost_and_what_it_was_made_of(run):
    page = run_page(run.path, outcome())
    assert table(page, "Cost").rows == [
        ["query.hello", "0.5 s"],
        ["train.local", "1,834.2 s"],
        ["train.merge", "61.0 s"],
        ["sent and received", "12,345,678 bytes"],
    ]
    blocks = section(page, "Configuration, versions, seeds, digests")
    rows = dict(blocks[0].rows)
    assert rows["run"] == run.manifest["run"] and rows["seed of training"] == "17"
    assert rows["digest of m0"] == config().model.m0_sha256 and rows["torch"] == run.manifest["versions"]["torch"]
    (code,) = [block for block in blocks if isinstance(block, Code)]
    assert code.text == dump_yaml(config()) and page.title == f"Run {run.manifest['run'][:20]} of kidney"
    limits = section(page, "Limits")[0].sentences
    assert limits[0].startswith("Numbers are rounded and in bands")


class Words(HTMLParser):
    """Text by the tag around it."""

    def __init__(self) -> None:
        super().__init__()
        self.around: list[str] = []
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.around.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.around.pop() == tag

    def handle_data(self, data: str) -> None:
        self.found.append((self.around[-1] if self.around else "", data))


def test_the_page_is_written_from_the_results_in_the_run_folder(run):
    run.write(outcome())
    path = write_run_page(run.path)
    assert path == run.path / "report" / "index.html"
    assert [other.name for other in path.parent.iterdir()] == ["index.html"]  # nothing to draw
    words = Words()
    words.feed(path.read_text(encoding="utf-8"))
    words.close()
    assert words.around == []
    cells = [text for tag, text in words.found if tag == "td"]
    assert {"230-239", "not told", "0.64", SHA, "4,242", "1,834.2 s"} <= set(cells)
    items = [text for tag, text in words.found if tag == "li"]
    assert "node 17 in query.hello: it <b>never</b> answered" in items and "b" not in {tag for tag, _ in words.found}
    assert ("span", "For the coordinator and partners: only what each site's policy lets out") in words.found


def test_the_page_can_be_written_elsewhere(run, tmp_path):
    run.write(outcome())
    path = write_run_page(run.path, tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "index.html" and not (run.path / "report").exists()


def test_a_run_without_results_has_no_page(run):
    with pytest.raises(RunFolderError, match=r"has no results yet\. Let the run come to its end") as caught:
        write_run_page(run.path)
    assert caught.value.where == str(run.path) and not (run.path / "report").exists()


def test_a_run_that_nobody_is_left_of_has_a_page_too(run):
    page = run_page(run.path, Outcome())
    assert page.verdict == ["The run came to no result."]
    failed = run_page(run.path, Outcome(error="the quorum is lost"))
    assert failed.answer.state == "failed" and failed.answer.sentence == "The run failed: the quorum is lost."
    titles = [section.title for section in failed.sections]
    assert titles[0] == "What failed, and what to do" and "--resume" in failed.sections[0].blocks[0].sentences[-1]
    assert "Who took part" not in titles and "How well patients are ranked" not in titles


def test_numbers_that_no_site_told_are_not_on_the_page(run):
    """No score has more digits than it was told with."""
    run.write(outcome())
    text = write_run_page(run.path).read_text(encoding="utf-8")
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.S).partition("Configuration, versions")[0]
    assert set(re.findall(r"\b0\.\d\d\b", body)) <= {"0.61", "0.64", "0.03", "0.50"}


def test_other_configurations_of_sharing_are_said(run):
    made = replace(config(), sharing=replace(config().sharing, dtype="float16", rank=2, layers="attention"))
    atomic.write_text(run.path / CONFIG_FILE, dump_yaml(made))
    text = section(run_page(run.path, outcome()), TITLE)[0].text
    assert "task vectors in float16, layers attention, rank 2, sealed" in text


def test_a_page_needs_neither_matplotlib_nor_torch(run, tmp_path):
    run.write(outcome())
    code = (
        "import sys; from pathlib import Path; from fedsteph.server.coordinator_page import write_run_page\n"
        f"print(write_run_page(Path({str(run.path)!r}), out=Path({str(tmp_path / 'out')!r})), *sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    path, *modules = found.stdout.split()
    assert Path(path).is_file() and "fedsteph.server.coordinator_page" in modules
    assert not {"matplotlib", "torch", "pandas", "h5py", "fedsteph.client", "fedsteph.simulations"} & set(modules)


def test_an_outcome_is_read_as_it_was_written(run):
    run.write(outcome())
    assert Outcome.read(run.path) == outcome()
    run.write(replace(outcome(), error="the quorum is lost"))
    assert Outcome.read(run.path).error == "the quorum is lost"
