"""The vector file: an exact round trip, and attacks that end in a typed error which names their origin."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
import safetensors.torch
import torch
from each_case import each
from hypothesis import given
from hypothesis import strategies as st

from fedsteph.common.config.recipe import Dtype, SharingConfig
from fedsteph.common.errors import VectorError, VectorFileError, VectorMismatchError, VectorRangeError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.reduction import reduced, restored
from fedsteph.common.vector.shared_part import HEAD, WHOLE
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import FORMAT, WITH_HEAD, read_vector, write_vector

SMALL = Architecture(width=3, embed=2, attention=4, n_bins=2)
M0 = untrained_model(SMALL, 0)
M0_SHA256 = model_digest(M0)
VECTOR = TaskVector.between(untrained_model(SMALL, 1), M0)
VALID = write_vector(VECTOR)
START = 8 + int.from_bytes(VALID[:8], "little")
WHERE = "vector of mallory"


def read(content: bytes, max_norm: float = 250.0, dtype: Dtype = "float32") -> TaskVector:
    return read_as(SharingConfig(dtype), content, max_norm)


def read_as(sharing: SharingConfig, content: bytes, max_norm: float = 250.0) -> TaskVector:
    return read_vector(
        content, architecture=SMALL, m0_sha256=M0_SHA256, sharing=sharing, max_norm=max_norm, where=WHERE
    )


def file_in(vector: TaskVector, dtype: Dtype) -> bytes:
    return write_vector(vector, SharingConfig(dtype))


def rounded(dtype: Dtype) -> TaskVector:
    """``VECTOR`` as torch rounds it."""
    cast = DTYPES[dtype][0]
    return TaskVector(SMALL, M0_SHA256, {name: tensor.to(cast).float() for name, tensor in VECTOR.tensors.items()})


def header() -> dict[str, Any]:
    """A fresh copy of the valid file's header, to be tampered with."""
    return json.loads(VALID[8:START])


def craft(head: Any, data: bytes = VALID[START:]) -> bytes:
    """A file with this header (an object, JSON text or bytes) and this data."""
    text = head if isinstance(head, str | bytes) else json.dumps(head)
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw + data


def saved(metadata: dict[str, str] | None = None, **tensors: torch.Tensor | None) -> bytes:
    """What safetensors itself writes of the valid tensors with these ones replaced (None: left out)."""
    changed = {**VECTOR.tensors, **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    return safetensors.torch.save(kept, header()["__metadata__"] if metadata is None else metadata)


def with_value(value: float) -> bytes:
    bias = VECTOR.tensors["embed.bias"].clone()
    bias[-1] = value
    return saved(embed__bias=bias)


def edited(name: str, field: str, value: Any) -> bytes:
    head = header()
    head[name][field] = value
    return craft(head)


def offsets(value: str) -> bytes:
    """The offsets of ``embed.bias``, which are [0, 8] or the like, replaced by JSON text."""
    head = header()
    head["embed.bias"]["data_offsets"] = "HERE"
    return craft(json.dumps(head).replace('"HERE"', value))


def moved(by: int, name: str = "embed.bias") -> bytes:
    begin, end = header()[name]["data_offsets"]
    return edited(name, "data_offsets", [begin + by, end + by])


def metadata(**changes: str | None) -> dict[str, str]:
    return {key: value for key, value in {**header()["__metadata__"], **changes}.items() if value is not None}


def hole() -> bytes:
    """Four bytes that belong to no tensor, in the middle of the data."""
    head, at = header(), header()["embed.bias"]["data_offsets"][0]
    for name, entry in head.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= at:
            entry["data_offsets"] = [edge + 4 for edge in entry["data_offsets"]]
    data = VALID[START:]
    return craft(head, data[:at] + b"hide" + data[at:])


def overlapping() -> bytes:
    """Two tensors of one size over the same bytes, and the file shortened to fit."""
    head = header()
    begin, end = head["attention_U.weight"]["data_offsets"]
    head["attention_V.weight"]["data_offsets"] = [begin, end]
    return craft(head, VALID[START : -(end - begin)])


def empty_span() -> bytes:
    """One tensor claims no bytes, and its neighbour those of both."""
    head = header()
    first, second = sorted((k for k in head if k != "__metadata__"), key=lambda k: head[k]["data_offsets"])[:2]
    begin, end = head[first]["data_offsets"]
    head[first]["data_offsets"] = [begin, begin]
    head[second]["data_offsets"] = [begin, head[second]["data_offsets"][1]]
    assert end > begin
    return craft(head)


def doubled(inside: str) -> bytes:
    """JSON in which the key ``inside`` stands twice."""
    text = json.dumps(header())
    key = json.dumps(inside) + ": "
    at = text.index(key)
    value, _ = json.JSONDecoder().raw_decode(text[at + len(key) :])
    return craft(text[:at] + key + json.dumps(value) + ", " + text[at:])


OTHER = Architecture(width=4, embed=2, attention=4, n_bins=2)
ALIEN = TaskVector.between(untrained_model(OTHER, 1), untrained_model(OTHER, 0))
ENTRY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}

