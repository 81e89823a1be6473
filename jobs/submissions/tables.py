"""The tables that submissions are kept in, beside the engine's own in the same database, so that one transaction covers both.

This module opens no database and knows nothing of how a submission is scored.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["KEYS", "METADATA", "NOTIFICATIONS", "PAYLOADS", "RESULTS", "SUBMISSIONS", "WORKERS"]

METADATA = sa.MetaData()

SUBMISSIONS = sa.Table(
    "onescore_submissions",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("payload_hash", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("chunk_rows", sa.Integer, nullable=False),
    sa.Column("notify", sa.Text),
    sa.Column("row_id", sa.Text, nullable=False),
    sa.Column("outputs", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text),
    sa.Column("model_digest", sa.String(64), nullable=False),
    sa.Column("as_of_ts", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(64)),
    sa.Column("message", sa.Text),
    sa.Column("rows_done", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("crashes", sa.Integer, nullable=False),
    sa.Column("created_ts", sa.BigInteger, nullable=False),
    sa.Column("started_ts", sa.BigInteger),
    sa.Column("finished_ts", sa.BigInteger),
    sa.Column("queue", sa.String(64)),
    sa.Column("rows_refused", sa.BigInteger),
    sa.UniqueConstraint("key_id", "idempotency_key", name="onescore_submissions_once"),
    sa.Index("onescore_submissions_of_key", "key_id", "created_ts", "id"),
    sa.Index("onescore_submissions_in_state", "state", "finished_ts"),
)
"""One row each; times are microseconds since 1970, UTC. `n_bytes` is the size of what is stored of its rows.

`row_id` and `outputs` are JSON lists of names: the fields that identify a row, and what an answer to one holds of the model's.
`chunk_rows` and `queue` are fixed at the beginning: all who score it, whatever their configuration, cut it into the same chunks, ask the
same online store, and agree on whether it is large. `queue` came later, so a database may have rows without it: see `takeover.adopt`.
`attempts` are those since the last chunk that was stored as it should be. `rows_refused` is null until a chunk is stored, and where
some chunk was stored by an earlier version, which did not count: see RESULTS.
"""

PAYLOADS = sa.Table(
    "onescore_payloads",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
"""What is to be scored, compressed; apart from SUBMISSIONS, so that lists do not read it."""

RESULTS = sa.Table(
    "onescore_results",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("first_row", sa.BigInteger, primary_key=True),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("ids", sa.LargeBinary, nullable=False),
    sa.Column("n_refused", sa.BigInteger),
)
"""Answers in chunks, each stored once: whoever scores a chunk again finds it there.

`n_refused` is how many of its rows were refused; it came later, and is null in a chunk that an earlier version stored.
"""

WORKERS = sa.Table(
    "onescore_workers",
    METADATA,
    sa.Column("executor_id", sa.String(64), primary_key=True),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
"""Signs of life: `beat` grows while the worker lives. No clock is compared with another machine's."""

NOTIFICATIONS = sa.Table(
    "onescore_notifications",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("submission_id", sa.String(32), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_ts", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.String(64)),
    sa.Index("onescore_notifications_due", "state", "due_ts"),
)
"""Who is told that a submission has ended; see `outbox`."""

KEYS = sa.Table(
    "onescore_keys",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created_ts", sa.BigInteger, nullable=False),
    sa.Column("revoked_ts", sa.BigInteger),
)
"""API keys by name; `hash` is the SHA-256 of 256 random bits, so it needs no salt and cannot be guessed."""
