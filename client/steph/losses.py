"""Computes STEPH's two regularisation losses per bag (paper eq. 6-7)."""

from __future__ import annotations

from torch import Tensor


def aggregation_loss(w: Tensor, kept: Tensor, balance: bool) -> Tensor:
    """``L_agg = (logsumexp_k w_k)^2`` over all sources; ``balance`` adds the mean of the kept w, as in the release.

    ``w (n_bags, n_sources), kept (n_bags, K) -> (n_bags,)``.
    """
    z_loss = w.logsumexp(dim=1).square()
    return z_loss + w.gather(1, kept).mean(dim=1) if balance else z_loss


def mixing_loss(lam: Tensor, kept: Tensor) -> Tensor:
    """``L_mix = sum_{k kept} lam_k^2 / K``, which pushes the mixtures towards the sources.

    ``lam (n_bags, n_sources), kept (n_bags, K) -> (n_bags,)``. With fewer sources than K, all are kept and K is their
    number.
    """
    return lam.gather(1, kept).square().mean(dim=1)
