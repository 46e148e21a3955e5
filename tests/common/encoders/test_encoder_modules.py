"""The encoders against their formulas written out in loops, or against the library's own model."""

from __future__ import annotations

import math

import numpy as np
import torch
from each_case import each
from torch import Tensor
from torchmil.models import DSMIL, TransMIL

from fedsteph.common.encoders.base_kinds import KINDS
from fedsteph.common.encoders.kind import Sizes
from fedsteph.common.encoders.patchgcn import adjacency

SIZES = Sizes(6, 8, 8)
HEADS = 8


def made(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = KINDS[kind].encoder(SIZES, 0.5).double().eval()
    for parameter in encoder.parameters():  # initial norms and biases are trivial
        parameter.data += 0.3 * torch.randn_like(parameter)
    return encoder


def bag(n: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(n).normal(size=(n, SIZES.width)))


def weights(encoder: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in encoder.named_parameters()}


def linear(w: dict, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def norm(w: dict, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Head by head, query by query."""
    d = q.shape[1] // HEADS
    found = np.zeros_like(q)
    for head in (slice(h * d, (h + 1) * d) for h in range(HEADS)):
        for i in range(len(q)):
            found[i, head] = softmax(k[:, head] @ q[i, head] / math.sqrt(d)) @ v[:, head]
    return found


def test_ilra() -> None:
    encoder, x = made("ilra"), bag(7)
    w = weights(encoder)

    def block(name: str, queries: np.ndarray, sequence: np.ndarray) -> np.ndarray:
        q, k, v = (linear(w, f"{name}.{part}", s) for part, s in (("q", queries), ("k", sequence), ("v", sequence)))
        h = norm(w, f"{name}.norm_0", q + attended(q, k, v))
        h = norm(w, f"{name}.norm_1", h + np.maximum(linear(w, f"{name}.out", h), 0))
        if f"{name}.gate.weight" not in w:
            return h
        gate = linear(w, f"{name}.gate", queries)
        return h * gate / (1 + np.exp(-gate))

    h = np.maximum(linear(w, "embed.0", x.numpy()), 0)
    for i in range(2):
        h = block(f"up.{i}", h, block(f"down.{i}", w[f"latent_{i}"][0], h))
    z, scores = encoder(x)
    expected = linear(w, "widen", block("pool", w["query"][0], h))[0]
    np.testing.assert_allclose(z.detach(), expected, rtol=1e-9, atol=1e-11)
    assert scores.shape == (7,) and abs(float(scores.detach().sum()) - 1) < 1e-9


@each("n", [1, 5, 100, 257])
def test_r2t(n: int) -> None:
    encoder, x = made("r2t"), bag(n)
    w = weights(encoder)
    h = np.maximum(linear(w, "embed.0", x.numpy()), 0)
    side = 8 * max(1, math.ceil(math.sqrt(n) / 8))
    square = np.array([h[i % n] for i in range(side * side)]).reshape(side, side, -1)
    s = side // 8
    changed, summaries, shares = np.zeros_like(square), [], []
    for r in range(8):
        for c in range(8):
            region = square[r * s : (r + 1) * s, c * s : (c + 1) * s].reshape(s * s, -1)
            q, k, v = np.split(linear(w, "regions.qkv", norm(w, "regions.norm", region)), 3, axis=1)
            conv = np.zeros_like(v)
            for i in range(len(v)):
                for j in range(15):
                    if 0 <= i + j - 7 < len(v):
                        conv[i] += v[i + j - 7] * w["position.weight"][:, 0, j]
            region = region + linear(w, "regions.out", attended(q, k, v) + conv + w["position.bias"])
            share = softmax((region @ w["gather.weight"].T).T).T  # over the region's instances
            changed[r * s : (r + 1) * s, c * s : (c + 1) * s] = region.reshape(s, s, -1)
            summaries.append(share.T @ region)
            shares.append(share)
    together = np.concatenate(summaries)
    q, k, v = np.split(linear(w, "across.qkv", norm(w, "across.norm", together)), 3, axis=1)
    learned = linear(w, "across.out", attended(q, k, v)).reshape(64, 8, -1)
    for i in range(64):
        r, c = divmod(i, 8)
        changed[r * s : (r + 1) * s, c * s : (c + 1) * s] += (shares[i] @ learned[i]).reshape(s, s, -1)
    h = norm(w, "norm", changed.reshape(side * side, -1)[:n])
    gate = np.tanh(linear(w, "V", h)) / (1 + np.exp(-linear(w, "U", h)))
    attention = softmax(linear(w, "c", gate)[:, 0])
    z, scores = encoder(x)
    np.testing.assert_allclose(z.detach(), attention @ h, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(scores.detach(), attention, rtol=1e-8, atol=1e-12)


def test_patchgcn() -> None:
    encoder, x = made("patchgcn"), bag(9)
    w, near = weights(encoder), np.random.default_rng(1).integers(0, 9, (9, 8))
    h = np.maximum(linear(w, "embed.0", x.numpy()), 0)
    layers = [h]
    for i in range(3):
        mixed = np.array([layers[-1][k] + np.mean([layers[-1][j] for j in near[k]], axis=0) for k in range(9)])
        mixed = np.maximum(norm(w, f"layers.{i}.norm", linear(w, f"layers.{i}.conv.fc.module", mixed)), 0)
        layers.append(mixed + layers[-1])
    h = np.maximum(linear(w, "mix.0", np.concatenate(layers, axis=1)), 0)
    gate = np.tanh(linear(w, "pool.fc1.module", h)) / (1 + np.exp(-linear(w, "pool.fc_gated.module", h)))
    attention = softmax(linear(w, "pool.fc2", gate)[:, 0])
    z, scores = encoder(torch.cat([x, torch.from_numpy(near.astype(np.float64))], dim=1))
    np.testing.assert_allclose(z.detach(), attention @ h, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(scores.detach(), attention, rtol=1e-9)
    dense = adjacency(torch.from_numpy(near), torch.float64).to_dense()[0]
    torch.testing.assert_close(dense.sum(dim=1), torch.ones(9).double())


def test_dsmil() -> None:
    """torchmil's model with its own bag classifier, and the highest score along the learned direction."""
    encoder, x = made("dsmil"), bag(9)
    w = weights(encoder)
    h = np.maximum(linear(w, "model.feat_ext.0", x.numpy()), 0)
    scores = linear(w, "model.inst_classifier", h)[:, 0]
    q = np.tanh(linear(w, "model.q_nn.2", np.maximum(linear(w, "model.q_nn.0", h), 0)))
    attention = softmax(q @ q[np.argmax(scores)] / math.sqrt(q.shape[1]))
    z, found = encoder(x)
    np.testing.assert_allclose(z.detach(), attention @ h + w["critical.weight"][:, 0] * scores.max(), rtol=1e-9)
    np.testing.assert_allclose(found.detach(), attention, rtol=1e-9)
    assert isinstance(encoder.model, DSMIL)


def test_transmil() -> None:
    """What torchmil's classifier would see: with its weights of one entry, it gives that entry of ``z``."""
    encoder, x = made("transmil"), bag(11)
    z, scores = encoder(x)
    assert isinstance(encoder.model, TransMIL) and scores.shape == (0,)
    encoder.model.classifier = torch.nn.Linear(SIZES.embed, 1).double()
    for j in range(SIZES.embed):
        encoder.model.classifier.weight.data.copy_(torch.eye(SIZES.embed)[j : j + 1])
        encoder.model.classifier.bias.data.zero_()
        torch.testing.assert_close(encoder.model(x[None])[0], z[j])