Attack = tuple[Callable[[], bytes], type[VectorError], str]

ATTACKS: dict[str, Attack] = {
    # values
    "NaN": (lambda: with_value(float("nan")), VectorFileError, "tensor embed.bias: holds NaN or Inf"),
    "Inf": (lambda: with_value(float("inf")), VectorFileError, "holds NaN or Inf"),
    "minus Inf": (lambda: with_value(float("-inf")), VectorFileError, "holds NaN or Inf"),
    "norm above the cap": (lambda: write_vector(1e4 * VECTOR), VectorFileError, "is above the cap 250"),
    "norm that overflows float32": (lambda: with_value(3e38), VectorFileError, "is above the cap 250"),
    # tensors
    "extra tensor": (lambda: saved(extra=torch.zeros(1)), VectorFileError, "tensor 'extra': unexpected"),
    "extra empty tensor": (lambda: craft({**header(), "e": ENTRY}), VectorFileError, "tensor 'e': unexpected"),
    "the head": (lambda: saved(head__bias=torch.zeros(2)), VectorFileError, "tensor 'head.bias': unexpected"),
    "missing tensor": (lambda: saved(embed__bias=None), VectorFileError, "tensor 'embed.bias': missing"),
    "no tensor": (lambda: craft({"__metadata__": metadata()}, b""), VectorFileError, "missing tensor"),
    "renamed tensor": (
        lambda: saved(embed__bias=None, embed__bia=torch.zeros(2)),
        VectorFileError,
        "tensor 'embed.bia': unexpected",
    ),
    "F16": (lambda: saved(embed__bias=torch.zeros(2).half()), VectorFileError, "tensor embed.bias: must be F32 [2]"),
    "F64": (lambda: saved(embed__bias=torch.zeros(2).double()), VectorFileError, "must be F32"),
    "I32": (lambda: saved(embed__bias=torch.zeros(2).int()), VectorFileError, "must be F32"),
    "dtype that does not exist": (lambda: edited("embed.bias", "dtype", "F31"), VectorFileError, "must be F32"),
    "dtype of another type": (lambda: edited("embed.bias", "dtype", ["F32"]), VectorFileError, "must be F32"),
    "wrong shape": (lambda: saved(embed__bias=torch.zeros(3)), VectorFileError, "must be F32 [2]"),
    "transposed shape": (lambda: edited("embed.weight", "shape", [3, 2]), VectorFileError, "must be F32 [2, 3]"),
    "one more dimension": (lambda: edited("embed.weight", "shape", [1, 2, 3]), VectorFileError, "must be F32 [2, 3]"),
    "shape of floats": (lambda: edited("embed.weight", "shape", [2.0, 3.0]), VectorFileError, "cannot load"),
    "shape of booleans": (lambda: edited("attention_c.bias", "shape", [True]), VectorFileError, "cannot load"),
    "shape is null": (lambda: edited("embed.weight", "shape", None), VectorFileError, "must be F32"),
    "entry with a further key": (lambda: edited("embed.bias", "note", "P001"), VectorFileError, "malformed"),
    "entry is a list": (lambda: craft({**header(), "embed.bias": []}), VectorFileError, "missing tensor"),
    # offsets
    "overlapping offsets": (overlapping, VectorFileError, "do not fill the file exactly"),
    "hole between tensors": (hole, VectorFileError, "do not fill the file exactly"),
    "empty span": (empty_span, VectorFileError, "cannot load"),
    "moved span": (lambda: moved(4), VectorFileError, "do not fill the file exactly"),
    "negative offsets": (lambda: offsets("[-8, 0]"), VectorFileError, "do not fill"),
    "reversed offsets": (lambda: offsets("[8, 0]"), VectorFileError, "do not fill"),
    "offsets beyond the file": (lambda: offsets("[0, 99999]"), VectorFileError, "do not fill"),
    "offsets beyond 64 bits": (lambda: offsets(f"[0, {2**64}]"), VectorFileError, "do not fill"),
    "offsets of 5000 digits": (lambda: offsets(f"[0, {'9' * 5000}]"), VectorFileError, "not JSON with unique keys"),
    "float offsets": (
        lambda: offsets(str([float(edge) for edge in header()["embed.bias"]["data_offsets"]])),
        VectorFileError,
        "cannot load",
    ),
    "string offsets": (
        lambda: offsets(json.dumps([str(edge) for edge in header()["embed.bias"]["data_offsets"]])),
        VectorFileError,
        "cannot load",
    ),
    "boolean offsets": (lambda: offsets("[false, true]"), VectorFileError, "do not fill"),
    "infinite offsets": (lambda: offsets("[0, Infinity]"), VectorFileError, "offsets are malformed"),
    "offsets that overflow a float": (lambda: offsets("[1e999, 1e999]"), VectorFileError, "offsets are malformed"),
    "NaN offsets": (lambda: offsets("[NaN, 8]"), VectorFileError, "offsets are malformed"),
    "null offsets": (lambda: offsets("null"), VectorFileError, "offsets are malformed"),
    "three offsets": (lambda: offsets("[0, 4, 8]"), VectorFileError, "offsets are malformed"),
    "nested offsets": (lambda: offsets("[[0], [8]]"), VectorFileError, "offsets are malformed"),
    "offsets are text": (lambda: offsets('"no"'), VectorFileError, "offsets are malformed"),
    "offsets are an object": (lambda: offsets('{"a": 0, "b": 8}'), VectorFileError, "offsets are malformed"),
    # metadata
    "no metadata": (lambda: safetensors.torch.save(dict(VECTOR.tensors)), VectorFileError, f"not a {FORMAT} file"),
    "empty metadata": (lambda: saved({}), VectorFileError, f"not a {FORMAT} file"),
    "metadata is a list": (lambda: craft({**header(), "__metadata__": ["x"]}), VectorFileError, f"not a {FORMAT}"),
    "metadata without M0": (lambda: saved(metadata(m0=None)), VectorFileError, "keys are not architecture, format, m0"),
    "extra metadata": (lambda: saved(metadata(site="P001")), VectorFileError, "metadata keys are not"),
    "other format": (lambda: saved(metadata(format="fedsteph/vector/v2")), VectorFileError, f"not a {FORMAT} file"),
    "huge metadata": (lambda: saved(metadata(note="x" * 10_000)), VectorFileError, "header is too long"),
    "other M0": (lambda: saved(metadata(m0="0" * 64)), VectorMismatchError, "is of another M0"),
    "M0 is null": (
        lambda: craft({**header(), "__metadata__": {**metadata(), "m0": None}}),
        VectorMismatchError,
        "is of another M0",
    ),
    "other architecture": (lambda: write_vector(ALIEN), VectorMismatchError, "is of another architecture"),
    "other architecture in disguise": (
        lambda: safetensors.torch.save(dict(ALIEN.tensors), metadata()),
        VectorFileError,
        "must be F32 [2, 3]",
    ),
    # the header as such
    "empty": (lambda: b"", VectorFileError, "truncated"),
    "length alone": (lambda: VALID[:8], VectorFileError, "truncated"),
    "header of no bytes": (lambda: bytes(8) + VALID, VectorFileError, "not JSON"),
    "length beyond the file": (lambda: (4096).to_bytes(8, "little") + VALID[8:], VectorFileError, "truncated"),
    "length of 2^64 - 1": (lambda: b"\xff" * 8 + VALID[8:], VectorFileError, "truncated"),
    "huge header": (lambda: craft(json.dumps(header()) + " " * 8192), VectorFileError, "header is too long"),
    "trailing byte": (lambda: VALID + b"\0", VectorFileError, "do not fill the file exactly"),
    "hidden payload": (lambda: VALID + b"P001" * 99, VectorFileError, "do not fill the file exactly"),
    "duplicate tensor": (lambda: doubled("embed.bias"), VectorFileError, "unique keys"),
    "duplicate metadata section": (lambda: doubled("__metadata__"), VectorFileError, "unique keys"),
    "duplicate metadata key": (lambda: doubled("m0"), VectorFileError, "unique keys"),
    "duplicate dtype": (lambda: doubled("dtype"), VectorFileError, "unique keys"),
    "not UTF-8": (lambda: craft(b'{"\xff": 1}'), VectorFileError, "not JSON"),
    "byte order mark": (lambda: craft("\ufeff" + json.dumps(header())), VectorFileError, "not JSON"),
    "lone surrogate": (lambda: craft('{"\\ud800": {}, ' + json.dumps(header())[1:]), VectorFileError, "unexpected"),
    "header is a list": (lambda: craft([header()]), VectorFileError, "not a JSON object"),
    "header is text": (lambda: craft('"x"'), VectorFileError, "not a JSON object"),
    "header is NaN": (lambda: craft("NaN"), VectorFileError, "not a JSON object"),
    "nested too deep": (lambda: craft("[" * 8000), VectorFileError, "not JSON"),
    "objects nested too deep": (lambda: craft('{"a":' * 1600), VectorFileError, "not JSON"),
    "a pickle": (lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR." * 9, VectorFileError, "truncated"),
}


@each("name", ATTACKS)
def test_an_attack_ends_in_a_typed_error_that_names_its_origin(name: str) -> None:
    build, error, fragment = ATTACKS[name]
    with pytest.raises(VectorError) as caught:
        read(build())
    assert type(caught.value) is error and str(caught.value).startswith(WHERE) and fragment in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_untouched_parts_of_an_attack_are_valid() -> None:
    """So that no attack above fails for a reason of its own making."""
    assert torch.equal(read(craft(header())).flat(), VECTOR.flat()) and torch.equal(read(saved()).flat(), VECTOR.flat())
    assert torch.equal(read(offsets(str(header()["embed.bias"]["data_offsets"]))).flat(), VECTOR.flat())
    assert torch.equal(read(moved(0)).flat(), VECTOR.flat())
    assert torch.equal(read(with_value(0.5)).tensors["embed.bias"][-1], torch.tensor(0.5))


def test_round_trip_is_exact() -> None:
    extremes = torch.tensor([-0.0, 1e-45])
    vector = TaskVector(SMALL, M0_SHA256, {**VECTOR.tensors, "embed.bias": extremes})
    found = read(write_vector(vector))
    assert (found.architecture, found.m0_sha256) == (SMALL, M0_SHA256) and found.tensors.keys() == vector.tensors.keys()
    for name, tensor in found.tensors.items():
        assert tensor.dtype == torch.float32 and tensor.numpy().tobytes() == vector.tensors[name].numpy().tobytes()


DTYPES: dict[Dtype, tuple[torch.dtype, str, int]] = {
    "float32": (torch.float32, "F32", 4),
    "float16": (torch.float16, "F16", 2),
    "bfloat16": (torch.bfloat16, "BF16", 2),
}


def holding(*values: float) -> TaskVector:
    bias = torch.zeros(4)
    bias[: len(values)] = torch.tensor(values)
    return TaskVector(SMALL, M0_SHA256, {**VECTOR.tensors, "attention_V.bias": bias})


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def with_dtypes(**names: Dtype) -> bytes:
    """The valid tensors in these dtypes, as safetensors itself writes them; float32 where nothing is said."""
    tensors = {
        name: tensor.to(DTYPES[names.get(name.replace(".", "__"), "float32")][0])
        for name, tensor in VECTOR.tensors.items()
    }
    return safetensors.torch.save(tensors, metadata())


@each("dtype", DTYPES)
def test_a_file_gives_back_what_was_rounded_once(dtype: Dtype) -> None:
    """In float32, and the file holds as many bytes per number as the dtype takes, under the dtype's name."""
    cast, stored, size = DTYPES[dtype]
    content = file_in(VECTOR, dtype)
    found = read(content, dtype=dtype)
    for name, tensor in found.tensors.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, VECTOR.tensors[name].to(cast).to(torch.float32))
    head, data = parts(content)
    assert head["__metadata__"] == header()["__metadata__"]
    assert {entry["dtype"] for name, entry in head.items() if name != "__metadata__"} == {stored}
    assert len(data) == size * len(VECTOR.flat()) and parts(file_in(found, dtype)) == (head, data)


