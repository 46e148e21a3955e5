"""A kind of base model as docs/models.md adds one: the mean of the embedded instances."""

from __future__ import annotations

from torch import Tensor, nn

from fedsteph.common.encoders.kind import Kind, Shapes, Sizes, linear


class ToyEncoder(nn.Module):
    """``z = mean_i ReLU(W x_i + b)``; every instance counts alike."""

    def __init__(self, width: int, embed: int, attention: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, embed), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed(bag).mean(dim=0), bag.new_full((len(bag),), 1.0 / len(bag))


def _shapes(s: Sizes) -> Shapes:
    return linear("encoder.embed.0", s.embed, s.width)


TOY = Kind(
    "toy",
    "mean pooling",
    "a test",
    _shapes,
    "toy_kind:ToyEncoder",
    layers={"embed": ("encoder.embed.",), "attention": ()},
    direction="encoder.embed.0.weight",
    stacks=True,
)
