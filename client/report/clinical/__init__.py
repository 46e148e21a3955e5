"""A target's section on clinical values and the slide."""
