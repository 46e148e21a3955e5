"""What travels, counted without a tensor: against files that were written, and counts by hand."""

from __future__ import annotations

import json

from each_case import each

from fedsteph.common.config.recipe import ModelConfig, SharingConfig
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.vector.shared_part import WHOLE, description, shared_bytes, shared_shapes
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector

PAPER = Architecture(1536, 512, 384, 32)
SIZES = (13, 11, 9)
SMALL = Architecture(*SIZES, n_bins=2)
VECTOR = TaskVector.between(untrained_model(SMALL, 1), untrained_model(SMALL, 0))


@each("dtype", ["float32", "float16", "bfloat16"])
@each("layers", ["encoder", "attention", "embed"])
@each("rank", [None, 1, 4, 5, 4096])
def test_a_file_holds_what_was_counted(dtype, layers, rank) -> None:
    sharing = SharingConfig(dtype, layers=layers, rank=rank)
    content = write_vector(VECTOR, sharing)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    del header["__metadata__"]
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    assert shapes == shared_shapes(SMALL, sharing)
    model = ModelConfig(width=SIZES[0], embed=SIZES[1], attention=SIZES[2])
    assert len(content) - start == shared_bytes(model, sharing)


@each(
    ("sharing", "numbers"),
    [
        (WHOLE, 1_181_313),  # a model of 1,197,729 without its head of 512 x 32 + 32
        (SharingConfig(layers="embed"), 1536 * 512 + 512),
        (SharingConfig(layers="attention"), 2 * (512 * 384 + 384) + 384 + 1),
        (SharingConfig(layers="embed", rank=16), 16 * (1536 + 512) + 512),
        (SharingConfig(layers="attention", rank=1), 2 * (512 + 384 + 384) + 384 + 1),
        (SharingConfig(rank=4), 4 * (1536 + 512) + 512 + 2 * (4 * (512 + 384) + 384) + 384 + 1),
    ],
)
def test_the_numbers_of_a_vector_at_the_paper_s_sizes(sharing: SharingConfig, numbers: int) -> None:
    assert shared_bytes(ModelConfig(width=1536), sharing) == 4 * numbers


@each(("rank", "factored"), [(383, True), (384, False), (385, False)])
def test_factors_travel_where_they_are_fewer_numbers(rank: int, factored: bool) -> None:
    """1536 x 512 numbers are 384 (1536 + 512): as many as factors of rank 384."""
    names = shared_shapes(PAPER, SharingConfig(layers="embed", rank=rank))
    assert list(names) == [
        *(["embed.weight.left", "embed.weight.right"] if factored else ["embed.weight"]),
        "embed.bias",
    ]


def test_a_row_and_a_bias_always_travel_whole() -> None:
    names = shared_shapes(PAPER, SharingConfig(rank=1))
    assert names["attention_c.weight"] == (1, 384)
    assert [name for name in names if name.endswith("bias")] == [
        name for name in PAPER.encoder_shapes if name.endswith("bias")
    ]


@each(
    ("sharing", "text"),
    [
        (WHOLE, "float32"),
        (SharingConfig("bfloat16", rank=16), "bfloat16, rank 16"),
        (SharingConfig("float16", layers="attention", rank=2), "float16, layers attention, rank 2"),
    ],
)
def test_how_a_card_puts_it(sharing: SharingConfig, text: str) -> None:
    assert description(sharing) == text
