"""What a shared vector gives away: bounded by differential privacy, added up in a ledger, measured by attacks."""
