"""Messages between server and sites, their encoding in Flower's records, and sealed envelopes."""
