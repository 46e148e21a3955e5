"""Atomic file writes, checked reads, folder locks, the terminal, and progress reports."""
