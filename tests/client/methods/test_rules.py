"""TIES and Iso-C of two vectors against loops over entries and numpy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
from each_case import each
from hypothesis import given, settings
from hypothesis import strategies as st
from method_builders import n_entries, random_vector, row_of, vector_of

from fedsteph.client.methods.rules import iso_c, plain, ties, ties_mean
from fedsteph.common.errors import VectorMismatchError
from fedsteph.common.model.architecture import Architecture

TINY = Architecture(width=4, embed=2, attention=2, n_bins=2)
P = 25
M0 = "0" * 64
WIDE = Architecture(width=7, embed=5, attention=3, n_bins=2)  # matrices with more columns than rows ..
TALL = Architecture(width=3, embed=6, attention=8, n_bins=2)  # .. and with fewer


def tiny(row) -> object:
    return vector_of(TINY, M0, np.asarray(row, dtype=float))


def plain_trim(row: np.ndarray, n_kept: int) -> np.ndarray:
    kept = sorted(range(len(row)), key=lambda i: -abs(row[i]))[:n_kept]
    return np.array([row[i] if i in kept else 0.0 for i in range(len(row))])


def plain_ties(a: np.ndarray, b: np.ndarray, n_kept: int) -> np.ndarray:
    """Trim both, elect each entry's sign by the sum, sum the entries that have that sign."""
    merged = []
    for x, y in zip(plain_trim(a, n_kept), plain_trim(b, n_kept), strict=True):
        elected = np.sign(x + y)
        merged.append(sum(value for value in (x, y) if elected != 0 and np.sign(value) == elected))
    return np.array(merged)


# Each magnitude occurs once in a row, so which ones are the largest is never a matter of taste; whole numbers add
# up exactly, and two rows of the same magnitudes often cancel.
rows = st.tuples(st.permutations(range(1, P + 1)), st.lists(st.sampled_from([-1, 1]), min_size=P, max_size=P)).map(
    lambda drawn: np.array(drawn[0], dtype=float) * np.array(drawn[1])
)


def test_the_entries_are_as_many_as_these_tests_count_on():
    assert n_entries(TINY) == P


@each(
    ("target", "source", "merged"),
    [(3, -2, 3), (2, -3, -3), (-3, 2, -3), (2, 3, 5), (-2, -3, -5), (2, -2, 0), (2, 0, 2), (0, -2, -2), (0, 0, 0)],
)
def test_ties_of_one_entry_by_hand(target, source, merged):
    a, b = np.zeros(P), np.zeros(P)
    a[7], b[7] = target, source
    found = row_of(ties(tiny(a), tiny(b), density=1.0))
    assert found[7] == merged and not np.delete(found, 7).any()


def test_ties_keeps_a_fifth_of_the_whole_flattened_vector():
    """The five largest entries lie in the first tensor, so nothing of any other tensor is left."""
    a = np.array([9.0, -8.0, 7.0, -6.0, 5.0] + [4.0 - i / 10 for i in range(P - 5)])
    found = ties(tiny(a), tiny(np.zeros(P)))
    assert row_of(found)[:5].tolist() == a[:5].tolist() and not row_of(found)[5:].any()


def test_each_vector_is_trimmed_before_a_sign_is_elected():
    """A source's entry that is trimmed has no vote, however large it is beside the target's."""
    a, b = np.zeros(P), np.zeros(P)
    a[0], a[1:6] = 1.0, 0.1
    b[0], b[10:15] = -2.0, 5.0
    assert row_of(ties(tiny(a), tiny(b)))[0] == 1.0


@settings(max_examples=150, deadline=None)
@given(rows, rows, st.sampled_from([1, 5, 12, 25]))
def test_ties_is_its_definition(a, b, n_kept):
    found = row_of(ties(tiny(a), tiny(b), density=n_kept / P))
    assert found.tolist() == plain_ties(a, b, n_kept).tolist()


@settings(max_examples=50, deadline=None)
@given(rows, rows)
def test_the_default_density_is_a_fifth(a, b):
    assert row_of(ties(tiny(a), tiny(b))).tolist() == plain_ties(a, b, 5).tolist()


@settings(max_examples=50, deadline=None)
@given(rows, rows, st.sampled_from([0.25, 2.0, 1024.0]))
def test_ties_follows_sign_scale_and_order(a, b, scale):
    found = row_of(ties(tiny(a), tiny(b)))
    assert row_of(ties(tiny(-a), tiny(-b))).tolist() == (-found).tolist()
    assert row_of(ties(tiny(scale * a), tiny(scale * b))).tolist() == (scale * found).tolist()
    assert row_of(ties(tiny(b), tiny(a))).tolist() == found.tolist()


