"""How good a model is: metrics, inner folds, and the choice of gamma and of what is deployed."""
