"""The base model, discrete-time survival, and the C-index with its bootstrap intervals."""
