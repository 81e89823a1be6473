"""Configuration, plans, chunks and resumption of runs."""
