"""Commands for research on one machine: simulations, benchmarks, and pages about them."""
