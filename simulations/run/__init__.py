"""A simulated run: its sites, its folder, the two engines, and the results."""
