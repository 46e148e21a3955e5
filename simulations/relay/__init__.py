"""What relaying through real Flower processes costs, and what sealing costs."""
