"""An entity is forgotten in what is kept of submissions: real ones, of a real gateway and a real worker."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

from jobs.online.entity import parse_entity
from jobs.submissions.forget_submissions import forget_in_submissions
from tests.toy.houses import FEATURES
from tests.toy.serving import asking, write_store
from tests.toy.submitting import JSON, open_async

pytestmark = pytest.mark.e2e


def forget(place, *arguments):
    return place.job("forget_entity", *arguments)


def test_an_entity_leaves_answers_in_their_places_and_open_submissions_are_named(
    bundle, process_env, tmp_path
):
    with open_async(tmp_path, process_env, bundle, "submissions.chunk_rows=2") as place:
        through = write_store(tmp_path / "online.db")
        rows = [row | {"house_id": i} for i, row in enumerate(asking(5, through))]
        gateway = place.gateway()
        worker = place.worker()
        ids = [gateway.submit({"rows": rows}), gateway.submit({"rows": rows[:2]})]
        before = [gateway.finished(id_)["results"] for id_ in ids]
        worker.kill()
        waiting = gateway.submit({"rows": [*rows[:1], {**rows[3], "house_id": "3"}]})
        gateway.submit({"rows": rows[:3]})
        planned = forget(place, "--key", "house_id=3", "--dry-run")
        assert gateway.finished(ids[0])["results"] == before[0]
        done = forget(place, "--key", "house_id=3")
        for said in (planned, done):
            assert said.returncode == 1
            assert (
                f"1 open submissions hold the entity, or refer to a table that may: {waiting};" in said.stderr
            )
            lines = [line.split() for line in said.stdout.splitlines()]
            assert ["answers", "1"] in lines
            assert ["submissions", "with", "such", "1"] in lines
        assert "submissions.db" in done.stdout
        after = [gateway.finished(id_)["results"] for id_ in ids]
        assert after[0][3]["error"]["code"] == "FORGOTTEN"
        assert [*after[0][:3], after[0][4]] == [*before[0][:3], before[0][4]]
        assert after[1] == before[1]
        lines = csv.DictReader(
            gateway.call("GET", f"/submissions/{ids[0]}/results.csv")[2].decode().splitlines()
        )
        assert [line["house_id"] for line in lines] == ["0", "1", "2", "", "4"]
        assert gateway.call("DELETE", f"/submissions/{waiting}", headers=JSON)[0] == 200
        again = forget(place, "--key", "house_id=3")
        assert again.returncode == 0, again.stderr
        assert ["answers", "0"] in [line.split() for line in again.stdout.splitlines()]
        (command,) = [line for line in again.stdout.splitlines() if "submissions.db" in line]
        subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
        assert gateway.finished(ids[0])["results"] == after[0]
        town = forget(place, "--key", f"town={rows[0]['town']}", "--dry-run")
        assert "the answers to 2 submissions do not repeat all of the entity's fields" in town.stdout
        assert "deleted 168 h (submissions.retention_hours) after those ended" in town.stdout


def test_a_database_that_was_never_prepared_holds_nothing(tmp_path):
    entity = parse_entity(FEATURES.request, ["house_id=3"])
    found = forget_in_submissions(f"sqlite:///{tmp_path}/new.db", "houses", entity, dry_run=False)
    assert json.dumps(vars(found)) == '{"rows": 0, "submissions": 0, "open": [], "untold": 0}'