BITS: list[tuple[Dtype, float, int]] = [
    ("float32", 1.0, 0x3F800000),
    ("float32", 0.1, 0x3DCCCCCD),
    # float16: sign, 5 bits of exponent (bias 15), 10 of fraction
    ("float16", 1.0, 0x3C00),
    ("float16", -2.0, 0xC000),
    ("float16", -0.0, 0x8000),
    ("float16", 0.1, 0x2E66),
    ("float16", 1 + 2**-11, 0x3C00),  # half-way: the even one below ..
    ("float16", 1 + 3 * 2**-11, 0x3C02),  # .. and the even one above
    ("float16", 2**-24, 0x0001),  # the smallest
    ("float16", 2**-25, 0x0000),
    ("float16", 65504.0, 0x7BFF),  # the largest
    # bfloat16: sign, 8 bits of exponent (bias 127), 7 of fraction
    ("bfloat16", 1.0, 0x3F80),
    ("bfloat16", -2.0, 0xC000),
    ("bfloat16", -0.0, 0x8000),
    ("bfloat16", 0.1, 0x3DCD),
    ("bfloat16", 1 + 2**-8, 0x3F80),
    ("bfloat16", 1 + 3 * 2**-8, 0x3F82),
    ("bfloat16", 2**-25, 0x3300),
    ("bfloat16", 65504.0, 0x4780),
]


