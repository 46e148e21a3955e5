"""A site: its file and folder, policy, membership of a federation, device, log, and the work kept on its disk."""
