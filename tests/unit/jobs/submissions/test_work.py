"""One submission's way: to its end, or again later, or given up with a reason; with a process that scores replaced by a fake."""

from __future__ import annotations

import contextlib

import pytest

from feature_pipelines.errors import ModelError
from jobs.submissions.ledger_chunk import Chunk
from jobs.submissions.scorer_pool import Crashed, Scored, Unscored, Unwanted
from jobs.submissions.scoring import Model
from jobs.submissions.work import Limits, Refused, Stopping, Work

LIMITS = Limits(max_crashes=2, max_attempts=4, retry_seconds=0.001)


class Pool:
    """Lends itself; says or raises what it is told, one thing a chunk, then answers."""

    def __init__(self, *said):
        self.said, self.asked, self.settled = list(said), [], []

    @contextlib.contextmanager
    def lent(self):
        yield self

    def settle(self, is_taken):
        self.settled.append(is_taken)

    def score(self, model, as_of, payload, rows, *, is_last, is_wanted):
        self.asked.append((rows, payload is not None, is_last))
        found = self.said.pop(0) if self.said else 0
        if isinstance(found, BaseException):
            raise found
        first, n = rows
        return Scored(Chunk.packed(first, n, b"\n".join([b"{}"] * n), b"\n".join([b"[]"] * n)), found)


class Models:
    def __init__(self, raised=None):
        self.raised = raised

    def of(self, submission):
        if self.raised is not None:
            raise self.raised
        return Model("directory", submission.model_version, submission.model_digest)


def worked(kept, pool, *, n_rows=5, models=None, large=None):
    id_ = kept.take(n_rows).submission.id
    work = Work(kept.ledger, models or Models(), pool, large, LIMITS)
    run_out(work, id_)
    return kept.ledger.get(id_)


def run_out(work, id_):
    """Do as the engine does, without its pauses; return these."""
    pauses = []
    while (pause := work.run(id_)) is not None:
        pauses.append(pause)
    return pauses


def test_chunks_are_scored_in_order_and_the_payload_goes_with_the_first(kept):
    pool = Pool()
    found = worked(kept, pool)
    assert (found.state, found.attempts) == ("succeeded", 1)
    assert pool.asked == [((0, 2), True, False), ((2, 2), False, False), ((4, 1), False, False)]


def test_what_the_store_did_not_answer_is_asked_again_and_what_is_stored_is_not(kept):
    pool = Pool(0, 1)
    found = worked(kept, pool)
    assert found.state == "succeeded"
    assert [rows for rows, _, _ in pool.asked] == [(0, 2), (2, 2), (2, 2), (4, 1)]


def test_attempts_are_counted_anew_once_something_was_stored(kept):
    pool = Pool(*[1, 1, 0] * 3)
    found = worked(kept, pool)
    assert (found.state, found.attempts, len(pool.asked)) == ("succeeded", 1, 9)
    assert not any(is_last for _, _, is_last in pool.asked)


def test_it_is_left_to_later_and_later_each_time(kept):
    id_ = kept.take(5).submission.id
    pauses = run_out(Work(kept.ledger, Models(), Pool(1, 1, 1), None, LIMITS), id_)
    assert pauses == [0.001, 0.002, 0.004]


def test_in_the_last_attempt_answers_are_taken_as_they_are(kept):
    found = worked(kept, Pool(1, 1, 1, 1, 1, 1))
    assert (found.state, found.attempts, found.rows_done) == ("succeeded", 4, 5)


def test_poison_is_given_up_after_some_crashes(kept):
    found = worked(kept, Pool(Crashed("Ended"), Crashed("Late")))
    assert (found.state, found.reason, found.crashes) == ("failed", "SCORER_CRASHED", 2)


def test_a_crash_at_the_model_is_no_submissions_fault(kept):
    found = worked(kept, Pool(*[Crashed("Ended", is_loading=True)] * 4))
    assert (found.state, found.reason, found.crashes) == ("failed", "MODEL_UNAVAILABLE", 0)


@pytest.mark.parametrize("models", [Models(ModelError("gone"))])
def test_a_model_that_cannot_be_had_is_asked_for_again_and_given_up_in_the_end(kept, models):
    found = worked(kept, Pool(), models=models)
    assert (found.state, found.reason, found.attempts) == ("failed", "MODEL_UNAVAILABLE", 4)


def test_a_process_that_cannot_begin_is_asked_again(kept):
    assert worked(kept, Pool(Unscored("UnavailableError", "x", True))).state == "succeeded"


def test_an_error_of_our_own_is_no_end(kept):
    pool = Pool(ZeroDivisionError("data of a row"))
    assert (worked(kept, pool).state, len(pool.asked)) == ("succeeded", 4)


