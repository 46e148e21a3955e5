"""Synthetic worlds: hospital sites whose truth is known, written as site folders like those of real hospitals."""
