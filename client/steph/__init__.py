"""STEPH at the target: hypernetworks that mix task vectors per bag (arXiv 2603.10526)."""
