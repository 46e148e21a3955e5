"""What one site's work costs: time and memory of training, merging and reading, on the machine at hand."""
