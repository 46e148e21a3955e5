"""What both sides of the federation agree on: the method's formulas, the vector and its file, the protocol."""
