"""The remote driver over a real sshd: the store's contract, and what is said when ssh is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ghcoord.errors import Denied, NotFound, Unavailable
from ghcoord.testing.contract import HubUnderTest, StoreContract
from ghcoord.testing.transact_contract import TransactContract
from tests.store.remote.hubs import make_bare, open_remote, under_test
from tests.store.remote.sshd import Sshd, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with served(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture
def hub(sshd: Sshd, tmp_path: Path) -> HubUnderTest:
    path = make_bare(tmp_path / "hub.git")
    return under_test(path, sshd.url(path), tmp_path / "cache", environment=sshd.environment(shared=True))


class TestSsh:
    """What differs from the other protocols of the two contracts: listing, pushing, losing, and bytes as they are."""

    test_create_needs_absence = StoreContract.test_create_needs_absence
    test_stale_expectation_changes_nothing = StoreContract.test_stale_expectation_changes_nothing
    test_several_spaces_whole = StoreContract.test_several_spaces_whole
    test_handles_see_each_other = StoreContract.test_handles_see_each_other
    test_same_content_in_the_same_second = StoreContract.test_same_content_in_the_same_second_has_one_winner
    test_any_bytes = StoreContract.test_any_bytes
    test_history = StoreContract.test_history
    test_a_lost_reply_is_applied_once = TransactContract.test_a_lost_reply_is_applied_once


def test_a_path_of_no_repository(sshd: Sshd, tmp_path: Path) -> None:
    """A missing repository is not found, with the fix."""
    store = open_remote(sshd.url(tmp_path / "no.git"), tmp_path / "cache", environment=sshd.environment())
    with pytest.raises(NotFound, match="ghcoord init"):
        store.heads()


def test_an_unknown_host_key(sshd: Sshd, tmp_path: Path) -> None:
    """A host key that is not known is denied, asks nobody, and says what to do."""
    environment = sshd.environment((f"{sshd.folder}/known", "/dev/null"))
    store = open_remote(sshd.url(make_bare(tmp_path / "hub.git")), tmp_path / "cache", environment=environment)
    with pytest.raises(Denied, match="known_hosts"):
        store.heads()


def test_a_key_that_is_not_accepted(sshd: Sshd, tmp_path: Path) -> None:
    """A key that the server does not know is denied."""
    environment = sshd.environment((f"{sshd.folder}/client", f"{sshd.folder}/host"))
    store = open_remote(sshd.url(make_bare(tmp_path / "hub.git")), tmp_path / "cache", environment=environment)
    with pytest.raises(Denied, match="ssh-add"):
        store.heads()


def test_nobody_listens(tmp_path: Path) -> None:
    """A refused connection is unavailable."""
    store = open_remote("ssh://git@127.0.0.1:1/hub.git", tmp_path / "cache")
    with pytest.raises(Unavailable, match="cannot be reached"):
        store.heads()