@each(("dtype", "value", "bits"), BITS)
def test_the_bytes_of_a_number_worked_out_by_hand(dtype: Dtype, value: float, bits: int) -> None:
    content = file_in(holding(0.0, value), dtype)
    head, data = parts(content)
    begin, end = head["attention_V.bias"]["data_offsets"]
    size = DTYPES[dtype][2]
    assert data[begin:end] == bytes(size) + bits.to_bytes(size, "little") + bytes(2 * size)
    found = read(content, max_norm=1e9, dtype=dtype).tensors["attention_V.bias"][1]
    assert found == torch.tensor(value).to(DTYPES[dtype][0]).float()


@each("written", DTYPES)
@each("expected", DTYPES)
def test_a_reader_takes_the_dtype_that_it_is_told_and_no_other(written: Dtype, expected: Dtype) -> None:
    content = file_in(VECTOR, written)
    if written == expected:
        assert torch.equal(read(content, dtype=expected).flat(), rounded(written).flat())
        return
    with pytest.raises(VectorFileError, match=f"{WHERE}, tensor .*: must be {DTYPES[expected][1]} "):
        read(content, dtype=expected)


@each("expected", DTYPES)
def test_one_tensor_of_another_dtype_is_refused(expected: Dtype) -> None:
    for odd in DTYPES.keys() - {expected}:
        names = {name.replace(".", "__"): expected for name in VECTOR.tensors} | {"embed__bias": odd}
        with pytest.raises(VectorFileError, match=f"tensor embed.bias: must be {DTYPES[expected][1]} "):
            read(with_dtypes(**names), dtype=expected)


