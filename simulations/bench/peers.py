"""fedsteph beside its peers, in one run: ``python -m fedsteph.simulations.bench.peers``, about ten minutes.

An epoch of ABMIL over h5 files beside torchmil's, the first and a later one, and the merging of 12 vectors beside
PEFT's functions: seconds, their ratio within a round, and peak memory, each in a process of its own. It prints a table
and one JSON object, and needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fedsteph.common.errors import ConfigError, EngineError, FedstephError, StorageError
from fedsteph.common.host import console
from fedsteph.common.host.disk import free_bytes
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.arguments import positive
from fedsteph.simulations.bench.data_path import write_site
from fedsteph.simulations.bench.figures import Spread, machine
from fedsteph.simulations.bench.pairs import in_turn, ratio, seconds_of
from fedsteph.simulations.bench.peer_sides.peer_epoch import SIDES, side_of, write_labels
from fedsteph.simulations.bench.peer_sides.peer_memory import peak
from fedsteph.simulations.bench.peer_sides.peer_merging import difference, own_merges, peft_merges

SCHEMA = "fedsteph/bench-peers/v1"
LARGEST_DIFFERENCE = 1e-5  # between two merges, relative to the largest number
MOST_CANCELLED = 1e-5  # of their numbers, whose sign PEFT elects and fedsteph does not
_PACKAGES = ("torchmil", "peft")
_EPOCHS = {  # what is compared: fedsteph's side, torchmil's, and which epoch
    "first": ("fedsteph", "torchmil", "first"),
    "first, both in memory": ("fedsteph in memory", "torchmil", "first"),
    "later": ("fedsteph", "torchmil", "later"),
    "later, both in memory": ("fedsteph in memory", "torchmil", "later"),
    "later, torchmil without dropout": ("fedsteph", "torchmil without dropout", "later"),
}


def require_peers() -> None:
    """Raise ConfigError if a peer is not installed."""
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is None:
            remedy = "pip install 'fedsteph[bench]'"
            raise ConfigError(f"the comparison needs {name}, which is not installed", where="bench", remedy=remedy)


def measure(slides: int, instances: int, rounds: int) -> dict[str, Any]:
    """All comparisons, JSON-ready.

    Raises:
        ConfigError: a peer is not installed.
        StorageError: the disk of temporary files has no room for the slides and fedsteph's copy of them.
        EngineError: a process that measures memory failed, or two merges of the same vectors differ.
    """
    require_peers()
    found = {"schema": SCHEMA, "machine": machine(), "threads": torch.get_num_threads()}
    found |= {"peers": {name: version(name) for name in _PACKAGES}}
    with TemporaryDirectory() as folder:
        epoch = _epochs(Path(folder), slides, instances, rounds)
    return found | {"epoch": {"slides": slides, "instances": instances} | epoch, "merging": _merging(rounds)}


def _epochs(folder: Path, slides: int, instances: int, rounds: int) -> dict[str, Any]:
    needed = 2 * slides * instances * models.SIZES.width * 4
    if free_bytes(folder) < needed:
        what = f"{needed / 2**30:.1f} GiB are needed for the slides and a copy"
        raise StorageError(what, where=folder.parent, remedy="Set TMPDIR to a larger disk, or ask for fewer slides")
    small, site = folder / "small", folder / "site"
    console.tell(f"writing {slides} slides of {instances:,} instances ...")
    for one, n, size in ((small, 2, 50), (site, slides, instances)):
        write_site(one, n, size, models.SIZES.width)
    write_labels(small)
    preparation = seconds_of(partial(write_labels, site))
    _round(small)  # untimed: what a process does once
    seconds: dict[str, list[float]] = {}
    for i in range(rounds):
        console.tell(f"epochs, round {i + 1} of {rounds} ...")
        for name, taken in _round(site).items():
            seconds.setdefault(name, []).append(taken)
    memory = {side: peak(side, "epoch", site) for side in SIDES}
    return {
        "torchmil_preparation": preparation,
        "seconds": {name: vars(Spread.of(values)) for name, values in seconds.items()},
        "ratio": {
            name: ratio(seconds, f"{own}, {when}", f"{peer}, {when}") for name, (own, peer, when) in _EPOCHS.items()
        },
        "memory": memory,
    }


def _round(site: Path) -> dict[str, float]:
    """Seconds of a first epoch, with the opening of the site, and of a later one, of both sides in turn."""
    sides: dict[str, Any] = {}
    with TemporaryDirectory(dir=site.parent) as state:

        def first(name: str) -> None:
            own = Path(state) / name
            own.mkdir()
            sides[name] = side_of(name, _unread(site, own / "site"), own / "state")
            sides[name].epoch()

        found = {f"{name}, first": seconds_of(partial(first, name)) for name in SIDES}
        found |= {f"{name}, later": seconds_of(side.epoch) for name, side in sides.items()}
        sides["torchmil"].without_dropout()
        return found | {"torchmil without dropout, later": seconds_of(sides["torchmil"].epoch)}


def _unread(site: Path, link: Path) -> Path:
    """The site by another path, of whose files no header is remembered yet."""
    link.symlink_to(site, target_is_directory=True)
    return link


def _merging(rounds: int) -> dict[str, Any]:
    rows, found = models.vectors(models.SOURCES), {}
    own, peft = own_merges(rows), peft_merges(rows)
    for name in own:
        console.tell(f"merging by {name} ...")
        apart, cancelled = difference(own[name]().flat(), peft[name]())
        if apart > LARGEST_DIFFERENCE or cancelled > MOST_CANCELLED * rows.shape[1]:
            what = f"fedsteph's and PEFT's results are {apart:.1e} apart, and {cancelled} numbers are of another sign"
            raise EngineError(what, where=name)
        spreads, seconds = in_turn({"fedsteph": own[name], "peft": peft[name]}, 10 * rounds)
        found[name] = {
            "difference": apart,
            "cancelled": cancelled,
            "seconds": {side: vars(spread) for side, spread in spreads.items()},
            "ratio": ratio(seconds, "fedsteph", "peft"),
            "memory": {side: peak(side, name) for side in spreads},
        }
    return found


def show(found: dict[str, Any]) -> None:
    """The tables, on the terminal."""
    epoch = found["epoch"]
    rows = []
    for name, (side, peer, when) in _EPOCHS.items():
        own, other = (epoch["seconds"][f"{one}, {when}"]["median"] for one in (side, peer))
        memory = [f"{epoch['memory'][one]['peak'] / 1e6:,.0f}" for one in (side, "torchmil")]
        rows.append([f"epoch, {name}", f"{own:.2f}", f"{other:.2f}", f"{epoch['ratio'][name]:.2f}", *memory])
    for name, one in found["merging"].items():
        own, other = (one["seconds"][side]["median"] for side in ("fedsteph", "peft"))
        memory = [f"+{(m['peak'] - m['before']) / 1e6:,.0f}" for m in one["memory"].values()]
        rows.append([f"merging, {name}", f"{own:.4f}", f"{other:.4f}", f"{one['ratio']:.2f}", *memory])
    title = f"epochs over {epoch['slides']} slides of {epoch['instances']:,}; merges of {models.SOURCES} vectors"
    console.show_table(["", "fedsteph, s", "peer, s", "ratio", "fedsteph, MB", "peer, MB"], rows, title)


def main(words: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedsteph.simulations.bench.peers", description=__doc__)
    parser.add_argument("--slides", type=positive, default=100)
    parser.add_argument("--instances", type=positive, default=4000, help="of a slide")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=2)
    given, threads = parser.parse_args(words), torch.get_num_threads()
    torch.set_num_threads(given.threads)
    try:
        found = measure(given.slides, given.instances, given.rounds)
    except FedstephError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        torch.set_num_threads(threads)
    show(found)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
