"""What a target makes of received vectors before it merges them: a verdict per source, with its figures."""
