"""What a vector's way costs: time, memory and bytes, measured on the machine at hand."""
