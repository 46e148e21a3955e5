"""Sending a site's vector, receiving other sites' vectors, and the site's part in FedAvg and FedProx."""
