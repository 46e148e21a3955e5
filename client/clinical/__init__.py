"""Cox models of clinical values, without and with the slide's risk; all of it stays at the site."""
