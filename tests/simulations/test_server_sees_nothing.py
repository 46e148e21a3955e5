"""A whole run with the server under observation: what it receives, keeps and prints holds nothing of a vector.

Everything is compared byte by byte. Any 64 bytes in a row of a plaintext contain one of its 32-byte blocks that begin
at a multiple of 32; so a recording in which no 32 bytes in a row are such a block holds no such 64 bytes either.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from each_case import each
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from sites import TINY, make_site
from wire import Passed, recorded

from fedsteph.client.site.site_of_node import site_of_node
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import QuorumError
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.trust.key_file import read_identity
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire import letters, protocol
from fedsteph.server.mail_room import MailRoom
from fedsteph.simulations.run import in_process
from fedsteph.simulations.run.run_folder import RunFolder, prepare

BLOCK = 32
SITES = {"alpha": (37, 0.6), "beta": (38, 0.55), "gamma": (39, 0.7)}  # patients, share of events
SETTINGS = [
    *TINY,
    "comparators.rounds=3",
    "evaluation.bootstrap=25",
    "federation.targets=[alpha,beta]",
]  # no such number


@dataclass
class Observation:
    """Everything that passed the server: messages, files, its mail room, and what it printed or logged."""

    passed: list[Passed] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    printed: io.StringIO = field(default_factory=io.StringIO)
    mail: dict[str, bytes] = field(default_factory=dict)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """What the process prints, and what any logger is told but a site's own, which has a file to itself."""
        handler = logging.StreamHandler(self.printed)
        loggers = [logging.getLogger(name) for name in (None, "flwr", "fedsteph")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG)
        try:
            with redirect_stdout(self.printed), redirect_stderr(self.printed):
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.removeHandler(handler)
                logger.setLevel(level)

    @property
    def everything(self) -> bytes:
        raw = [one.raw for one in self.passed]
        return b"\0\0\0\0".join([*raw, *self.files.values(), *self.mail.values(), self.printed.getvalue().encode()])

    @property
    def text(self) -> str:
        """What a person at the server can read."""
        bodies = [one.body for one in self.passed]
        return "\n".join([*bodies, *(file.decode() for file in self.files.values()), self.printed.getvalue()])


@dataclass
class Watched:
    """A finished run, what its server saw, and the vectors that passed it, in the clear."""

    folder: RunFolder
    hospitals: Path
    seen: Observation
    vectors: dict[str, bytes]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Watched:
    tmp = tmp_path_factory.mktemp("watched")
    for i, (name, (patients, share)) in enumerate(SITES.items()):
        make_site(tmp / "hospitals" / name, seed=i, patients=patients, event_share=share)
    folder, _ = prepare(tmp / "run", load_config(None, SETTINGS), [tmp / "hospitals" / name for name in SITES])
    seen = Observation()
    with recorded(SITES) as seen.passed, seen.listening(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "IN_THE_AIR", 1)  # every envelope travels alone, and is delivered ahead of the merge
        patch.setattr(MailRoom, "clear", looked_into(seen.mail, MailRoom.clear))
        in_process.run_in_process(folder.path)
    kept = [*(folder.path / "server").rglob("*"), *folder.path.glob("*.yaml"), folder.path / "manifest.json"]
    seen.files = {str(path.relative_to(folder.path)): path.read_bytes() for path in kept if path.is_file()}
    return Watched(folder, tmp / "hospitals", seen, vectors_of(folder))


def looked_into(mail: dict[str, bytes], clear: Callable[[MailRoom], None]) -> Callable[[MailRoom], None]:
    """Removes the mail at the run's end, after a look at every file there."""

    def look(room: MailRoom) -> None:
        for target in ("alpha", "beta"):
            for stored in room.of(target).values():
                assert stat.S_IMODE(stored.path.stat().st_mode) == 0o600
                mail[f"{target}/{stored.path.name}"] = stored.path.read_bytes()
        clear(room)

    return look


def vectors_of(folder: RunFolder) -> dict[str, bytes]:
    """Every site's vector file, made again from the model that it keeps."""
    recipe = folder.config.recipe
    found = {}
    for index, name in enumerate(SITES):
        site = site_of_node({"partition-id": index}, {"run-folder": str(folder.path)})
        model = Workspace.open(site, recipe).local_model(0)
        found[name] = write_vector(TaskVector.between(model, pinned_model(recipe.model)))
    return found


