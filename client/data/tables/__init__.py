"""Reads a site's tables: labels and splits, as spreadsheets, portals and tools write them."""
