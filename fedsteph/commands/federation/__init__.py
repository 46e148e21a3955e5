"""Commands for a deployment: set up, checked, run, audited."""
