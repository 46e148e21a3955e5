"""Measures time and memory of one site's work: training, merging, prediction and reading, on this machine."""
