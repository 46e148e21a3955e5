"""Reads a site's feature files and label table into bags, each with one survival label."""
