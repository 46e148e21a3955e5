"""The base model ABMIL, discrete-time survival, and the C-index with its bootstrap intervals."""
