"""What a worker does beside its work: history that has been kept long enough is deleted, and nothing open is left without who scores it.

Any number of workers may do so at once. This module waits for nobody.
"""

from __future__ import annotations

from dbos import DBOSClient

from jobs.submissions.ledger import Ledger

__all__ = ["expire", "settle"]

_ALIVE = frozenset({"ENQUEUED", "DELAYED", "PENDING"})


def expire(ledger: Ledger, client: DBOSClient, before: int) -> int:
    """Delete what ended before a time, microseconds, the engine's history of it first; return how many that were.

    Killed between the two it is done again: as long as the ledger has it, it is found.
    """
    n = 0
    while ids := ledger.expired(before):
        client.delete_workflows(ids)
        ledger.delete(ids)
        n += len(ids)
    return n


def settle(ledger: Ledger, client: DBOSClient, before: int) -> int:
    """End what is open since a time but not in the engine any more, which should never be; return how many that were.

    Else who submitted it would wait for ever, and it would take a place in the bounded queue.
    """
    ids = ledger.open_since(before)
    if not ids:
        return 0
    found = client.list_workflows(workflow_ids=ids, load_input=False, load_output=False)
    alive = {one.workflow_id for one in found if one.status in _ALIVE}
    message = "the engine does not know it any more; submit it again"
    return sum(ledger.end(id_, "failed", "LOST_BY_ENGINE", message) for id_ in ids if id_ not in alive)
