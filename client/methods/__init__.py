"""The comparators: every other way to a model at a target, behind one interface (:mod:`.task`)."""