@each("expected", DTYPES)
@each("written", DTYPES)
def test_a_file_whose_bytes_do_not_fit_the_dtype_that_it_claims_is_refused(written: Dtype, expected: Dtype) -> None:
    head, data = parts(file_in(VECTOR, written))
    for name, entry in head.items():
        if name != "__metadata__":
            entry["dtype"] = DTYPES[expected][1]
    if DTYPES[written][2] != DTYPES[expected][2]:
        with pytest.raises(VectorFileError, match="do not fill the file exactly"):
            read(craft(head, data), dtype=expected)
    else:  # two bytes are two bytes: other numbers, and no more than that
        assert (written == expected) == torch.equal(
            read(craft(head, data), 1e40, expected).flat(), rounded(written).flat()
        )


@each("dtype", ["float16", "bfloat16"])
def test_values_and_norm_are_screened_in_every_dtype(dtype: Dtype) -> None:
    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(VectorFileError, match=r"tensor attention_V.bias: holds NaN or Inf"):
            read(file_in(holding(value), dtype), dtype=dtype)
    norm = rounded(dtype).norm
    assert read(file_in(VECTOR, dtype), norm, dtype).norm == norm
    with pytest.raises(VectorFileError, match="above the cap"):
        read(file_in(VECTOR, dtype), norm * (1 - 1e-9), dtype)
    # 4 times 65504 in float16 is infinite; the norm is not taken there.
    with pytest.raises(VectorFileError, match=r"its norm 1\.31.* is above the cap"):
        read(file_in(holding(65504, 65504, 65504, 65504), dtype), dtype=dtype)
    with pytest.raises(VectorFileError, match="unique keys"):
        head, data = parts(file_in(VECTOR, dtype))
        read(craft(json.dumps(head).replace('"shape"', '"dtype": "F32", "shape"', 1), data), dtype=dtype)
    for content in (file_in(VECTOR, dtype)[:-1], file_in(VECTOR, dtype) + b"\0"):
        with pytest.raises(VectorFileError, match="do not fill the file exactly"):
            read(content, dtype=dtype)


def test_what_overflows_is_an_error_at_the_sender_and_never_a_file() -> None:
    with pytest.raises(VectorRangeError, match=r"tensor attention_V.bias: holds 7e\+04.* float16.* bfloat16"):
        file_in(holding(7e4), "float16")
    assert read(file_in(holding(7e4), "bfloat16"), 1e9, "bfloat16").tensors["attention_V.bias"][0] == 70144


