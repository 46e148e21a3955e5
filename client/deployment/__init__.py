"""Deployment of a site: preflight checks, and the guard that runs only the reviewed app."""
