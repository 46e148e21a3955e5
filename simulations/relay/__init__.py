"""Measures the cost of relaying envelopes through real Flower processes, and of sealing."""
