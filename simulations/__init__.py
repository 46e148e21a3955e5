"""Simulated federations on one machine: runs, benchmark studies, poisoned vectors, and cost measurements."""
