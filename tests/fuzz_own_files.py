"""Mutants of the files that fedsteph writes: ``python tests/fuzz_own_files.py [MUTANTS] [SEED]``, 20,000 of each kind.

A mutant must be refused by an error of fedsteph's, or be read as what was written. Model files are mutated without
their digest too, as a stranger can write them: these are refused, or loaded and used, and never crash.
"""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "builders")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from client_builders import CPU, SMALL, equal, state_of  # noqa: E402
from damage import mutant  # noqa: E402

from fedsteph.client.models.model_file import LoadedModel, Local, load_model, save_base, save_steph  # noqa: E402
from fedsteph.client.privacy.randomness import Randomness  # noqa: E402
from fedsteph.client.sharing.kept_record import KeptVector, read_kept, write_kept  # noqa: E402
from fedsteph.client.sharing.statement import Statement  # noqa: E402
from fedsteph.client.steph.mixture import Mixture  # noqa: E402
from fedsteph.client.steph.model import Steph  # noqa: E402
from fedsteph.client.training import checkpoint  # noqa: E402
from fedsteph.common.config.extraction import Extraction  # noqa: E402
from fedsteph.common.config.recipe import SharingConfig, StephConfig  # noqa: E402
from fedsteph.common.errors import FedstephError, ModelFileError  # noqa: E402
from fedsteph.common.host import checked_file  # noqa: E402
from fedsteph.common.model.initial_model import untrained_model  # noqa: E402
from fedsteph.common.vector.tensor_file import unstamped  # noqa: E402

_STATED = Statement(0.85, 0.002, "uni_v2", 20.0, 256.0)
_BAG = torch.randn(1, 5, SMALL.width, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Kind:
    """A kind of file: its content, and ``same``, which reads a path and tells whether it is what was written."""

    name: str
    content: bytes
    same: Callable[[Path], bool]


def kinds(folder: Path) -> Iterator[Kind]:
    """One file of every kind, written below ``folder``."""
    yield from _models(folder)
    yield _checkpoint(folder)
    yield _plain(folder)
    yield _arrays(folder)
    yield _kept(folder)


def _kept(folder: Path) -> Kind:
    record = KeptVector(
        "a",
        "0" * 64,
        "2026-01-31T00:00:00+00:00",
        "run",
        9**12,
        30,
        *["0" * 64] * 3,
        SharingConfig(),
        _STATED,
        1.0,
        True,
        "k",
    )
    write_kept(folder, record, b"a vector file")
    path = folder / record.file_name

    def same(mutant: Path) -> bool:
        mutant.replace(path)
        return read_kept(path) == (record, b"a vector file")

    return Kind("kept vector", path.read_bytes(), same)


def _models(folder: Path) -> Iterator[Kind]:
    model, theta_0 = untrained_model(SMALL, 1).eval(), torch.randn(SMALL.n_merged)
    steph = Steph(Mixture(SMALL, theta_0, torch.randn(3, SMALL.n_merged)), StephConfig(K=1)).eval()
    reference = np.linspace(-3, -1, 101)
    local, path = Local(model, reference - 1), folder / "model"
    save_base(
        folder / "abmil", model, m0_sha256="0" * 64, extraction=Extraction("uni_v2", 20.0, 256.0), reference=reference
    )
    save_steph(folder / "steph", steph, ["a", "b"], m0_sha256="0" * 64, reference=reference, local=local)
    for name, written in (("abmil", model), ("steph", steph)):
        content = (folder / name).read_bytes()
        first = load_model(folder / name)
        yield Kind(name, content, lambda path, w=written, f=first: _is_same(load_model(path), w, f))
        stranger = unstamped(content, str(path), "")
        yield Kind(f"{name} of a stranger", stranger, lambda path: _is_usable(load_model(path)))


def _is_same(found: LoadedModel, written: torch.nn.Module, first: LoadedModel) -> bool:
    told = [(one.architecture, one.sources, one.extraction) for one in (found, first)]
    return told[0] == told[1] and equal(state_of(found.model), state_of(written))


def _is_usable(found: LoadedModel) -> bool:
    with torch.no_grad():
        bag = torch.randn(1, 3, found.architecture.width)
        return tuple(found.model(bag).shape) == (1, found.architecture.n_bins)


def _checkpoint(folder: Path) -> Kind:
    def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = untrained_model(SMALL, 2)
        return model, torch.optim.AdamW(model.parameters())

    model, optimizer = fresh()
    model(_BAG).sum().backward()
    optimizer.step()
    checkpoint.EVERY_SECONDS = 0.0
    with patch.object(checkpoint, "EVERY_SECONDS", 0.0):
        checkpoint.Checkpoint(folder / "checkpoint", "key", model, optimizer).save(3)
    before, again = state_of(fresh()[0]), fresh()
    path = folder / "mutant"

    def same(_: Path) -> bool:
        if checkpoint.Checkpoint(path, "key", *again).resume(CPU) == 0:
            assert equal(state_of(again[0]), before)
            raise ModelFileError("was set aside")
        whole = equal(state_of(again[0]), state_of(model))
        again[0].load_state_dict(before)
        return whole

    return Kind("checkpoint", (folder / "checkpoint").read_bytes(), same)


def _plain(folder: Path) -> Kind:
    content: dict[str, Any] = {"0/local": {"concordant": 3.5, "comparable": 7, "collapsed": False}, "sequence": 17}
    checked_file.write_json(folder / "json", content)
    return Kind("json", (folder / "json").read_bytes(), lambda path: checked_file.read_json(path) == content)


def _arrays(folder: Path) -> Kind:
    written = {"seed": Randomness.drawn().words, "step": np.array(3), "state": np.linspace(0, 1, 20)}
    checked_file.write_arrays(folder / "arrays", **written)

    def same(path: Path) -> bool:
        found = checked_file.read_arrays(path)
        return found.keys() == written.keys() and all(np.array_equal(found[name], written[name]) for name in written)

    return Kind("arrays, as of DP-SGD's checkpoint", (folder / "arrays").read_bytes(), same)


def fuzz(kind: Kind, folder: Path, n: int, seed: int) -> Counter[str]:
    """Read ``n`` mutants; how many were refused, and how many read as what was written.

    Raises:
        AssertionError: one was read as something else, took more than 2 s or 200 MB, or raised another error.
    """
    rng, found, path = np.random.default_rng(seed), Counter[str](), folder / "mutant"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(n):
        content = mutant(kind.content, rng)
        path.write_bytes(content)
        began = time.process_time()
        try:
            assert kind.same(path), f"{kind.name}, mutant {i} of seed {seed}: other content"
            found["read as written"] += 1
        except FedstephError:
            found["refused"] += 1
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{kind.name}, mutant {i} of seed {seed}: {error!r}") from error
        assert time.process_time() - began < 2, f"{kind.name}, mutant {i} of seed {seed}: slow"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000, f"{kind.name}: memory"
    return found


def main() -> None:
    """Fuzz every kind and print what was found."""
    n, seed = (int(word) for word in [*sys.argv[1:], *["20000", "0"][len(sys.argv) - 1 :]])
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind in kinds(folder):
            print(f"{kind.name}: {n} mutants, {dict(fuzz(kind, folder, n, seed))}", flush=True)


if __name__ == "__main__":
    main()
