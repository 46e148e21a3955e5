"""Commands for a site: its data, its models, its keys, and what its vectors give away."""
