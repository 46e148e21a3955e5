"""What several commands share: options, tables, and the progress of drawing."""
