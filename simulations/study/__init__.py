"""``fedsteph benchmark``: methods x targets x folds x seeds over site folders on one machine."""
