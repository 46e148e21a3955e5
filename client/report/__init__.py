"""A site's reports: its own page as a target, the page of its patients' predictions, and their figures."""
