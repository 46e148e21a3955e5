"""Reads HDF5 feature files from others: a helper process checks a file's structure before its values are read."""
