"""What is sent: messages, their protocol over Flower, and sealed envelopes."""
