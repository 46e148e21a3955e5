"""Task vectors, the selection and compression of the part that is shared, and the vector file."""
