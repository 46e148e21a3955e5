"""The ``fedsteph`` command line: one file per command or group of commands."""
