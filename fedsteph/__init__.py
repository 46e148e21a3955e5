"""Federated, private survival models from whole-slide images by sparse task vector mixup (STEPH)."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent
if not (_HERE / "common").is_dir():
    # In a bundle made by 'flwr build', and in a checkout without symbolic links, the packages lie beside this folder.
    __path__.append(str(_HERE.parent))
