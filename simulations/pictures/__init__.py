"""The pictures of the README: what comes out of a run, from synthetic hospitals."""
