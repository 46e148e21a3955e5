"""The ``fedsteph`` command line: a file per command or group of commands, a folder per panel of ``fedsteph --help``.

A command's file loads no more than its options need: whatever it works with is imported inside its functions, so that
``--help`` and commands that need no tensors start at once.
"""
