"""Reference-model attack (online LiRA): likelihood ratio of a patient's score with and without it in training.

Carlini et al., "Membership inference attacks from first principles", IEEE S&P 2022. Each patient's score is modelled as
Gaussian, with one mean over the reference models trained on this patient, and another over those that were not. With
eight models on each side, a variance per patient is imprecise, so it is shrunk towards that of all patients.
"""

from __future__ import annotations

import numpy as np

_PRIOR = 4.0  # weight of the variance of all patients, in reference models


def standardised(scores: np.ndarray) -> np.ndarray:
    """Each model's scores scaled to mean 0 and standard deviation 1 over the patients, ``(..., n_patients)``.

    This makes models of training parts of different sizes comparable, and keeps the order of each model's scores.
    """
    spread = scores.std(axis=-1, keepdims=True)
    centred: np.ndarray = scores - scores.mean(axis=-1, keepdims=True)
    scaled: np.ndarray = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return scaled


def log_ratio(scores: np.ndarray, references: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """``log p(score | in) - log p(score | out)``, ``(n_patients,)``; higher: more likely a member.

    Args:
        scores: ``(n_patients,)`` under the attacked model.
        references: ``(n_references, n_patients)``, the same score under the reference models.
        inside: ``(n_references, n_patients)`` bool, their members; each patient is in at least 2 and out of at least 2.
    """
    mean_in, mean_out = ((references * side).sum(axis=0) / side.sum(axis=0) for side in (inside, ~inside))
    residual = references - np.where(inside, mean_in, mean_out)
    degrees = len(references) - 2  # two means are estimated per patient
    own = (residual**2).sum(axis=0) / degrees
    variance = (_PRIOR * own.mean() + degrees * own) / (_PRIOR + degrees)
    variance = np.maximum(variance, np.finfo(np.float64).tiny)
    ratio: np.ndarray = ((scores - mean_out) ** 2 - (scores - mean_in) ** 2) / (2 * variance)
    return ratio


def each_by_the_others(scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Attack every reference model with the other pairs as references; log-ratios ``(n_references, n_patients)``.

    A model's complement is left out: its members are this model's non-members, so with it each patient would have seven
    references on its own side and eight on the other. ``scores`` and ``inside`` have the same shape, in the pairs of
    :func:`fedsteph.client.attack.coins.halves`.
    """
    models = np.arange(len(scores))
    others = [models // 2 != model // 2 for model in models]
    return np.stack([log_ratio(own, scores[rest], inside[rest]) for own, rest in zip(scores, others, strict=True)])
