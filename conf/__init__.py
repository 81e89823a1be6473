"""Configuration files that come with the package; README.md lists every key."""
