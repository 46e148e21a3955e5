"""What a final model's file holds for reading a prediction: its training patients' survival, and its quality."""
