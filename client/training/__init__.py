"""Training: batches and their loading, losses, the resumable loop, and a site's own model."""
