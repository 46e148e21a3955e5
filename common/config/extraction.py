"""How features were extracted from slides: the same at all sites that merge models, and in every prediction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce


@dataclass(frozen=True)
class Extraction:
    """What feature files state of their making; None: not stated.

    Args:
        encoder: name of the feature encoder.
        magnification: of the patches, such as 20.
        patch_size: side of a patch in pixels at that magnification.
    """

    encoder: str | None = None
    magnification: float | None = None
    patch_size: float | None = None

    def agrees_with(self, other: Extraction) -> bool:
        """Whether nothing that both state differs."""
        pairs = [(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)]
        return all(own is None or told is None or own == told for own, told in pairs)

    def or_else(self, other: Extraction) -> Extraction:
        """This extraction, with what it does not state from another."""
        own, told = vars(self), vars(other)
        return Extraction(**{name: told[name] if own[name] is None else own[name] for name in own})

    def __str__(self) -> str:
        """Such as ``uni_v1 at 20x, patches of 256 pixels``."""
        text = self.encoder or "an unnamed encoder"
        if self.magnification is not None:
            text += f" at {self.magnification:g}x"
        return text if self.patch_size is None else f"{text}, patches of {self.patch_size:g} pixels"


UNSTATED = Extraction()


def stated(extractions: Iterable[Extraction]) -> Extraction:
    """What any of them states; where they differ, the first counts."""
    return reduce(Extraction.or_else, extractions, UNSTATED)
