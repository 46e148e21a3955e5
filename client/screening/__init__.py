"""Screening of received vectors at a target before the merge: a verdict per source, and the figures behind it."""
