"""Trained models as files, and what is made with them: predictions and attention heatmaps."""