# ---------------------------------------------------------------- looking for plaintext


def parts(file: bytes) -> tuple[bytes, bytes]:
    """Of a safetensors file, what its header says of the tensors, and the tensors.

    Left out is the header's metadata, which comes first: its order varies, and its digests are public.
    """
    start = 8 + int.from_bytes(file[:8], "little")
    header = file[8:start]
    first_name = header.rindex(b'"', 0, header.index(b'":{"dtype"'))
    return header[first_name:].rstrip(b" "), file[start:]


def forms(plain: bytes) -> Iterator[bytes]:
    """The bytes as they are, and as a message or a log could spell them."""
    yield plain
    yield plain.hex().encode()
    for shift in range(3):
        yield base64.b64encode(plain[shift:])
        yield base64.urlsafe_b64encode(plain[shift:])


def blocks(plains: Mapping[str, bytes]) -> dict[bytes, str]:
    """Every whole block of every part of every file, and whose it is.

    Left out are those of one byte alone, such as the digits of zeros, with which an audit log begins as well.
    """
    found = {}
    for name, file in plains.items():
        for part in parts(file):
            for form in forms(part):
                found |= {form[i : i + BLOCK]: name for i in range(0, len(form) - BLOCK + 1, BLOCK)}
    return {block: name for block, name in found.items() if len({*block}) > 1}


def leaks(recorded: bytes, plains: Mapping[str, bytes]) -> set[str]:
    """The names of the files of which any 64 bytes in a row stand anywhere in what was recorded."""
    wanted = blocks(plains)
    windows = (recorded[i : i + BLOCK] for i in range(len(recorded) - BLOCK + 1))
    return {wanted[window] for window in windows if window in wanted}


def test_the_server_saw_the_whole_run(watched):
    """The recording is of all phases, and the envelopes were in it, and on the server's disk until the end."""
    assert len(watched.seen.passed) == 2 * (3 + 3 + 4 + 4 + 2 + 2)  # four envelopes; an empty delivery for each target
    outcome = json.loads(watched.seen.files["server/outcome.json"])
    assert set(outcome["targets"]) == {"alpha", "beta"} and outcome["failures"] == []
    recorded = watched.seen.everything
    assert recorded.count(b"fedsteph/v3/envelope") == 3 * 4  # into the server, on its disk, and out of it
    assert len(recorded) > 2 * 4 * max(map(len, watched.vectors.values()))
    assert len(watched.seen.mail) == 4 and not (watched.folder.path / "server" / "mail").exists()
    assert {"config.yaml", "roster.yaml", "manifest.json", "server/audit/audit.jsonl"} <= watched.seen.files.keys()


def test_no_64_bytes_of_any_vector_or_model_pass_the_server(watched):
    paths = sorted(watched.folder.path.glob("sites/**/*.safetensors"))
    models = {str(path.relative_to(watched.folder.path)): path.read_bytes() for path in paths}
    assert len(watched.vectors) == 3 and len(models) >= 5
    assert leaks(watched.seen.everything, watched.vectors | models) == set()


def smuggled(plain: bytes, way: str) -> Observation:
    """The plaintext through the same recorder, in one of the ways in which it could get out."""
    seen = Observation()
    body: dict[str, str | int] = {"version": protocol.VERSION, "body": "{}"}
    if way == "base64 in the body":
        body["body"] = json.dumps({"x": base64.b64encode(b"?" + plain).decode()})
    records = RecordDict({"fedsteph": ConfigRecord(body)})
    if way == "envelope":
        content = b"label" + plain
        records["envelopes"] = ArrayRecord({"a": Array("uint8", (len(content),), "fedsteph.opaque", content)})
    message = message_to_proto(Message(records, dst_node_id=1, message_type=protocol.SHARE))
    seen.passed.append(Passed("alpha", False, message.SerializeToString()))
    if way == "file":
        seen.files["server/x"] = b"..." + plain
    with seen.listening():
        if way == "print":
            print(plain.hex())
        if way == "log":
            logging.getLogger("flwr").info("vector %s", plain.hex())
    return seen


