"""Asynchronous inference: submissions that are accepted now, kept, scored later by whoever is alive, and fetched when done."""
