"""Averages the sites' updates for FedAvg and FedProx, with Flower's own strategies.

An update is a vector file that is not sealed, so a site's policy must allow it. The headers of all sites say the same:
the server averages the float32 numbers after them and needs no model code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedProx

from fedsteph.common.config.recipe import ComparatorConfig
from fedsteph.common.errors import VectorFileError, VectorMismatchError
from fedsteph.common.vector.tensor_file import METADATA, read_header

_WEIGHT = "num-examples"
_MAX_HEADER = 8192  # bytes


@dataclass(frozen=True)
class Update:
    """One site's encoders after a round, by fold, and its number of patients, as a band."""

    vectors: Mapping[str, bytes]
    weight: int


def strategy_of(method: str, config: ComparatorConfig) -> FedAvg:
    """Flower's strategy for a method, ``fedavg`` or ``fedprox``."""
    if method == "fedprox":
        return FedProx(proximal_mu=config.proximal_mu, weighted_by_key=_WEIGHT)
    return FedAvg(weighted_by_key=_WEIGHT)


def screen(updates: Mapping[int, Update], max_norm: float) -> dict[int, str]:
    """The updates of a round, by node, that cannot be averaged with the others: what is wrong with them."""
    wrong: dict[int, str] = {}
    kinds: dict[int, str] = {}
    for node, update in sorted(updates.items()):
        try:
            kinds[node] = _kind(update, max_norm)
        except VectorMismatchError as error:
            wrong[node] = error.what
    most = Counter(kinds.values()).most_common(1)
    for node, kind in kinds.items():
        if kind != most[0][0]:
            wrong[node] = "an update is of another model or other folds than most are"
    return wrong


def _kind(update: Update, max_norm: float) -> str:
    """Folds and headers of an update as one text, the same of those that can be averaged."""
    split = {fold: _split(content) for fold, content in sorted(update.vectors.items())}
    if not split:
        raise VectorMismatchError("an update is empty", where="update")
    if max(float(np.linalg.norm(values.astype(np.float64))) for _, _, values in split.values()) > max_norm:
        raise VectorMismatchError("an update's norm is above the cap", where="update")
    return json.dumps({fold: meaning for fold, (_, meaning, _) in split.items()}, sort_keys=True)


def aggregate(strategy: FedAvg, round_: int, updates: Mapping[int, Update]) -> dict[str, bytes]:
    """The next round's global encoders, by fold, from the updates, by node.

    Raises VectorMismatchError if there are fewer than two, or they are not of one kind, or not finite.
    """
    if len(updates) < 2:
        raise VectorMismatchError("there are not two updates to average", where=f"round {round_}")
    if wrong := screen(updates, float("inf")):
        raise VectorMismatchError("; ".join(sorted(set(wrong.values()))), where=f"round {round_}")
    first, replies = updates[min(updates)], []
    for node, update in sorted(updates.items()):
        arrays = {fold: Array(_split(content)[2]) for fold, content in update.vectors.items()}
        metrics = MetricRecord({_WEIGHT: float(update.weight)})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        replies.append(Message(content, dst_node_id=node, message_type="train"))
    averaged, _ = strategy.aggregate_train(round_, replies)
    if averaged is None:
        raise VectorMismatchError("there is no update to average", where=f"round {round_}")
    headers = {fold: _split(content)[0] for fold, content in first.vectors.items()}
    return {fold: headers[fold] + array.numpy().astype("<f4").tobytes() for fold, array in averaged.items()}


Ask = Callable[[int, Mapping[str, bytes]], Mapping[int, Update]]


def run_rounds(method: str, config: ComparatorConfig, ask: Ask) -> dict[str, bytes]:
    """All rounds of one baseline, from M0; the global encoders after the last, by fold.

    ``ask`` sends a round's number and global encoders (none in round 0), and returns the updates by node. Raises
    VectorMismatchError if those of a round cannot be averaged.
    """
    strategy = strategy_of(method, config)
    encoders: dict[str, bytes] = {}
    for round_ in range(config.rounds):
        encoders = aggregate(strategy, round_, ask(round_, encoders))
    return encoders


def _split(content: bytes) -> tuple[bytes, Any, np.ndarray]:
    """A vector file's header, as bytes with its length and as parsed JSON, and the float32 numbers after it."""
    malformed = VectorMismatchError("an update is no vector file", where="update")
    try:
        # Parsed, because the order of a header's keys can differ between sites.
        meaning, end = read_header(content, "update", VectorFileError, _MAX_HEADER)
    except VectorFileError as error:
        raise malformed from error
    if (len(content) - end) % 4 or _claimed(meaning) != len(content) - end:
        raise malformed
    values = np.frombuffer(content, dtype="<f4", offset=end)
    if not np.isfinite(values).all():
        raise VectorMismatchError("an update holds NaN or Inf", where="update")
    return content[:end], meaning, values


def _claimed(header: dict[str, Any]) -> int | None:
    """The size of the numbers in bytes according to a header; None: the header does not tell."""
    ends = [
        entry["data_offsets"][1]
        for name, entry in header.items()
        if name != METADATA and isinstance(entry, dict) and isinstance(entry.get("data_offsets"), list)
        if len(entry["data_offsets"]) == 2 and isinstance(entry["data_offsets"][1], int)
    ]
    return max(ends, default=None)
