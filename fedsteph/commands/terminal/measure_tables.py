"""Formats the results of ``fedsteph measure`` as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsteph.common.host import console
from fedsteph.simulations.attacks.poison import attack_table
from fedsteph.simulations.bench.figures import machine_line
from fedsteph.simulations.relay.processes import PROGRAMS

_WORDS = {
    "step_vs_plain": ("a STEPH step, by the plain implementation's", "0.2, 0.65, 0.85 at 1, 1,000, 10,000"),
    "step_memory_vs_plain": ("peak memory of a step, by the plain one's", "at most 0.2"),
    "step_memory_16_bags_vs_8": ("what a step of 16 bags adds to memory, by one of 8", "1: flat"),
    "inference_vs_abmil": ("STEPH's inference by ABMIL's, as published", "at most 1.75 at 10,000"),
    "inference_sampled_vs_abmil": ("the same with sampled routing", "at most 1.15 at 10,000"),
    "abmil_vs_gemm": ("an ABMIL step's rate, by the largest product's", "at least 0.7 at 10,000"),
    "io_cached_vs_h5py": ("times that cached slides are read faster", "at least 5"),
    "epoch_waiting_share": ("share of an epoch spent waiting for data", "below 0.1"),
    "step_1000_sources_vs_12": ("a step with the most sources, by the fewest", "below 2"),
    "step_1000_sources_vs_12_memory": ("what it adds to memory, likewise", "below 2"),
}


def show_site_work(found: dict[str, Any]) -> None:
    rows = []
    for key, (words, wanted) in _WORDS.items():
        values = found[key] if isinstance(found[key], dict) else {"": found[key]}
        for i, (n, value) in enumerate(values.items()):
            size = f"{int(n):,}" if n else ""
            rows.append([words if i == 0 else "", size, f"{value:.3g}", wanted if i == 0 else ""])
    console.show_table(["what", "instances", "found", "wanted"], rows)
    for kind in ("steps", "inference"):
        for n, one in found["parts"][kind].items():
            medians = ", ".join(f"{name} {1e3 * spread['median']:.1f}" for name, spread in one["seconds"].items())
            console.say(f"{kind}, {int(n):,} instances, ms: {medians}")
    console.say(f"{found['threads']} threads; {machine_line(found['machine'])}")


def show_data_path(found: dict[str, Any]) -> None:
    header = ["files", "h5py", "as stored", "ratio", "as float16", "ratio", "first epoch: stored", "float16"]
    rows = []
    for name, row in found["layouts"].items():
        ratios = [f"{row[f'{kind}_vs_h5py']:.1f}" for kind in ("stored", "float16")]
        epochs = [f"{row[kind]['median']:.3f} s" for kind in ("h5py", "stored", "float16")]
        firsts = [f"{row[f'first_{kind}']:.2f} s" for kind in ("stored", "float16")]
        rows.append([name, epochs[0], epochs[1], ratios[0], epochs[2], ratios[1], *firsts])
    console.show_table(header, rows)
    console.say(machine_line(found["machine"]))


def show_sealing(found: dict[str, Any]) -> None:
    sizes = found["bytes"]
    title = f"milliseconds; a vector file of {sizes['vector_file'] / 1e6:.2f} MB where nothing else is said"
    keys = ("median", "min", "max")
    rows = [
        [name, *(f"{1e3 * spread[key]:.3f}" for key in keys), str(spread["repeats"])]
        for name, spread in found["seconds"].items()
    ]
    console.show_table(["step", *keys, "repeats"], rows, title)
    for name, over in found["overhead"].items():
        console.say(f"{name} adds {over['bytes']:,} bytes ({over['per_cent']:.4f} %) to {sizes['vector_file']:,}")
    console.say(machine_line(found["machine"]))


def show_relay(found: dict[str, Any]) -> None:
    times, memory = [], []
    for run in found["runs"]:
        seconds = run["seconds"]
        spreads = ("{median:.2f} ({min:.2f} to {max:.2f})".format(**seconds[key]) for key in ("hello", "merge"))
        megabytes = f"{run['bytes']['merge'] / 1e6:.1f}"
        times.append([str(run["sources"]), megabytes, f"{seconds['first_hello']:.2f}", *spreads])
        peaks = (run["peak_rss_bytes"].get(role, 0) for role in PROGRAMS.values())
        memory.append([str(run["sources"]), *(f"{peak / 2**20:.0f}" for peak in peaks)])
    header = ["sources", "MB", "first hello", "hello", "merge delivery"]
    console.show_table(header, times, "seconds: median (min to max)")
    console.show_table(["sources", *PROGRAMS.values()], memory, "peak resident memory, MiB")
    repeats = found["runs"][0]["seconds"]["merge"]["repeats"]
    console.say(f"{repeats} repeats each; {machine_line(found['machine'])}")


def show_poison(rows: Sequence[dict[str, Any]]) -> None:
    console.show_table(*attack_table(rows))
