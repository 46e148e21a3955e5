"""Trains survival models: loads and stacks bags, computes losses, runs the resumable loop, trains a site's model."""
