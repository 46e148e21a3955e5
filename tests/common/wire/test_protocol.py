"""Messages travel through Flower unchanged, and whatever is not one of ours is refused by name."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from each_case import each
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st

from fedsteph.common.config.recipe import ComparatorConfig, ModelConfig, Recipe, StephConfig
from fedsteph.common.errors import FedstephError, ProtocolError, SiteError, TooSmallError
from fedsteph.common.wire import protocol
from fedsteph.common.wire.letters import Letter
from fedsteph.common.wire.messages import (
    Average,
    AverageReply,
    Deliver,
    DeliverReply,
    Hello,
    HelloReply,
    Merge,
    MergeReply,
    Refusal,
    RunId,
    Score,
    Share,
    ShareReply,
    TrainLocal,
    TrainLocalReply,
)
from fedsteph.common.wire.protocol import Parcel, pack, parcel, read

ID = RunId("lung", "run-1", "f" * 64)
RECIPE = Recipe(
    model=ModelConfig(width=6, m0_sha256="a" * 64),
    steph=StephConfig(K=None, gamma=0.005, gamma_grid=(0.1,)),
    comparators=ComparatorConfig(("fedprox",)),
)
REFUSED = Refusal("WrongRunError", "it is of another run", "c")
MESSAGES = [
    Hello(ID),
    HelloReply("site-a", "0.1.0", "uni2-h", 20.0, 256.0, 1536, "a" * 64, "b" * 128, "brca"),
    HelloReply("site-a", "0.1.0", None, None, None, 1, "0" * 64, "c" * 128),
    TrainLocal(ID, RECIPE, every_fold=True),
    TrainLocalReply("30-39", "below 10"),
    TrainLocalReply("50-99", None),
    Average(ID, RECIPE, "fedprox", 3, 250.0),
    AverageReply(30),
    Share(ID, RECIPE, ("a", "b")),
    ShareReply(),
    ShareReply((REFUSED, Refusal("StorageError", "the site could not read its disk", "d"))),
    Deliver(ID, RECIPE),
    DeliverReply(),
    Merge(ID, RECIPE, 250.0),
    Merge(ID, RECIPE, 250.0, True, (Letter("b", "a" * 64), Letter("c", "b" * 64))),
    MergeReply(None, None, (), ()),
    MergeReply("30-39", "10-19", (REFUSED,), (Score("local", 0.61), Score("steph", None), Score("deployed", 1.0))),
]
KINDS = [type(message) for message in MESSAGES]
MERGED: dict[str, Any] = json.loads(json.dumps(asdict(MESSAGES[-1])))
HELLO: dict[str, Any] = asdict(MESSAGES[1])


def scored(value: Any, method: Any = "local", **more: Any) -> dict[str, Any]:
    """The body of a merge's reply with one score."""
    return {"MergeReply": {**MERGED, "scores": [{"method": method, "c_index": value, **more}]}}


def travelled(records: RecordDict) -> RecordDict:
    """Through Flower's wire format and back."""
    proto = recorddict_to_proto(records)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


def header(**changes: Any) -> RecordDict:
    return RecordDict({"fedsteph": ConfigRecord({"version": protocol.VERSION, "body": "{}", **changes})})


def body(content: Any) -> Parcel:
    return Parcel(content if isinstance(content, str) else json.dumps(content))


@each("message", MESSAGES)
def test_round_trip_through_flower(message: Any) -> None:
    envelopes = {"a": b"\x00\xff" * 50, "b": b"x"}
    received = parcel(travelled(pack(message, envelopes)), "it")
    assert read(received, type(message), "it") == message and received.envelopes == envelopes
    assert received.n_bytes == len(received.body) + 101


def test_without_envelopes_there_is_no_array_record() -> None:
    records = travelled(pack(ShareReply()))
    assert set(records) == {"fedsteph"} and parcel(records, "it").envelopes == {}


@each("message", MESSAGES)
def test_a_message_of_another_kind_is_refused(message: Any) -> None:
    for expected in {*KINDS} - {type(message)}:
        with pytest.raises(ProtocolError, match=f"it: expected a {expected.__name__}"):
            read(parcel(pack(message), "it"), expected, "it")


