"""From the files that a hospital really has to bags with one survival label each."""
