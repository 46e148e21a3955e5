"""Arguments of the programs that measure."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """An argument that counts something; argparse tells the user of any other."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)
