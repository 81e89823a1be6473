"""Without a key, this very machine is served and no other."""

from __future__ import annotations

import pytest

from feature_pipelines.errors import ContractError
from jobs.submissions.keys import Caller, authenticate


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_served(peer):
    assert authenticate({"host": "localhost:8090"}, peer) == Caller("loopback")


@pytest.mark.parametrize("peer", ["10.0.0.1", "::2", "::ffff:10.0.0.1", None, "", "somewhere"])
def test_no_other_is(peer):
    with pytest.raises(ContractError, match="without one only this machine is served") as caught:
        authenticate({"host": "localhost"}, peer)
    assert (caught.value.evidence["status"], caught.value.evidence["code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("host", ["evil.example:8090", "10.0.0.1", "localhost.evil.example", ""])
def test_a_name_that_was_made_to_lead_here_is_refused(host):
    with pytest.raises(ContractError, match="by its own name"):
        authenticate({"host": host}, "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "[::1]:8090", "LOCALHOST", "localhost:1"])
def test_its_own_names_are_not(host):
    assert authenticate({"host": host}, "127.0.0.1") == Caller("loopback")
