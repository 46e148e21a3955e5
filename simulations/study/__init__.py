"""``fedsteph benchmark``: compares methods over targets, folds and seeds, from site folders on one machine."""
