"""A lower bound on epsilon from guesses about independent fair coins (Steinke, Nasr, Jagielski, NeurIPS 2023).

Under ``(epsilon, delta)``-differential privacy, a recipient who knows all other patients' coins guesses one coin right
with probability at most ``q = e^epsilon / (1 + e^epsilon)``, up to delta. So the number of right
ones among r guesses about one model is bounded by r throws of a coin with that q (their theorem 5.2):

    P[right >= v] <= P[Bin(r, q) >= v] + 2 n delta max_i (P[Bin(r, q) >= v - i] - P[Bin(r, q) >= v]) / i.

With delta = 0 the bound is the lower Clopper-Pearson limit of ``right / r``, converted to an epsilon.

Assumptions: a fair, independent coin per patient (:mod:`fedsteph.client.attack.coins`), and guesses about a model that
do not use the other model of its pair. Models of different pairs are references for each other, so their results depend
on each other in an unknown way. Their p-values are combined as twice the median, which is valid under any dependence
(Rueger, Metrika 1978), and the tested numbers of guesses are corrected by Bonferroni.
"""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 0.95
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # shares of the patients, surest guesses first; fixed in advance
_LARGEST = 20.0  # largest epsilon tried: no cohort is large enough to show more
_EXACT = 1e-3


def epsilon_bound(ratios: np.ndarray, members: np.ndarray, delta: float) -> float:
    """The largest epsilon that the guesses rule out with 95% confidence; 0 if they rule out none.

    Args:
        ratios: ``(n_models, n_patients)`` log-likelihood ratios; the sign is the guess, the size its certainty.
        members: ``(n_models, n_patients)`` bool, the coins; ``n_models`` is even.
        delta: of the guarantee, per patient.
    """
    n = ratios.shape[1]
    witnesses = [_witness(ratios, members, share) for share in _SHARES]

    def ruled_out(epsilon: float) -> bool:
        joined = [2 * p_value(right, guesses, n, epsilon, delta) for right, guesses in witnesses]
        return len(joined) * min(joined) <= 1 - CONFIDENCE

    low, high = 0.0, _LARGEST
    if not ruled_out(low):
        return 0.0
    while high - low > _EXACT:
        middle = (low + high) / 2
        low, high = (middle, high) if ruled_out(middle) else (low, middle)
    return low


def p_value(right: int, guesses: int, n: int, epsilon: float, delta: float) -> float:
    """Upper bound on the probability of so many right guesses about n coins under ``(epsilon, delta)``."""
    tail = _tails(guesses, 1 / (1 + math.exp(-epsilon)))
    reached = float(tail[right])
    if delta == 0 or right == 0:
        return min(1.0, reached)
    steps = np.arange(1, right + 1)
    worst = float(((tail[right - steps] - reached) / steps).max())
    return min(1.0, reached + 2 * n * delta * worst)


def _witness(ratios: np.ndarray, members: np.ndarray, share: float) -> tuple[int, int]:
    """Right guesses of the model with the median p-value among the surest ``share``, and the number of guesses.

    More right guesses give a smaller p-value: the k-th smallest belongs to the model with the k-th most right guesses.
    """
    guesses = max(1, round(share * ratios.shape[1]))
    surest = np.argsort(-np.abs(ratios), axis=1, kind="stable")[:, :guesses]
    right = np.take_along_axis((ratios > 0) == members, surest, axis=1).sum(axis=1)
    return int(np.sort(right)[::-1][len(right) // 2 - 1]), guesses


def _tails(n: int, q: float) -> np.ndarray:
    """``P[Bin(n, q) >= k]`` for k = 0 .. n."""
    k = np.arange(n + 1)
    log_factorial = np.append(0.0, np.cumsum(np.log(k[1:])))
    log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    mass = np.exp(log_choose + k * math.log(q) + (n - k) * math.log1p(-q))
    tails: np.ndarray = np.minimum(np.cumsum(mass[::-1])[::-1], 1.0)  # summed from the small end for precision
    return tails
