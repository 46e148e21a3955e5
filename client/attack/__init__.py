"""Membership inference on a site's own vector, as a recipient would do it: signals, reference models, statistics."""