@settings(max_examples=50, deadline=None)
@given(rows)
def test_ties_with_itself_is_twice_what_is_kept_and_with_its_opposite_nothing(v):
    assert row_of(ties(tiny(v), tiny(v))).tolist() == (2 * plain_trim(v, 5)).tolist()
    assert not row_of(ties(tiny(v), tiny(-v))).any()


def test_with_density_1_nothing_is_trimmed():
    a, b = np.arange(1.0, P + 1), np.arange(P, 0.0, -1)
    assert row_of(ties(tiny(a), tiny(b), density=1.0)).tolist() == (a + b).tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4), st.sampled_from([5, 25]))
def test_the_mean_of_any_number_of_vectors_is_its_definition(drawn, n_kept):
    trimmed = np.array([plain_trim(row, n_kept) for row in drawn])
    elected = np.sign(trimmed.sum(axis=0))
    expected = []
    for sign, values in zip(elected, trimmed.T, strict=True):
        agreeing = [value for value in values if sign != 0 and np.sign(value) == sign]
        expected.append(np.mean(agreeing) if agreeing else 0.0)
    found = row_of(ties_mean([tiny(row) for row in drawn], density=n_kept / P))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_of_equal_magnitudes_at_the_limit_all_are_kept():
    a = np.array([9.0, 8.0, 7.0, 6.0, 5.0, -5.0] + [1.0] * (P - 6))
    assert row_of(ties(tiny(a), tiny(np.zeros(P)))).tolist() == a[:6].tolist() + [0.0] * (P - 6)


@each("architecture", [TINY, WIDE, TALL])
@each("seed", [0, 1])
def test_iso_c_has_equal_singular_values_and_the_sum_s_directions(architecture, seed):
    a, b = random_vector(architecture, M0, 2 * seed), random_vector(architecture, M0, 2 * seed + 1)
    merged = iso_c(a, b)
    for name, shape in architecture.encoder_shapes.items():
        total = a.tensors[name].double().numpy() + b.tensors[name].double().numpy()
        found = merged.tensors[name].double().numpy()
        if len(shape) == 1:
            np.testing.assert_allclose(found, total / 2, atol=1e-6)
            continue
        U, S, Vt = np.linalg.svd(total, full_matrices=False)
        average = sum(S) / len(S)
        np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), np.full(len(S), average), rtol=1e-5)
        np.testing.assert_allclose(found, average * U @ Vt, atol=2e-5)


def test_iso_c_of_a_one_row_matrix_is_the_sum():
    a, b = random_vector(TINY, M0, 0), random_vector(TINY, M0, 1)
    name = "attention_c.weight"
    assert a.tensors[name].shape[0] == 1
    expected = a.tensors[name].numpy() + b.tensors[name].numpy()
    np.testing.assert_allclose(iso_c(a, b).tensors[name].numpy(), expected, rtol=1e-5)


def test_iso_c_of_a_diagonal_by_hand():
    a, b = np.zeros(P), np.zeros(P)
    at = sum(int(np.prod(TINY.encoder_shapes[name])) for name in ("embed.weight", "embed.bias"))
    a[at], b[at + 3] = 3.0, -1.0  # attention_V.weight of the sum is diag(3, -1): its values become 2 and 2
    found = iso_c(tiny(a), tiny(b)).tensors["attention_V.weight"].numpy()
    np.testing.assert_allclose(found, [[2.0, 0.0], [0.0, -2.0]], atol=1e-6)


def test_iso_c_of_opposite_vectors_is_nothing():
    a = random_vector(TINY, M0, 0)
    assert not row_of(iso_c(a, -1.0 * a)).any()


def test_the_plain_rule_gives_the_source_back():
    a, b = random_vector(TINY, M0, 0), random_vector(TINY, M0, 1)
    assert row_of(plain(a, b)).tolist() == row_of(b).tolist()


@each("rule", [plain, ties, iso_c])
@each("stranger", [random_vector(TINY, "1" * 64, 1), random_vector(WIDE, M0, 1)])
def test_vectors_of_another_m0_or_architecture_are_not_merged(rule, stranger):
    with pytest.raises(VectorMismatchError):
        rule(random_vector(TINY, M0, 0), stranger)


@each("rule", [ties, iso_c])
def test_a_rule_changes_neither_vector(rule):
    a, b = random_vector(TINY, M0, 0), random_vector(TINY, M0, 1)
    before = row_of(a).tolist(), row_of(b).tolist()
    merged = rule(a, b)
    assert (row_of(a).tolist(), row_of(b).tolist()) == before and (merged.architecture, merged.m0_sha256) == (TINY, M0)
