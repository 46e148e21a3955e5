"""The panel: the enhanced model, the target's own and the received ones predict together, with few learned weights."""
