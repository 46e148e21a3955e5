"""Keys, the roster of public keys, announcements, and the audit log."""
