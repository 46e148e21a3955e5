"""Simulated runs: synthetic sites, the run folder, the two engines, and the results."""