@each("way", ["envelope", "base64 in the body", "file", "print", "log"])
@each("part", [0, 1])
def test_the_recorder_would_find_64_bytes_of_a_vector(watched, way, part):
    """Of its header, and of its tensors."""
    plain = parts(watched.vectors["beta"])[part]
    for start in (0, 1, 37, len(plain) - 64):
        found = leaks(smuggled(plain[start : start + 64], way).everything, watched.vectors)
        assert found == {"beta"} if part == 1 else found  # the headers of all sites' vectors are alike
    assert leaks(smuggled(bytes(64), way).everything, watched.vectors) == set()


def test_a_run_whose_sites_forget_to_seal_is_found_out(watched, monkeypatch):
    """The same run over the same grid, with the vector files themselves in place of the envelopes."""
    monkeypatch.setattr("fedsteph.client.sharing.outgoing.seal", lambda plain, *args, **options: plain)
    with recorded(SITES) as passed, pytest.raises(QuorumError, match="no target has a result"):
        in_process.run_in_process(watched.folder.path)
    assert leaks(Observation(passed).everything, watched.vectors) == set(SITES)


def test_no_patient_slide_or_path_passes_the_server(watched):
    labels = pd.read_csv(watched.hospitals / "alpha" / "labels.csv")
    assert re.fullmatch(r"P\d{3}", labels["patient_id"][0]) and re.fullmatch(r"P\d{3}-DX\d", labels["pathology_id"][0])
    assert re.search(rb"P\d{3}-DX", watched.seen.everything) is None
    assert re.search(r"\bP\d{3}\b", watched.seen.text) is None
    unnamed = re.sub(rb"(trained_on\W{1,6})fold_0\b", rb"\1", watched.seen.everything)  # a value of the recipe
    for word in (str(watched.hospitals), "hospitals", "labels.csv", "DX1.h5", "fold_"):
        assert word.encode() not in unnamed


def number_in(text: str, number: int) -> bool:
    """Whether it stands there alone, and not in a band, a time, a version or a longer number."""
    timeless = re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+", "", text)
    return re.search(rf"(?<![\w.-]){number}(?![\w.-])", timeless) is not None


def test_no_exact_count_and_no_exact_score_passes_the_server(watched):
    counts, scores = set(), set()
    for name in SITES:
        labels = pd.read_csv(watched.hospitals / name / "labels.csv").drop_duplicates("patient_id")
        counts |= {len(labels), int(labels["e"].sum())}
        for part in ("train", "test"):
            ids = pd.read_csv(watched.hospitals / name / "splits_0.csv")[part].dropna()
            counts |= {len(ids), int(labels.set_index("patient_id").loc[ids, "e"].sum())}
    for name in ("alpha", "beta"):
        methods = read_json(watched.folder.site_state(name) / "result.json")["methods"]
        scores |= {f"{row['mean']}" for row in methods.values() if row["mean"] != round(row["mean"], 2)}
    assert {37, 38, 39} <= counts and scores
    bands = [json.loads(body) for body in (one.body for one in watched.seen.passed) if '"TrainLocalReply"' in body]
    assert {reply["TrainLocalReply"]["patients"] for reply in bands} == {"30-39"}
    # Small numbers stand in the recipe for other reasons; what is searched for are the whole site's and its folds'.
    assert [count for count in sorted(counts) if count > 16 and number_in(watched.seen.text, count)] == []
    assert [score for score in scores if score in watched.seen.text] == []
    assert number_in('{"patients":37}', 37) and number_in("37 patients", 37)
    assert not number_in('{"patients":"30-39"}', 39) and not number_in("2026-11-21T12:39:39.039+00:00", 39)


def test_no_secret_key_passes_the_server(watched):
    recorded = watched.seen.everything
    for name in SITES:
        keys = watched.folder.site_state(name) / "keys"
        identity = read_identity(keys / f"{name}.sign.key", keys / f"{name}.seal.key")
        for seed in (identity.sign_seed, identity.seal_seed):
            for form in forms(seed):
                assert not [i for i in range(len(form) - 15) if form[i : i + 16] in recorded]
