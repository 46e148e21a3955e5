"""How many epochs STEPH is trained for, and a warning where that does not follow the base model's."""

from __future__ import annotations

from fedsteph.common.config.recipe import Recipe


def followed_epochs(recipe: Recipe) -> int:
    """STEPH's epochs where the recipe does not set them: its share of the base model's, at least one."""
    return max(1, round(recipe.training.epochs * recipe.steph.epochs_factor))


def unequal_training(recipe: Recipe) -> str | None:
    """A sentence if STEPH's epochs were set, and do not follow the base model's; else None."""
    own, followed = recipe.steph.epochs, followed_epochs(recipe)
    if own is None or own in (followed, recipe.training.epochs):
        return None
    return (
        f"steph.epochs is set to {own}, and training.epochs is {recipe.training.epochs}, which makes {followed}: a "
        "difference between STEPH and the local model may come from that. Leave steph.epochs out to let it follow."
    )
