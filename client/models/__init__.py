"""Saves and loads trained models, predicts with them, and draws attention heatmaps."""
