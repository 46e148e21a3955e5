"""Evaluates models: metrics, inner folds, and the choice of gamma and of the deployed model."""
