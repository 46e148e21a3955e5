"""Poisoned task vectors from malicious sources, and the federations in which they are tested."""
