"""The server's averages against plain weighted means, and updates that it refuses to average."""

from __future__ import annotations

import json

import numpy as np
import pytest
from each_case import each
from flwr.serverapp.strategy import FedAvg, FedProx
from flwr.supercore.task_identity import TaskIdentity

from fedsteph.common.config.recipe import ComparatorConfig
from fedsteph.common.errors import VectorMismatchError
from fedsteph.server.aggregation import Update, aggregate, run_rounds, screen, strategy_of

CONFIG = ComparatorConfig(proximal_mu=0.3)
SHAPES = {"a.weight": (3, 2), "b.bias": (5,)}
N = 11  # numbers in a vector


@pytest.fixture(autouse=True)
def a_server_s_process():
    """Flower's messages ask in whose name they are made."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1


def header_of(*, m0="0" * 64, shapes=SHAPES, reverse=False) -> bytes:
    """As a vector file has it; its keys may stand in any order."""
    entries, start = {"__metadata__": {"format": "fedsteph/vector/v1", "m0": m0}}, 0
    for name, shape in shapes.items():
        end = start + 4 * int(np.prod(shape))
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    pairs = list(entries.items())[:: -1 if reverse else 1]
    text = json.dumps(dict(pairs)).encode()
    return len(text).to_bytes(8, "little") + text


def values_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=N).astype("<f4")


def vector(seed: int, **header) -> bytes:
    return header_of(**header) + values_of(seed).tobytes()


def numbers(content: bytes) -> np.ndarray:
    return np.frombuffer(content, "<f4", offset=8 + int.from_bytes(content[:8], "little"))


def two_folds(seed: int, weight: int, **header) -> Update:
    return Update({"0": vector(seed, **header), "1": vector(seed + 100, **header)}, weight)


@each("method", ["fedavg", "fedprox"])
@each("weights", [(10, 10), (10, 30, 70), (20, 20, 20), (10_000_000, 10)])
def test_the_average_is_the_weighted_mean_of_every_fold(method, weights):
    updates = {node: two_folds(node, weight) for node, weight in enumerate(weights, 1)}
    found = aggregate(strategy_of(method, CONFIG), 3, updates)
    assert set(found) == {"0", "1"}
    for fold, offset in (("0", 0), ("1", 100)):
        rows = np.stack([values_of(node + offset).astype(np.float64) for node in updates])
        expected = np.average(rows, axis=0, weights=weights)
        np.testing.assert_allclose(numbers(found[fold]), expected, rtol=1e-5, atol=1e-6)
        assert found[fold].startswith(header_of()) and len(found[fold]) == len(vector(0))


def test_strategies_are_flower_s_own():
    avg, prox = strategy_of("fedavg", CONFIG), strategy_of("fedprox", CONFIG)
    assert type(avg) is FedAvg and type(prox) is FedProx and prox.proximal_mu == 0.3
    assert avg.weighted_by_key == prox.weighted_by_key == "num-examples"


def test_equal_updates_come_back_as_they_were():
    found = aggregate(FedAvg(weighted_by_key="num-examples"), 0, {n: two_folds(7, 10 * n) for n in (1, 2, 3)})
    np.testing.assert_allclose(numbers(found["0"]), values_of(7), rtol=1e-6)


def test_the_order_of_a_header_s_keys_does_not_matter():
    """And what comes out is a whole file again, which says what all of them said."""
    updates = {1: two_folds(1, 10), 2: two_folds(2, 10, reverse=True)}
    assert header_of() != header_of(reverse=True)
    for nodes in ((1, 2), (2, 1)):
        found = aggregate(strategy_of("fedavg", CONFIG), 0, {node: updates[node] for node in nodes})
        for fold, offset in (("0", 0), ("1", 100)):
            expected = (values_of(1 + offset) + values_of(2 + offset)) / 2
            np.testing.assert_allclose(numbers(found[fold]), expected, rtol=1e-5, atol=1e-7)
            end = 8 + int.from_bytes(found[fold][:8], "little")
            assert json.loads(found[fold][8:end]) == json.loads(header_of()[8:])


def test_an_average_is_averaged_again():
    """What a round gives, the next one takes."""
    first = aggregate(strategy_of("fedavg", CONFIG), 0, {1: two_folds(1, 10), 2: two_folds(2, 10)})
    found = aggregate(strategy_of("fedavg", CONFIG), 1, {1: Update(first, 30), 2: two_folds(5, 10)})
    expected = 0.75 * (values_of(1) + values_of(2)) / 2 + 0.25 * values_of(5)
    np.testing.assert_allclose(numbers(found["0"]), expected, rtol=1e-5, atol=1e-6)


def spoilt(value: float) -> bytes:
    values = values_of(1)
    values[4] = value
    return header_of() + values.tobytes()


def claiming(length: int, content: bytes = b"{}") -> bytes:
    return length.to_bytes(8, "little") + content


LONG = header_of(shapes={"a.weight": (3, 2), "b.bias": (6,)})
SPOILT = {
    "NaN": spoilt(float("nan")),
    "infinite": spoilt(float("inf")),
    "minus infinite": spoilt(float("-inf")),
    "another M0": vector(1, m0="1" * 64),
    "other shapes": vector(1, shapes={"a.weight": (2, 3), "b.bias": (5,)}),
    "other names": vector(1, shapes={"a.weight": (3, 2), "c.bias": (5,)}),
    "another tensor": LONG + bytes(4 * 12),
    "nothing": b"",
    "a few bytes": b"\x01\x02\x03",
    "a header alone": header_of(),
    "cut within a number": vector(1)[:-1],
    "cut by a number": vector(1)[:-4],
    "cut to one number": header_of() + bytes(4),
    "cut within the header": vector(1)[:40],
    "a number too many": vector(1) + bytes(4),
    "twice as many numbers": vector(1) + values_of(1).tobytes(),
    "garbage": bytes(range(256)) * 4,
    "a header of 100 MB": claiming(100 << 20, bytes(64)),
    "a header of 2^64 - 1 bytes": claiming(2**64 - 1, bytes(64)),
    "a header of 100 kB that is there": claiming(100_000, b'{"x": "' + b"y" * 99_991 + b'"}') + bytes(4 * N),
    "an empty header": claiming(0, values_of(1).tobytes()),
    "a list for a header": claiming(2, b"[]" + values_of(1).tobytes()),
    "no JSON": claiming(4, b"{{{{" + values_of(1).tobytes()),
    "no UTF-8": claiming(4, b"\xff\xfe\xff\xfe" + values_of(1).tobytes()),
    "deep nesting": claiming(8000, b"[" * 8000 + values_of(1).tobytes()),
}


@each("content", SPOILT.values())
@each("first", [True, False])
def test_an_update_that_does_not_fit_the_others_is_refused(content, first):
    whole = {node: two_folds(node, 10) for node in (2, 3)}
    bad = Update({"0": vector(9), "1": content}, 10)
    with pytest.raises(VectorMismatchError):
        aggregate(strategy_of("fedavg", CONFIG), 4, {1 if first else 9: bad, **whole})


NO_FILE = ["cut within a number", "cut within the header", "garbage", "no JSON", "no UTF-8", "deep nesting", "nothing"]
NO_FILE += [name for name in SPOILT if name.startswith("a header of")]


@each("name", NO_FILE)
def test_what_is_no_vector_file_is_refused_where_all_sites_send_it_too(name):
    content = SPOILT[name]
    with pytest.raises(VectorMismatchError, match="no vector file"):
        aggregate(strategy_of("fedavg", CONFIG), 4, {node: Update({"0": content}, 10) for node in (1, 2)})


@each("folds", [("0",), ("0", "1", "2"), ("0", "2")])
def test_updates_of_different_folds_are_refused(folds):
    other = Update({fold: vector(5) for fold in folds}, 10)
    for node in (0, 9):
        with pytest.raises(VectorMismatchError, match="other folds"):
            aggregate(strategy_of("fedavg", CONFIG), 4, {1: two_folds(1, 10), node: other})


def test_nothing_to_average_is_refused():
    for updates in ({}, {1: two_folds(1, 10)}):  # of one site alone, the average is that site's model
        with pytest.raises(VectorMismatchError, match="not two updates"):
            aggregate(strategy_of("fedprox", CONFIG), 0, updates)


@each("value", [3e38, -3e38])
def test_an_average_of_huge_numbers_is_refused_or_finite(value):
    try:
        found = aggregate(strategy_of("fedavg", CONFIG), 0, {n: Update({"0": spoilt(value)}, 10) for n in (1, 2, 3)})
    except VectorMismatchError:
        return
    assert np.isfinite(numbers(found["0"])).all()


@each("method", ["fedavg", "fedprox"])
@each("rounds", [1, 4])
def test_every_round_goes_out_with_what_the_last_one_gave(method, rounds):
    asked: list[tuple[int, dict[str, bytes]]] = []

    def ask(round_, encoders):
        asked.append((round_, dict(encoders)))
        return {node: two_folds(10 * round_ + node, 10 * node) for node in (1, 2)}

    found = run_rounds(method, ComparatorConfig(rounds=rounds), ask)
    assert [round_ for round_, _ in asked] == list(range(rounds)) and asked[0][1] == {}
    for round_ in range(rounds):
        expected = (values_of(10 * round_ + 1) + 2 * values_of(10 * round_ + 2)) / 3
        after = found if round_ == rounds - 1 else asked[round_ + 1][1]
        np.testing.assert_allclose(numbers(after["0"]), expected, rtol=1e-5, atol=1e-6)


def test_sites_that_drop_out_are_left_out_of_the_average_from_then_on():
    def ask(round_, encoders):
        return {node: two_folds(10 * round_ + node, 10) for node in ((1, 2, 3) if round_ == 0 else (2, 3))}

    found = run_rounds("fedavg", ComparatorConfig(rounds=2), ask)
    np.testing.assert_allclose(numbers(found["0"]), (values_of(12) + values_of(13)) / 2, rtol=1e-6)


def test_a_round_without_any_update_ends_the_rounds():
    asked = []

    def ask(round_, encoders):
        asked.append(round_)
        return {} if round_ == 1 else {node: two_folds(node, 10) for node in (1, 2)}

    with pytest.raises(VectorMismatchError, match="not two updates"):
        run_rounds("fedavg", ComparatorConfig(rounds=5), ask)
    assert asked == [0, 1]


def test_a_spoilt_update_is_laid_to_the_site_that_sent_it():
    """Even where it is the first: what most sites send decides what is right."""
    other = Update({"0": vector(7)}, 10)  # a fold fewer
    not_finite = Update({"0": spoilt(np.nan), "1": vector(1)}, 10)
    for bad, what in ((not_finite, "NaN"), (other, "most are"), (Update({}, 10), "empty")):
        for node in (0, 5, 9):
            updates = {1: two_folds(1, 10), 6: two_folds(6, 10), 8: two_folds(8, 10), node: bad}
            found = screen(updates, float("inf"))
            assert list(found) == [node] and what in found[node]


def test_an_update_above_the_norm_cap_is_refused_at_the_server():
    updates = {node: two_folds(node, 10) for node in (1, 2)}
    norm = max(float(np.linalg.norm(numbers(content))) for u in updates.values() for content in u.vectors.values())
    assert screen(updates, norm * 1.01) == {} and "norm" in next(iter(screen(updates, norm * 0.99).values()))


def test_a_header_that_names_a_key_twice_is_no_vector_file():
    """One reader may take the first and another the last."""
    content = vector(1)
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].decode().rstrip()
    twice = (header[:-1] + ',"b.bias":' + json.dumps(json.loads(header)["b.bias"]) + "}").encode()
    bad = len(twice).to_bytes(8, "little") + twice + content[end:]
    assert "no vector file" in screen({1: Update({"0": bad}, 10), 2: Update({"0": content}, 10)}, float("inf"))[1]
