"""Poisoned vectors: what a malicious source can send, and the federations that it is tried in."""
