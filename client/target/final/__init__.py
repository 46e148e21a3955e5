"""The final model: chosen by the folds, trained on all of the target's patients, with a card of its own."""
