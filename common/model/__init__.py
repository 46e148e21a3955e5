"""The base model ABMIL, and the survival mathematics that all parties agree on."""
