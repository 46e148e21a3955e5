"""The parts of the page of predictions: the drawing of survival, links to heatmaps, the script that finds patients."""
