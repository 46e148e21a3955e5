"""Names and shapes of the encoder's tensors, computed from the layer sizes without torch."""

from __future__ import annotations

Shape = tuple[int, ...]


def encoder_shapes(width: int, embed: int, attention: int) -> dict[str, Shape]:
    """Names and shapes of the encoder's 8 tensors, in their fixed order."""
    return {
        "embed.weight": (embed, width),
        "embed.bias": (embed,),
        "attention_V.weight": (attention, embed),
        "attention_V.bias": (attention,),
        "attention_U.weight": (attention, embed),
        "attention_U.bias": (attention,),
        "attention_c.weight": (1, attention),
        "attention_c.bias": (1,),
    }
