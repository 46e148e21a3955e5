"""``fedsteph measure sealing``: times the writing, sealing, opening and reading of a task vector file.

For comparison: plain HPKE, with fedsteph's hybrid KEM and with X25519 alone, on the file and on 32 bytes.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust.keys import Identity
from fedsteph.common.vector.shared_part import WHOLE
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import read_vector, write_vector
from fedsteph.common.wire.envelope import Context, open_sealed, seal
from fedsteph.simulations.bench.figures import Spread, machine

SCHEMA = "fedsteph/bench-sealing/v1"
_M0 = "0" * 64
_INFO = b"fedsteph bench"
_HYBRID = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_CLASSIC = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def random_vector(architecture: Architecture, m0_sha256: str = _M0, seed: int = 0) -> TaskVector:
    """A task vector of Gaussian noise, with about the norm of a trained one."""
    source = torch.Generator().manual_seed(seed)
    tensors = {name: 1e-3 * torch.randn(shape, generator=source) for name, shape in architecture.encoder_shapes.items()}
    return TaskVector(architecture, m0_sha256, tensors)


def measure(architecture: Architecture, repeats: int) -> dict[str, Any]:
    """Time every step, after one untimed call of each; JSON-ready: machine, bytes, overheads, seconds."""
    found: dict[str, Any] = {"schema": SCHEMA, "machine": machine(), "architecture": architecture.to_dict()}
    vector = random_vector(architecture)
    plain = write_vector(vector)
    context = Context("bench", "0" * 32, "source", "target", _M0, architecture.digest, "0" * 64)
    sender, recipient = Identity.generate(), Identity.generate()
    classic = X25519PrivateKey.generate()
    hybrid_key, classic_key = recipient.public.receiver, classic.public_key()

    envelope = seal(plain, context, 1, sender, recipient.public)
    hybrid, hybrid_short = (_HYBRID.encrypt(text, hybrid_key, info=_INFO) for text in (plain, plain[:32]))
    alone, alone_short = (_CLASSIC.encrypt(text, classic_key, info=_INFO) for text in (plain, plain[:32]))
    signature = sender.signer.sign(plain)

    def read() -> TaskVector:
        return read_vector(
            plain, architecture=architecture, m0_sha256=_M0, sharing=WHOLE, max_norm=250.0, where="bench"
        )

    if open_sealed(envelope, context, recipient, sender.public).plain != plain or read().norm != vector.norm:
        raise AssertionError("what was sealed did not come back")
    steps: dict[str, Callable[[], object]] = {
        "write_vector": lambda: write_vector(vector),
        "seal": lambda: seal(plain, context, 1, sender, recipient.public),
        "open_sealed": lambda: open_sealed(envelope, context, recipient, sender.public),
        "read_vector": read,
        "sign the file (Ed25519)": lambda: sender.signer.sign(plain),
        "verify the file (Ed25519)": lambda: sender.public.verifier.verify(signature, plain),
        "HPKE hybrid: seal": lambda: _HYBRID.encrypt(plain, hybrid_key, info=_INFO),
        "HPKE hybrid: open": lambda: _HYBRID.decrypt(hybrid, recipient.opener, info=_INFO),
        "HPKE X25519: seal": lambda: _CLASSIC.encrypt(plain, classic_key, info=_INFO),
        "HPKE X25519: open": lambda: _CLASSIC.decrypt(alone, classic, info=_INFO),
        "HPKE hybrid, 32 bytes: seal": lambda: _HYBRID.encrypt(plain[:32], hybrid_key, info=_INFO),
        "HPKE hybrid, 32 bytes: open": lambda: _HYBRID.decrypt(hybrid_short, recipient.opener, info=_INFO),
        "HPKE X25519, 32 bytes: seal": lambda: _CLASSIC.encrypt(plain[:32], classic_key, info=_INFO),
        "HPKE X25519, 32 bytes: open": lambda: _CLASSIC.decrypt(alone_short, classic, info=_INFO),
        "make a site's keys": lambda: Identity.generate().public,
        "make an X25519 key": lambda: X25519PrivateKey.generate().public_key(),
    }
    n = len(plain)
    found["bytes"] = {"tensors": 4 * vector.flat().numel(), "vector_file": n, "envelope": len(envelope)}
    forms = {"envelope": envelope, "HPKE hybrid": hybrid, "HPKE X25519": alone}
    found["overhead"] = {
        name: {"bytes": len(form) - n, "per_cent": round(100 * (len(form) - n) / n, 4)} for name, form in forms.items()
    }
    found["seconds"] = {name: asdict(_timed(step, repeats)) for name, step in steps.items()}
    return found


def _timed(step: Callable[[], object], repeats: int) -> Spread:
    step()
    return Spread.of(timeit.repeat(step, number=1, repeat=repeats))
