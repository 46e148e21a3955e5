"""How other programs name the tensors of the same ABMIL: facts about their checkpoints, one table per layout.

``steph``: the released base models of STEPH. ``clam``: CLAM's single-branch model with gated attention (CLAM_SB). Its
attention lies at place 3 of ``attention_net``, behind the embedding, its ReLU and a dropout layer; in CLAM's first
versions at place 2 where there was no dropout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# V is the layer before tanh, which others call attention_a; U the one before the sigmoid, attention_b.
OURS = ("embed", "attention_V", "attention_U", "attention_c", "head")


@dataclass(frozen=True)
class Layout:
    """Names of the layers, in the order of :data:`OURS`, and of tensors that are no part of an ABMIL."""

    name: str
    layers: tuple[str, ...]
    extra: re.Pattern[str] = re.compile(r"(?!)")  # nothing

    @property
    def tensors(self) -> dict[str, str]:
        """Our names of the 10 tensors -> their names in this layout."""
        pairs = zip(OURS, self.layers, strict=True)
        return {f"{own}.{part}": f"{other}.{part}" for own, other in pairs for part in ("weight", "bias")}


def _gated(prefix: str) -> tuple[str, str, str]:
    return f"{prefix}.attention_a.0", f"{prefix}.attention_b.0", f"{prefix}.attention_c"


# CLAM trains classifiers of single instances beside the model; they decide nothing when it predicts.
_INSTANCES = re.compile(r"instance_classifiers\.\d+\.(weight|bias)")
LAYOUTS = (
    Layout("ours", OURS),
    Layout("steph", ("feat_proj.0", *_gated("attention_net"), "pred_head")),
    Layout("clam", ("attention_net.0", *_gated("attention_net.3"), "classifiers"), _INSTANCES),
    Layout("clam", ("attention_net.0", *_gated("attention_net.2"), "classifiers"), _INSTANCES),
)
NAMES = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))
PREFIXES = ("module.", "model.")  # what DataParallel and training frameworks put before every name
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints of a training keep the model
