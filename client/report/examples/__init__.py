"""Examples on a page: a few patients of extreme risk, and where the models look on their slides."""