def test_the_file_says_nothing_but_its_three_keys() -> None:
    assert header()["__metadata__"] == {"format": FORMAT, "architecture": SMALL.digest, "m0": M0_SHA256}
    assert header().keys() - {"__metadata__"} == SMALL.encoder_shapes.keys()
    assert len(VALID) - START == 4 * len(VECTOR.flat())


def test_the_cap_is_the_largest_norm_accepted() -> None:
    assert read(VALID, max_norm=VECTOR.norm).norm == VECTOR.norm
    for cap in (VECTOR.norm * (1 - 1e-9), float("nan")):
        with pytest.raises(VectorFileError, match="above the cap"):
            read(VALID, max_norm=cap)


@each("region", [range(START), range(START, len(VALID))])
def test_every_truncation_is_refused(region: range) -> None:
    for length in region:
        with pytest.raises(VectorFileError, match=WHERE):
            read(VALID[:length])


def accepted(content: bytes) -> TaskVector | None:
    """What is read, None where it is refused; anything but a VectorError fails the test."""
    try:
        return read(content)
    except VectorError as error:
        assert str(error).startswith(WHERE)
        return None


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content: bytes) -> None:
    assert accepted(content) is None


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_random_headers_are_refused(head: bytes, data: bytes) -> None:
    assert accepted(craft(head, data)) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["dtype", "shape", "data_offsets", None]),
)
def test_any_json_in_the_place_of_an_entry_is_refused(value: Any, field: str | None) -> None:
    """Unless it is by chance what belongs there."""
    head = header()
    if field is None:
        head["embed.bias"] = value
    else:
        head["embed.bias"][field] = value
    found = accepted(craft(head))
    assert found is None or head == header()


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_one_changed_byte_is_refused_or_changes_one_value(position: int, byte: int) -> None:
    """A change in the header is refused (white space may change); one in the data may be another number."""
    found = accepted(VALID[:position] + bytes([byte]) + VALID[position + 1 :])
    if found is not None:
        changed = int((found.flat() != VECTOR.flat()).sum())
        assert changed <= (position >= START)


@each("bit", [0x01, 0x20, 0x80])
def test_every_flipped_bit_of_the_header_is_refused(bit: int) -> None:
    """The padding's spaces apart, where 0x20 ^ 0x20 is no JSON either."""
    for position in range(START):
        flipped = bytearray(VALID)
        flipped[position] ^= bit
        assert accepted(bytes(flipped)) is None, position


RANK_1 = SharingConfig(rank=1)  # of (2, 3) and (4, 2): 5 numbers for 6, and 6 for 8
FACTORED = write_vector(VECTOR, RANK_1)
FACTORS = safetensors.torch.load(FACTORED)
PARTS = [
    SharingConfig(dtype, layers=layers, rank=rank)
    for dtype in DTYPES
    for layers in get_args(get_type_hints(SharingConfig)["layers"])
    for rank in (None, 1)
]


def factored(name: str, *value: float) -> bytes:
    """The valid factors but for the first numbers of one tensor."""
    tensor = FACTORS[name].clone()
    tensor.view(-1)[: len(value)] = torch.tensor(value)
    return safetensors.torch.save({**FACTORS, name: tensor}, metadata())


