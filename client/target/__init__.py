"""A target's work: from its own and the received vectors to enhanced models, their results and cards."""
