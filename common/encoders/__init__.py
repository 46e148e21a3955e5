"""The kinds of base models: what each one's encoder is, how large its tensors are, and what it asks of a bag."""
