"""Names of the result files in a simulated run's folder."""

from __future__ import annotations

RESULTS_FILE = "results.json"
SUMMARY_FILE = "summary.md"
