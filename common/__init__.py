"""What all parties agree on: the method's formulas, the vector and its file, the protocol."""
