"""All kinds of base models by name, with the shapes of their encoders' tensors (docs/models.md)."""

from __future__ import annotations

from fedsteph.common.encoders.kind import Kind, Shapes, Sizes, linear, norm
from fedsteph.common.errors import ConfigError

_HERE = "fedsteph.common.encoders"


def _abmil(s: Sizes) -> Shapes:
    return {
        **linear("embed", s.embed, s.width),
        **linear("attention_V", s.attention, s.embed),
        **linear("attention_U", s.attention, s.embed),
        **linear("attention_c", 1, s.attention),
    }


def _transmil(s: Sizes) -> Shapes:
    found: Shapes = {"encoder.model.cls_token": (1, 1, s.embed)}
    found |= linear("encoder.model.feat_ext.0", s.embed, s.width)
    for proj, side in (("proj", 7), ("proj1", 5), ("proj2", 3)):
        layer = f"encoder.model.pos_layer.{proj}"
        found |= {f"{layer}.weight": (s.embed, 1, side, side), f"{layer}.bias": (s.embed,)}
    for i in range(2):
        layer = f"encoder.model.layers.{i}"
        found |= linear(f"{layer}.att_module.qkv_nn", 3 * s.embed, s.embed, bias=False)
        found |= norm(f"{layer}.norm1", s.embed)
    return found | norm("encoder.model.norm", s.embed)


def _dsmil(s: Sizes) -> Shapes:
    return {
        **linear("encoder.model.feat_ext.0", s.embed, s.width),
        **linear("encoder.model.q_nn.0", s.attention, s.embed),
        **linear("encoder.model.q_nn.2", s.attention, s.attention),
        **linear("encoder.model.inst_classifier", 1, s.embed),
        **linear("encoder.critical", s.embed, 1, bias=False),
    }


def _patchgcn(s: Sizes) -> Shapes:
    hidden = s.embed // 4
    found = linear("encoder.embed.0", hidden, s.width)
    for i in range(3):
        found |= linear(f"encoder.layers.{i}.conv.fc.module", hidden, hidden)
        found |= norm(f"encoder.layers.{i}.norm", hidden)
    found |= linear("encoder.mix.0", s.embed, s.embed)
    found |= linear("encoder.pool.fc1.module", s.attention, s.embed)
    found |= linear("encoder.pool.fc2", 1, s.attention, bias=False)
    return found | linear("encoder.pool.fc_gated.module", s.attention, s.embed)


def _ilra(s: Sizes) -> Shapes:
    n = s.attention
    found: Shapes = {"encoder.latent_0": (1, 64, n), "encoder.latent_1": (1, 64, n), "encoder.query": (1, 1, n)}
    found |= linear("encoder.embed.0", n, s.width)
    for block in (f"encoder.{name}" for name in ("down.0", "up.0", "down.1", "up.1", "pool")):
        for part in ("q", "k", "v", "out") + (() if block.endswith("pool") else ("gate",)):
            found |= linear(f"{block}.{part}", n, n)
        found |= norm(f"{block}.norm_0", n) | norm(f"{block}.norm_1", n)
    return found | linear("encoder.widen", s.embed, n)


def _r2t(s: Sizes) -> Shapes:
    found = linear("encoder.embed.0", s.embed, s.width)
    for block in ("encoder.regions", "encoder.across"):
        found |= linear(f"{block}.qkv", 3 * s.embed, s.embed) | linear(f"{block}.out", s.embed, s.embed)
        found |= norm(f"{block}.norm", s.embed)
    found |= {"encoder.position.weight": (s.embed, 1, 15), "encoder.position.bias": (s.embed,)}
    found |= linear("encoder.gather", 8, s.embed, bias=False) | norm("encoder.norm", s.embed)
    found |= linear("encoder.V", s.attention, s.embed) | linear("encoder.U", s.attention, s.embed)
    return found | linear("encoder.c", 1, s.attention)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "abmil",
            "ABMIL",
            "Ilse et al., ICML 2018",
            _abmil,
            module="",
            layers={"embed": ("embed.",), "attention": ("attention_",)},
            direction="embed.weight",
        ),
        Kind(
            "transmil",
            "TransMIL",
            "Shao et al., NeurIPS 2021; torchmil",
            _transmil,
            f"{_HERE}.transmil:TransMILEncoder",
            layers={"embed": ("encoder.model.feat_ext.",), "attention": ("encoder.model.layers.",)},
            multiple_of=(8, 1),
            most_instances=20_000,
            scores=False,
            stacks=True,
            extra="models",
        ),
        Kind(
            "dsmil",
            "DSMIL",
            "Li et al., CVPR 2021; torchmil",
            _dsmil,
            f"{_HERE}.dsmil:DSMILEncoder",
            layers={"embed": ("encoder.model.feat_ext.",), "attention": ("encoder.model.q_nn.",)},
            direction="encoder.model.feat_ext.0.weight",
            stacks=True,
            extra="models",
        ),
        Kind(
            "patchgcn",
            "Patch-GCN",
            "Chen et al., MICCAI 2021; torchmil's layers",
            _patchgcn,
            f"{_HERE}.patchgcn:PatchGCNEncoder",
            layers={"embed": ("encoder.embed.",), "attention": ("encoder.pool.",)},
            multiple_of=(4, 1),
            most_instances=100_000,
            neighbours=8,
            extra="models",
        ),
        Kind(
            "ilra",
            "ILRA",
            "Xiang and Zhang, ICLR 2023",
            _ilra,
            f"{_HERE}.ilra:ILRAEncoder",
            layers={"embed": ("encoder.embed.",), "attention": ("encoder.down.", "encoder.up.", "encoder.pool.")},
            multiple_of=(1, 8),
            most_instances=50_000,
        ),
        Kind(
            "r2t",
            "R2T-MIL",
            "Tang et al., CVPR 2024",
            _r2t,
            f"{_HERE}.r2t:R2TEncoder",
            layers={"embed": ("encoder.embed.",), "attention": ("encoder.regions.", "encoder.across.")},
            multiple_of=(8, 1),
            most_instances=50_000,
        ),
    )
}


def kind_of(name: str) -> Kind:
    """The kind of a name; ConfigError, with the names that there are."""
    if name not in KINDS:
        raise ConfigError(f"there is no kind '{name}'", where="model.kind", remedy=f"Kinds: {', '.join(KINDS)}")
    return KINDS[name]
