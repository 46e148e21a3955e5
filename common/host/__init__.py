"""This machine: atomic files, locks, the terminal, and progress."""
