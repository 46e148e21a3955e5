"""The reference-model attack: is a score more like the patient's scores inside training, or outside? (LiRA, online)

Carlini et al., "Membership inference attacks from first principles", IEEE S&P 2022. A patient's score is taken for
Gaussian with one mean where the patient was in a model's training and another where not; both means are the patient's
own, from the reference models. With eight models on each side a variance of one's own is poorly known, so it is drawn
towards that of all patients.
"""

from __future__ import annotations

import numpy as np

_PRIOR = 4.0  # so many reference models' worth of trust in the variance of all patients


def standardised(scores: np.ndarray) -> np.ndarray:
    """Each model's scores with mean 0 and deviation 1 over the patients, ``(..., n_patients)``.

    Models of training parts of different sizes become comparable; the order of one model's scores stays.
    """
    spread = scores.std(axis=-1, keepdims=True)
    centred: np.ndarray = scores - scores.mean(axis=-1, keepdims=True)
    scaled: np.ndarray = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return scaled


def log_ratio(scores: np.ndarray, references: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """``log p(score | in) - log p(score | out)`` of each patient; higher = rather a member.

    Args:
        scores: of the attacked model, ``(n_patients,)``.
        references: the same score of the reference models, ``(n_references, n_patients)``.
        inside: who is in which of them, likewise; every patient in 2 of them at least, and out of 2.
    """
    mean_in = _mean(references, inside)
    mean_out = _mean(references, ~inside)
    residual = references - np.where(inside, mean_in, mean_out)
    degrees = len(references) - 2  # two means are estimated per patient
    own = (residual**2).sum(axis=0) / degrees
    variance = (_PRIOR * own.mean() + degrees * own) / (_PRIOR + degrees)
    variance = np.maximum(variance, np.finfo(np.float64).tiny)
    ratio: np.ndarray = ((scores - mean_out) ** 2 - (scores - mean_in) ** 2) / (2 * variance)
    return ratio


def each_by_the_others(scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Attack every reference model with the other pairs as its references, ``(n_references, n_patients)``.

    Its own complement is left out: that one's members are this one's non-members, and with it there would be seven
    models on the side that a patient is on and eight on the other.

    Args:
        scores, inside: of the reference models in complementary pairs (:func:`fedsteph.client.attack.coins.halves`).
    """
    models = np.arange(len(scores))
    found = []
    for model in models:
        others = models // 2 != model // 2
        found.append(log_ratio(scores[model], scores[others], inside[others]))
    return np.stack(found)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    mean: np.ndarray = (values * where).sum(axis=0) / where.sum(axis=0)
    return mean
