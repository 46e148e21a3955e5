"""Membership inference on a site's own vector, as a recipient could do it: signals, reference models, statistics."""
