"""A whole federation on one machine: synthetic cohorts, two engines, one run folder, one command."""
