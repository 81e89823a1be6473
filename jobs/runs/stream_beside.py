"""Whether the tables that a new query is to write hold rows of another query of its model, which it would double.

A query is its checkpoint, so one with another checkpoint begins anew, and adds what it reads to tables that have no key. Rows, not
the log's transactions, are the evidence: rows that were taken back double nothing. There is no lock over checkpoints: it is looked when a
query begins, and again before its first batch is committed. This module never writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow.compute as pc

from feature_pipelines.errors import RunConflictError
from jobs.runs.conf import Conf
from jobs.runs.stream_state import QUERY_PREFIX
from jobs.tables.delta_read import is_delta, open_table, require_plain

__all__ = ["queries_in", "require_alone"]

_AFTER_PREFIX = QUERY_PREFIX[:-1] + chr(ord(QUERY_PREFIX[-1]) + 1)
_SHOWN = 5


def queries_in(uri: str, model: str) -> list[str]:
    """Return the ids of the queries that have rows of a model in a table, sorted; none where no table is.

    The log's statistics pass over the files of all other runs.

    Raises:
        TableError: the table cannot be read without Delta's own reader, or its store does not answer.
    """
    if not is_delta(uri):
        return []
    table = open_table(uri)
    if not {"model_name", "run_id"} <= {field.name for field in table.schema().fields}:
        return []  # of another kind, and refused as such when it is written
    require_plain(table, uri)
    run_id = pc.field("run_id")
    is_wanted = (pc.field("model_name") == model) & (run_id >= QUERY_PREFIX) & (run_id < _AFTER_PREFIX)
    found: set[str] = set()
    for batch in table.to_pyarrow_dataset().to_batches(columns=["run_id"], filter=is_wanted):
        found.update(pc.unique(batch.column("run_id")).to_pylist())
    return sorted(found)


def require_alone(conf: Conf, checkpoint: str) -> None:
    """Refuse a query without a batch where its tables have rows of another one of its model.

    Args:
        conf: names the tables.
        checkpoint: of the new query.

    Raises:
        RunConflictError: they have; names the queries, and what can be done. TableError: see `queries_in`.
    """
    tables = [conf.table_location(conf.output.scored), conf.table_location(conf.output.quarantine)]
    found = {uri: ids for uri in tables if (ids := queries_in(uri, conf.model.name))}
    if found:
        raise RunConflictError(_message(conf, checkpoint, found), checkpoint=checkpoint, queries=found)


def _message(conf: Conf, checkpoint: str, found: Mapping[str, Sequence[str]]) -> str:
    uri, ids = next(iter(found.items()))
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    taking_back = f"from jobs.tables.delta import delete_rows; delete_rows({uri!r}, 'run_id', {ids[0]!r})"
    return (
        f"stream.checkpoint: {checkpoint} has no batch yet, and {uri} already has rows of model {conf.model.name!r} by query "
        f"{', '.join(ids[:_SHOWN])}{more}. A new one would begin anew and add the same rows again. Nothing of it was committed. Go on "
        "with that query by its own checkpoint; or give this one tables of its own (output.scored, output.quarantine); or take the other's "
        f'rows back once it has ended, in both tables (python -c "{taking_back}"); or, if this one reads other rows (of another source, or '
        "from where that one ended, by stream.options.startingVersion or what its source has for that), add --beside"
    )
