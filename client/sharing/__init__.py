"""A vector's way out of a site and into another, and the rounds of FedAvg and FedProx."""