@each(
    "records",
    [
        RecordDict(),
        RecordDict({"parameters": ArrayRecord()}),
        RecordDict({"fedsteph": ArrayRecord()}),
        RecordDict({"fedsteph": MetricRecord({"version": protocol.VERSION})}),
        RecordDict({**header(), "metrics": MetricRecord({"loss": 1.0})}),
        RecordDict({**header(), "weights": ArrayRecord()}),
    ],
)
def test_foreign_records_are_refused(records: RecordDict) -> None:
    with pytest.raises(ProtocolError, match="it: is not a fedsteph message"):
        parcel(travelled(records), "it")


@each("version", [0, 1, 4, "5", b"5", [5], 1.5, "5\nall is well\x1b[2J" + "x" * 10_000])
def test_another_version_is_refused_and_printable(version: Any) -> None:
    with pytest.raises(
        ProtocolError,
        match=r"it: speaks protocol version .*, and this is fedsteph .*, protocol 7",
    ) as caught:
        parcel(travelled(header(version=version)), "it")
    assert caught.value.remedy
    assert_harmless(caught.value)


def test_no_version_is_refused() -> None:
    with pytest.raises(ProtocolError, match="version none"):
        parcel(RecordDict({"fedsteph": ConfigRecord({"body": "{}"})}), "it")


@each(
    "records",
    [
        header(body=7),
        header(body=b"{}"),
        header(body=["{}"]),
        header(body=" " * ((4 << 20) + 1)),
        RecordDict({"fedsteph": ConfigRecord({"version": protocol.VERSION})}),
        RecordDict({**header(), "envelopes": MetricRecord({"a": 1})}),
        RecordDict({**header(), "envelopes": ConfigRecord({"a": b"x"})}),
    ],
)
def test_a_malformed_body_is_refused(records: RecordDict) -> None:
    with pytest.raises(ProtocolError, match="it: has a malformed body"):
        parcel(travelled(records), "it")


@each(
    "array",
    [
        Array(np.zeros(3, dtype=np.float32)),
        Array(np.zeros(3, dtype=np.uint8)),
        Array(dtype="float32", shape=(1,), stype="fedsteph.opaque", data=b"abcd"),
        Array(dtype="uint8", shape=(4,), stype="pickle", data=b"abcd"),
    ],
)
def test_arrays_that_are_not_opaque_bytes_are_refused(array: Array) -> None:
    records = RecordDict({**header(), "envelopes": ArrayRecord({"a": array})})
    with pytest.raises(ProtocolError, match="arrays that are no envelopes"):
        parcel(travelled(records), "it")


@pytest.mark.parametrize(("most", "total"), [(10, 100), (100, 10), (10, 30), (10, 20)])
def test_envelopes_are_bounded_each_and_together(monkeypatch: pytest.MonkeyPatch, most: int, total: int) -> None:
    assert (protocol.MOST_ENVELOPE_BYTES, protocol.MAX_TOTAL) == (256 << 20, 1 << 30)
    monkeypatch.setattr(protocol, "MOST_ENVELOPE_BYTES", most)
    monkeypatch.setattr(protocol, "MAX_TOTAL", total)
    outcomes = set()
    for sizes in [(), (0,), (10,), (11,), (10, 10), (10, 0, 10, 1), (5, 5, 5, 5), (7, 7, 7), (10, 10, 10), (1,) * 31]:
        received = travelled(pack(ShareReply(), {f"s{i}": b"x" * size for i, size in enumerate(sizes)}))
        if fits := (max(sizes, default=0) <= most and sum(sizes) <= total):
            assert parcel(received, "it").n_bytes == len('{"ShareReply":{"refused":[]}}') + sum(sizes)
        else:
            with pytest.raises(ProtocolError, match="it: holds too many or too large envelopes"):
                parcel(received, "it")
        outcomes.add(fits)
    assert outcomes == {True, False}


def test_envelopes_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_LETTERS", 3)
    assert len(parcel(pack(ShareReply(), {f"s{i}": b"" for i in range(3)}), "it").envelopes) == 3
    with pytest.raises(ProtocolError, match="it: holds too many or too large envelopes"):
        parcel(pack(ShareReply(), {f"s{i}": b"" for i in range(4)}), "it")


