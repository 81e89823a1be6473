"""Proof that paths agree: golden rows on every path, and the log against the batch."""