def test_who_dies_again_and_again_with_it_gives_it_up(kept):
    id_ = kept.take(5).submission.id
    for _ in range(4):
        kept.ledger.begin(id_)
    run_out(Work(kept.ledger, Models(), Pool(), None, LIMITS), id_)
    found = kept.ledger.get(id_)
    assert (found.state, found.reason) == ("failed", "ATTEMPTS_EXHAUSTED")


def test_a_cancelled_submission_is_left_alone_also_between_its_chunks(kept):
    id_ = kept.take(5).submission.id
    pool = Pool()
    work = Work(kept.ledger, Models(), pool, None, LIMITS)
    score = pool.score

    def cancelling(*arguments, **more):
        kept.ledger.end(id_, "cancelled")
        return score(*arguments, **more)

    pool.score = cancelling
    work.run(id_)
    assert (kept.ledger.get(id_).state, len(pool.asked), kept.ledger.stored(id_)) == ("cancelled", 1, [])
    work.run(id_)
    assert len(pool.asked) == 1


def test_answers_are_settled_as_taken_by_whom_they_were_stored(kept):
    id_, pool = kept.take(5).submission.id, Pool()
    kept.ledger.begin(id_)
    score = pool.score

    def beaten(model, as_of, payload, rows, **more):
        found = score(model, as_of, payload, rows, **more)
        if rows == (2, 2):
            kept.ledger.store(id_, [found.chunk])
        return found

    pool.score = beaten
    run_out(Work(kept.ledger, Models(), pool, None, LIMITS), id_)
    assert (kept.ledger.get(id_).state, pool.settled) == ("succeeded", [True, False, True])


def test_who_scores_what_was_cancelled_is_told_and_its_answers_are_not_settled(kept):
    id_, pool = kept.take(5).submission.id, Pool()

    def score(*_arguments, is_wanted, **_more):
        assert is_wanted()
        kept.ledger.end(id_, "cancelled")
        assert not is_wanted()
        raise Unwanted

    pool.score = score
    assert Work(kept.ledger, Models(), pool, None, LIMITS).run(id_) is None
    assert (kept.ledger.get(id_).state, pool.settled) == ("cancelled", [])


def test_what_ended_a_process_before_is_tried_on_one_at_a_time_and_others_beside_it(kept):
    first, second, healthy = (kept.take(2).submission.id for _ in range(3))
    for id_ in (first, second):
        kept.ledger.crashed(id_)
    pool = Pool()
    work = Work(kept.ledger, Models(), pool, None, LIMITS)
    score, meanwhile = pool.score, []

    def scoring(*arguments, **more):
        pool.score = score
        meanwhile.extend([work.run(second), work.run(second), work.run(second), work.run(healthy)])
        return score(*arguments, **more)

    pool.score = scoring
    assert work.run(first) is None
    assert meanwhile == [0.001, 0.002, 0.004, None]
    assert (kept.ledger.get(second).state, kept.ledger.get(second).attempts) == ("queued", 0)
    assert work.run(second) is None


def test_a_spark_job_that_refuses_again_and_again_has_a_reason_of_its_own(kept):
    def large(*_arguments, **_more):
        raise Refused("exit code")

    found = worked(kept, Pool(), n_rows=11, large=large)
    assert (found.state, found.reason, found.attempts) == ("failed", "SPARK_JOB_REFUSED", 4)


def test_a_large_one_goes_to_the_large_and_again_if_some_of_it_is_missing(kept):
    calls = []

    def large(submission, *, is_last, is_wanted):
        calls.append(is_wanted())
        if len(calls) == 2:
            chunks = range(0, submission.n_rows, 2)
            kept.ledger.store(
                submission.id,
                [Chunk.packed(at, min(2, submission.n_rows - at), b"{}", b"[]") for at in chunks],
            )

    found = worked(kept, Pool(), n_rows=11, large=large)
    assert (found.state, calls) == ("succeeded", [True, True])


def test_who_is_about_to_end_begins_nothing_and_stores_what_is_under_way(kept):
    id_ = kept.take(5).submission.id
    pool = Pool()
    work = Work(kept.ledger, Models(), pool, None, LIMITS)
    score = pool.score
    pool.score = lambda *arguments, **more: (work.stop(), score(*arguments, **more))[1]
    with pytest.raises(Stopping):
        work.run(id_)
    assert (kept.ledger.stored(id_), work.running()) == ([(0, 2)], set())
    assert kept.ledger.get(id_).attempts == 0
    with pytest.raises(Stopping):
        work.run(id_)