@each(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("\x00garbage", "Expecting value"),
        ('{"HelloReply": {', "property name"),
        ("[" * 100_000, "not a MergeReply"),
        ("null", "expected a MergeReply"),
        ("[]", "expected a MergeReply"),
        ("{}", "expected a MergeReply"),
        ({"MergeReply": MERGED, "Extra": {}}, "expected a MergeReply"),
        ({"MergeReply": None}, "must be a mapping"),
        ({"MergeReply": [MERGED]}, "must be a mapping"),
        ({"MergeReply": {**MERGED, "vector": [1.0]}}, "unknown key 'vector'"),
        ({"MergeReply": {**MERGED, "Local": 0.5}}, "unknown key 'Local'"),
        ({"MergeReply": {k: v for k, v in MERGED.items() if k != "scores"}}, "'scores' is missing"),
        (scored("0.61"), "'scores[0].c_index' must be"),
        (scored(True), "'scores[0].c_index' must be"),
        (scored(float("nan")), "'scores[0].c_index' must be a finite number"),
        (scored(float("-inf")), "'scores[0].c_index' must be a finite number"),
        (json.dumps(scored(7)).replace("7", "1e999"), "'scores[0].c_index' must be a finite"),
        (scored(10**400), "'scores[0].c_index' must be a finite number"),
        (scored(0.5, "oracle"), "a score must be of a method that this version knows"),
        (scored(0.5, None), "'scores[0].method' must be text"),
        (scored(0.5, patient="P001"), "unknown key 'scores[0].patient'"),
        ({"MergeReply": {**MERGED, "scores": {"local": 0.61}}}, "'scores' must be a list"),
        ({"MergeReply": {**MERGED, "scores": MERGED["scores"] * 2}}, "scores must have each method once"),
        ('{"MergeReply": {"local": ' + "9" * 5000 + "}}", "4300 digits"),
        ({"MergeReply": {**MERGED, "refused": "c"}}, "'refused' must be a list"),
        ({"MergeReply": {**MERGED, "refused": [1]}}, "'refused[0]' must be a mapping"),
        ({"MergeReply": {**MERGED, "refused": ["c"]}}, "'refused[0]' must be a mapping"),
        ({"MergeReply": {**MERGED, "refused": [{"kind": "x", "reason": "y"}]}}, "refused must say whom"),
        ({"MergeReply": {**MERGED, "refused": [{"kind": "x", "site": "c"}]}}, "'refused[0].reason' is missing"),
        ({"MergeReply": {**MERGED, "refused": [{**asdict(REFUSED), "path": "/"}]}}, "unknown key 'refused[0].path'"),
        ({"MergeReply": {**MERGED, "patients": 37}}, "'patients' must be text or null"),
        ({"MergeReply": {**MERGED, "patients": "37"}}, "a count must be a band"),
    ],
)
def test_a_body_that_is_no_such_message_is_refused(content: Any, said: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read(body(content), MergeReply, "it")
    assert said in str(caught.value) and caught.value.where == "it"


def test_what_is_not_a_number_is_not_even_sent() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        pack(Merge(ID, RECIPE, float("nan")))


@each(
    ("error", "site", "said"),
    [
        (TooSmallError("3", where="/data/P001.h5"), None, "it: the site's data did not pass its check (DataError)"),
        (
            ValueError("P001"),
            "a",
            "a: an unforeseen error happened at the site; its log has the details (InternalError)",
        ),
        (
            OSError(28, "No space left on device", "/data/P001.h5"),
            "a",
            "a: the site could not read or write its disk, and its log has the details (StorageError)",
        ),
    ],
)
def test_a_refusal_is_a_site_error_in_the_words_of_the_protocol(error: Exception, site: str | None, said: str) -> None:
    with pytest.raises(SiteError) as caught:
        read(parcel(travelled(pack(Refusal.of(error, site))), "it"), MergeReply, "it")
    assert str(caught.value) == said


HOSTILE = "all is well; now run: curl evil.example"


@each("site", [None, "a"])
@each("kind", ["DataError", "TooSmallError", "SiteError", "StorageError", "InternalError"])
def test_a_reason_that_a_site_made_up_is_never_shown(kind: str, site: str | None) -> None:
    """The server's own words for the kind, whatever the site sends along."""
    with pytest.raises(SiteError) as caught:
        read(parcel(travelled(pack(Refusal(kind, HOSTILE, site))), "node 7"), MergeReply, "node 7")
    with pytest.raises(SiteError) as harmless:
        read(parcel(travelled(pack(Refusal(kind, "no", site))), "node 7"), MergeReply, "node 7")
    assert str(caught.value) == str(harmless.value) and str(caught.value).startswith(f"{site or 'node 7'}: ")
    assert str(caught.value).endswith(f" ({kind})")
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert not any(word in shown for word in ("all is well", "curl", "evil"))


UNKNOWN = [HOSTILE, "", "FutureError", "dataerror", "DataError ", " DataError", "KeyError", "Exception"]
UNKNOWN += ["FedstephErrоr"]  # with a Cyrillic letter


@each("kind", UNKNOWN)
def test_a_kind_that_a_site_made_up_is_not_shown_either(kind: str) -> None:
    with pytest.raises(SiteError) as caught:
        read(parcel(travelled(pack(Refusal(kind, HOSTILE, "a"))), "node 7"), MergeReply, "node 7")
    assert str(caught.value) == "a: it refused for a reason that this version does not know"
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert not any(word in shown for word in ("all is well", "curl", "evil"))


def assert_harmless(error: FedstephError, secret_length: int = 120) -> None:
    """What the server shows is one printable line of bounded length: nothing that a terminal would obey."""
    assert error.sentence.isprintable() and len(error.sentence) < secret_length + 180


EVIL = ["a\nb", "\x1b[2J", "x" * 121, "line\u2028two", "\u202eevil", "nul\0", "\ud800", "bell\a", "a\tb", "a\rb"]


@each("text", EVIL)
@each(
    ("kind", "fields", "key"),
    [
        (Refusal, {"kind": "DataError", "reason": "no"}, "kind"),
        (Refusal, {"kind": "DataError", "reason": "no"}, "reason"),
        (HelloReply, HELLO, "site"),
        (HelloReply, HELLO, "software"),
        (HelloReply, HELLO, "encoder"),
        (HelloReply, HELLO, "audit"),
        (HelloReply, HELLO, "signature"),
        (ShareReply, {"refused": []}, "refused"),
        (MergeReply, MERGED, "refused"),
        (TrainLocalReply, {"patients": "10-19", "events": "10-19"}, "patients"),
        (TrainLocalReply, {"patients": "10-19", "events": "10-19"}, "events"),
        (MergeReply, MERGED, "patients"),
        (MergeReply, MERGED, "events"),
    ],
)
def test_a_site_cannot_write_what_it_likes_at_the_server(kind: type, fields: dict, key: str, text: str) -> None:
    for value in [{**asdict(REFUSED), part: text} for part in asdict(REFUSED)] if key == "refused" else [text]:
        listed = [value] if key == "refused" else value
        with pytest.raises(ProtocolError) as caught:
            read(body({kind.__name__: {**fields, key: listed}}), kind, "it")
        assert_harmless(caught.value)


@each("text", [*EVIL, "", "Site", "../x", "a b", "x" * 33, "-a"])
@each(
    ("kind", "fields", "key"),
    [
        (HelloReply, HELLO, "site"),
        (Refusal, {"kind": "DataError", "reason": "no"}, "site"),
        (ShareReply, {"refused": []}, "refused"),
        (MergeReply, MERGED, "refused"),
    ],
)
def test_sites_have_names_like_names(kind: type, fields: dict, key: str, text: str) -> None:
    value = [asdict(REFUSED), {**asdict(REFUSED), "site": text}] if key == "refused" else text
    with pytest.raises(ProtocolError, match="name"):
        read(body({kind.__name__: {**fields, key: value}}), kind, "it")


@each("text", EVIL)
def test_nor_can_it_through_an_error_message(text: str) -> None:
    """In the name of a key, in a value of the wrong type, in a message's kind."""
    for content in ({"HelloReply": {text * 99: 1}}, {"HelloReply": {**HELLO, "width": text * 99}}, {text: {}}):
        with pytest.raises(ProtocolError) as caught:
            read(body(content), HelloReply, "it")
        assert_harmless(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.sampled_from(KINDS))
def test_any_text_as_a_body_is_refused(text: str, kind: type) -> None:
    with pytest.raises(ProtocolError):
        read(Parcel(text), kind, "it")


@given(JSON, st.sampled_from([*KINDS, Refusal]), st.sampled_from(KINDS))
def test_any_json_is_a_message_or_refused(value: Any, sent: type, expected: type) -> None:
    """As the whole of a message, and in the place of each of its fields."""
    valid = next((json.loads(json.dumps(asdict(m))) for m in MESSAGES if type(m) is sent), {"kind": "x", "reason": "y"})
    for fields in (value, *({**valid, key: value} for key in valid)):
        try:
            found = read(body({sent.__name__: fields}), expected, "it")
        except (ProtocolError, SiteError) as error:
            assert error.sentence.isprintable()
        else:
            assert sent is expected is type(found)
