"""What fedsteph is measured against: torchmil's training and PEFT's merging, each beside fedsteph's own."""
