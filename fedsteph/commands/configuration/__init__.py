"""What ``fedsteph config`` prints: every key of every YAML file, from the dataclasses that the files are read into."""
