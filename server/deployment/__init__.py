"""A coordinator's deployment: its files, certificates, checks, and a run from start to end."""
