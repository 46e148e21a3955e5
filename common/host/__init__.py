"""Atomic file writes, folder locks, the terminal, and progress reports."""
