"""Code that sites and server share: configuration, base model, task vectors and their file, keys, protocol, pages."""
