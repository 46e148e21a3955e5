"""What a method developer looks for on a target's page: weights by epoch, SAR, the loss landscape."""