def only(**changes: torch.Tensor | None) -> bytes:
    changed = {**FACTORS, **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    return safetensors.torch.save({n: t for n, t in changed.items() if t is not None}, metadata())


@each("sharing", PARTS)
def test_a_part_comes_back_to_the_last_bit_and_is_read_as_no_other_part(sharing: SharingConfig) -> None:
    content = write_vector(VECTOR, sharing)
    found = read_as(sharing, content)
    assert torch.equal(found.flat(), restored(reduced(VECTOR, sharing), SMALL, M0_SHA256, sharing).flat())
    assert parts(write_vector(VECTOR, sharing)) == parts(content)
    for other in PARTS:
        if other != sharing:
            with pytest.raises(VectorFileError, match=rf"^{WHERE}, tensor "):
                read_as(other, content)


@each("sharing", [WHOLE, RANK_1])
def test_one_vector_makes_one_file_and_it_is_one_that_safetensors_could_have_written(sharing: SharingConfig) -> None:
    """Which of six it writes, one for each order of the metadata's keys, is chance."""
    (content,) = {write_vector(VECTOR, sharing) for _ in range(30)}
    tensors = reduced(VECTOR, sharing)
    assert content in {safetensors.torch.save(tensors, metadata()) for _ in range(300)}


def test_the_restored_product_is_numpy_s() -> None:
    found = read_as(RANK_1, FACTORED)
    for name in ("embed.weight", "attention_V.weight", "attention_U.weight"):
        left, right = (FACTORS[f"{name}.{side}"].double().numpy() for side in ("left", "right"))
        assert found.tensors[name].numpy().tobytes() == (left @ right).astype("<f4").tobytes()


PART_ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "one factor": (lambda: only(embed__weight__right=None), "tensor 'embed.weight.right': missing"),
    "no factor": (lambda: only(embed__weight__right=None, embed__weight__left=None), "left': missing"),
    "the matrix too": (lambda: only(embed__weight=VECTOR.tensors["embed.weight"]), "'embed.weight': unexpected"),
    "the matrix instead": (
        lambda: only(embed__weight=VECTOR.tensors["embed.weight"], embed__weight__left=None, embed__weight__right=None),
        "tensor 'embed.weight': unexpected",
    ),
    "a bias in factors": (lambda: only(embed__bias__left=torch.zeros(2, 1)), "'embed.bias.left': unexpected"),
    "a third factor": (lambda: only(embed__weight__middle=torch.zeros(1, 1)), "middle': unexpected"),
    "another rank": (
        lambda: only(embed__weight__left=torch.zeros(2, 2), embed__weight__right=torch.zeros(2, 3)),
        "tensor embed.weight.left: must be F32 [2, 1]",
    ),
    "ranks that do not meet": (
        lambda: only(embed__weight__right=torch.zeros(2, 3)),
        "tensor embed.weight.right: must be F32 [1, 3]",
    ),
    "rank 0": (lambda: only(embed__weight__left=torch.zeros(2, 0)), "must be F32 [2, 1]"),
    "a transposed factor": (
        lambda: only(embed__weight__left=torch.zeros(1, 2)),
        "tensor embed.weight.left: must be F32 [2, 1]",
    ),
    "a factor of half the bytes": (
        lambda: only(embed__weight__left=FACTORS["embed.weight.left"].half()),
        "tensor embed.weight.left: must be F32",
    ),
    "NaN in a factor": (lambda: factored("embed.weight.left", float("nan")), "embed.weight: holds NaN or Inf"),
    "infinity in a factor": (
        lambda: factored("attention_U.weight.right", float("inf")),
        "attention_U.weight: holds NaN or Inf",
    ),
    "infinity times nothing": (
        lambda: only(
            embed__weight__left=torch.tensor([[0.0], [0.0]]),
            embed__weight__right=torch.tensor([[1.0, 1.0, -torch.inf]]),
        ),
        "tensor embed.weight: holds NaN or Inf",
    ),
    "finite factors of an infinite product": (
        lambda: only(embed__weight__left=torch.full((2, 1), 1e20), embed__weight__right=torch.full((1, 3), -1e20)),
        "tensor embed.weight: holds NaN or Inf",
    ),
    "small factors of a product above the cap": (
        lambda: only(embed__weight__left=torch.full((2, 1), 20.0), embed__weight__right=torch.full((1, 3), 20.0)),
        "its norm 979.",
    ),
    "NaN in a bias": (lambda: factored("embed.bias", float("nan")), "tensor embed.bias: holds NaN or Inf"),
    "a trailing byte": (lambda: FACTORED + b"\0", "do not fill the file exactly"),
    "other M0": (lambda: safetensors.torch.save(FACTORS, metadata(m0="0" * 64)), "is of another M0"),
}


@each("name", PART_ATTACKS)
def test_an_attack_by_factors_ends_in_a_typed_error_whatever_the_cap(name: str) -> None:
    build, fragment = PART_ATTACKS[name]
    for cap in (250.0, float("inf")):
        if cap == 250 or "norm" not in fragment:
            with pytest.raises(VectorError) as caught:
                read_as(RANK_1, build(), cap)
            assert str(caught.value).startswith(WHERE) and fragment in str(caught.value)


def test_the_untouched_factors_of_an_attack_are_valid() -> None:
    expected = read_as(RANK_1, FACTORED).flat()
    assert torch.equal(read_as(RANK_1, only()).flat(), expected)
    assert torch.equal(read_as(RANK_1, factored("embed.bias")).flat(), expected)


