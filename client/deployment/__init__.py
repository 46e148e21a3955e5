"""A site in a deployment: its checks, and the guard that runs reviewed code only."""
