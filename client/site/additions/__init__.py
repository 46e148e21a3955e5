"""A roster that grows by itself: what a site accepts of it, and when."""
