"""Report pages of text, tables and figures, as one HTML file that loads nothing from any network."""
