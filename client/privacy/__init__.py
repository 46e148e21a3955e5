"""Bounds what shared vectors reveal about patients: DP-SGD, its accounting, and a ledger of the total cost."""
