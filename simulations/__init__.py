"""A whole federation on one machine: simulated runs, studies, poisoned vectors, and measurements."""
