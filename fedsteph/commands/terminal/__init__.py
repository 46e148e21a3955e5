"""Code that several commands share: options, tables, exit codes, and the progress of drawing pages."""
