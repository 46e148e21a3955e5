"""Reads slide images and where the patches lie on them, and draws the patches with the most attention."""
