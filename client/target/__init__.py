"""A target's work: enhanced models from its own and the received vectors, their results and model cards."""
