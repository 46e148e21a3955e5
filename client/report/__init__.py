"""What people look at, at a site: its own page, its patients' pages, and the figures on them."""
