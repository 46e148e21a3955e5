"""What keeps a site in order: backups, restores, and pruning."""
