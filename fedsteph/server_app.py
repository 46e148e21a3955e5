"""Where Flower finds the coordinator's app (``[tool.flwr.app.components]``).

A simulation loads both apps at once, in two threads. Python does not wait for a package that another thread has begun
to import before it looks for the package's parts, and in a bundle fedsteph's parts are found only when it is whole.
"""

from __future__ import annotations

from importlib import import_module

import_module("fedsteph")  # this does wait
app = import_module("fedsteph.server.app").app