def test_a_layer_that_stays_at_home_is_refused_where_it_comes() -> None:
    attention = SharingConfig(layers="attention")
    for name in ("embed.weight", "embed.bias"):
        own = {n: t for n, t in VECTOR.tensors.items() if n.startswith("attention") or n == name}
        with pytest.raises(VectorFileError, match=f"tensor '{name}': unexpected"):
            read_as(attention, safetensors.torch.save(own, metadata()))
    with pytest.raises(VectorFileError, match=r"tensor 'attention_U\.bias': missing"):
        read_as(attention, write_vector(VECTOR, SharingConfig(layers="embed")))


def test_the_cap_is_for_the_norm_of_the_restored_vector() -> None:
    norm = read_as(RANK_1, FACTORED).norm
    assert read_as(RANK_1, FACTORED, norm).norm == norm
    with pytest.raises(VectorFileError, match="above the cap"):
        read_as(RANK_1, FACTORED, norm * (1 - 1e-9))


def test_every_truncation_of_a_part_is_refused() -> None:
    for length in range(len(FACTORED)):
        with pytest.raises(VectorFileError, match=WHERE):
            read_as(RANK_1, FACTORED[:length])


@given(st.integers(0, len(FACTORED) - 1), st.integers(0, 255))
def test_one_changed_byte_of_a_part_changes_numbers_or_is_refused(position: int, byte: int) -> None:
    """In the header it is refused; a factor's number changes a row or a column of its matrix and nothing else."""
    try:
        found = read_as(RANK_1, FACTORED[:position] + bytes([byte]) + FACTORED[position + 1 :])
    except VectorError as error:
        assert str(error).startswith(WHERE)
        return
    exact, start = read_as(RANK_1, FACTORED), 8 + int.from_bytes(FACTORED[:8], "little")
    changed = {name: int((tensor != exact.tensors[name]).sum()) for name, tensor in found.tensors.items()}
    assert sum(changed.values()) == max(changed.values()) <= 4 * (position >= start)


def test_a_head_travels_exactly_rounded_to_the_dtype_alone_and_only_where_it_is_expected() -> None:
    vector = TaskVector.between(untrained_model(SMALL, 1), M0, head=True)
    origin = {"architecture": SMALL, "m0_sha256": M0_SHA256, "max_norm": 250.0, "where": WHERE}
    assert vector.head is not None
    for config in (
        WHOLE,
        SharingConfig("bfloat16"),
        SharingConfig("float16", layers="attention", rank=1),
        SharingConfig(rank=1),
    ):
        content = write_vector(vector, config)
        found = read_vector(content, sharing=config, head=True, **origin)
        cast = DTYPES[config.dtype][0]
        assert found.head is not None and torch.equal(found.head, vector.head.to(cast).float())
        assert torch.equal(found.flat(), restored(reduced(VECTOR, config), SMALL, M0_SHA256, config).flat())
        assert write_vector(vector.without_head(), config) == write_vector(VECTOR, config)
        with pytest.raises(VectorFileError, match="holds a head, and none is expected"):
            read_vector(content, sharing=config, **origin)
        with pytest.raises(VectorFileError, match="lacks the head"):
            read_vector(write_vector(VECTOR, config), sharing=config, head=True, **origin)
    length = vector.norm
    with pytest.raises(VectorFileError, match="norm"):  # which counts the head
        read_vector(write_vector(vector), sharing=WHOLE, head=True, **origin | {"max_norm": length * 0.999})


def test_a_forged_head_is_refused() -> None:
    for value, named in ((float("nan"), "NaN or Inf"), (float("inf"), "NaN or Inf"), (1e6, "above the cap")):
        forged = TaskVector(SMALL, M0_SHA256, VECTOR.tensors, torch.tensor([0.0, value]))
        with pytest.raises(VectorFileError, match=named):
            read_vector(
                write_vector(forged),
                architecture=SMALL,
                m0_sha256=M0_SHA256,
                sharing=WHOLE,
                max_norm=250.0,
                where=WHERE,
                head=True,
            )
    marked = saved(metadata(format=WITH_HEAD))  # says that it has one
    stripped = saved(metadata(), **{HEAD.replace(".", "__"): torch.zeros(2)})  # and one that says it has none
    longer = saved(metadata(format=WITH_HEAD), **{HEAD.replace(".", "__"): torch.zeros(3)})
    origin = {"architecture": SMALL, "m0_sha256": M0_SHA256, "sharing": WHOLE, "max_norm": 250.0, "where": WHERE}
    for content, head, named in ((marked, True, "missing"), (stripped, False, "unexpected"), (longer, True, "must be")):
        with pytest.raises(VectorFileError, match=named):
            read_vector(content, head=head, **origin)
