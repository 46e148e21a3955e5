"""Keys, public-key files, the roster of all sites' public keys, and the audit log."""
