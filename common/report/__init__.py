"""Pages that people read: sections of words, tables and pictures, as one file that asks nothing of any network."""
