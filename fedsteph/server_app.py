"""Where Flower finds the coordinator's app (``[tool.flwr.app.components]``); imported so for client_app.py's reason."""

from __future__ import annotations

from importlib import import_module

import_module("fedsteph")  # this does wait
app = import_module("fedsteph.server.app").app
