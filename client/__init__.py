"""The site: its data, its training, its task vector, and STEPH where it is a target."""
