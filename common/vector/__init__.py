"""The task vector, which part of it travels, and its file."""
