"""What a simulated run's folder holds, by name."""

from __future__ import annotations

RESULTS_FILE = "results.json"
SUMMARY_FILE = "summary.md"
