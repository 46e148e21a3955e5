"""The configuration: recipe and run, presets, and the strict reading of YAML into dataclasses."""
