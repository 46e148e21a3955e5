"""Property tests: the same examples in every run, and no clock."""

from hypothesis import settings

settings.register_profile("fedsteph", deadline=None, derandomize=True)
settings.load_profile("fedsteph")
