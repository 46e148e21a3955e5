"""Flower's programs and app bundle, TLS, and the checks that sites and the server share."""
