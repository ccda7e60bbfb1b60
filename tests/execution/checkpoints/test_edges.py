"""What seldom happens: faults of the machine, races in a workspace, records that others broke."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.coord.sessions.checkpoints import named_in
from ghcoord.coord.sessions.manifests import FolderEntry
from ghcoord.errors import Corrupt, NotFound, SandboxError, UsageError
from ghcoord.execution import process
from ghcoord.execution.checkpoints import scan as scanning
from ghcoord.execution.checkpoints.extractor import MACHINE
from ghcoord.execution.checkpoints.scan import Scan, _drop_orphans, _settled
from ghcoord.execution.checkpoints.unpack import unpack
from ghcoord.execution.files.entries import Entry
from ghcoord.execution.process import Completed
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.limits import DEFAULT_LIMITS
from tests.execution.checkpoints.conftest import RUNTIME, Desk
from tests.execution.checkpoints.test_archives import GOOD, gz
from tests.execution.checkpoints.test_checkpoints import again, hub_contents, hub_manifests
from tests.execution.checkpoints.trees import fill


def stat_of(path: Path) -> os.stat_result:
    """What a walk saw of a file."""
    return path.lstat()


def test_what_was_moved_while_the_workspace_was_read(tmp_path: Path) -> None:
    """Entries whose folder is not among the folders, and names that were two things, are left out and named."""
    info = stat_of(tmp_path)
    found = Scan(
        folders={path: FolderEntry(0o755, 0) for path in ("a", "gone/b", "gone/b/c", "both", "a/l")},
        links={"gone/l": "x", "both": "x", "a/k": "x"},
    )
    files = ("a/f", "gone/b/f", "both", "a/k", "a/f")
    todo = [(Entry(path, "file"), info) for path in files]
    _drop_orphans(found, todo)
    assert {"a", "both", "a/l"} == found.folders.keys()
    assert {"a/k": "x"} == found.links
    assert ["a/f"] == [entry.path for entry, _ in todo]
    assert {"gone/b", "gone/b/c", "gone/l", "both", "gone/b/f", "a/k"} == {each.path for each in found.left_out}


def test_times_that_may_hide_a_change(tmp_path: Path) -> None:
    """A file is known again only when a change since would show: sooner where times are fine, later where coarse."""

    def seen(ctime_ns: int, after: float) -> bool:
        info = os.stat_result((0o100644, 1, 1, 1, 0, 0, 5, 0, 0, 0), {"st_ctime_ns": ctime_ns, "st_mtime_ns": 0})
        return _settled(info, ctime_ns / 1e9 + after)

    assert (False, True) == (seen(10**18 + 1, 0.05), seen(10**18 + 1, 0.2))
    assert (False, True) == (seen(10**18, 0.2), seen(10**18, 3.0))


def test_strange_entries(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link whose text is not UTF-8 and a file that may not be read are left out."""
    session = here.session()
    place = here.open(session)
    os.symlink(b"\xff", os.fsencode(place.workspace) + b"/link")
    fill(place.workspace, {"closed": "x", "open": "y"})
    original = type(place.files).open_read

    def refused(self: Any, path: str) -> Any:
        if path == "closed":
            raise PermissionError
        return original(self, path)

    monkeypatch.setattr(type(place.files), "open_read", refused)
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    record = here.hub.sessions.read_manifest("s1", made.id).record
    assert {"link": "its target is not UTF-8", "closed": "the worker may not read it"} == {
        each.path: each.why for each in record.left_out
    }
    monkeypatch.setattr(scanning, "walk", lambda *args, **options: (_ for _ in ()).throw(OSError(5, "broken disk")))
    with pytest.raises(SandboxError, match="broken disk"):
        here.checkpoints.save(session, place, here.kit.sandbox)


@pytest.mark.parametrize(
    ("stopped", "exit_code", "stderr", "error", "says"),
    [
        ("timeout", None, "", SandboxError, "timeout"),
        ("memory", None, "", SandboxError, "memory"),
        ("workspace", None, "", Corrupt, "workspace_mb"),
        ("", MACHINE, "cannot be unpacked: No space left", SandboxError, "No space left"),
        ("", 139, "", SandboxError, "exit code 139"),
        ("", 1, "x\nthe archive is damaged", Corrupt, "the archive is damaged"),
    ],
)
def test_how_the_extractor_ends(
    kit: Kit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped: Any,
    exit_code: int | None,
    stderr: str,
    error: type[Exception],
    says: str,
) -> None:
    """Faults of the machine are not those of the checkpoint."""

    def run(*args: Any, stdin_fd: int, **options: Any) -> Completed:
        assert options["limits"].timeout is None
        os.close(stdin_fd)
        return Completed(exit_code, "", stderr, False, stopped, False)

    monkeypatch.setattr(process, "run", run)
    assert kit.sandbox is not None
    with pytest.raises(error, match=says):
        unpack(iter([b"x"]), tmp_path, kit.sandbox, RUNTIME, limits=DEFAULT_LIMITS)


def test_a_full_disk_is_no_lost_checkpoint(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine cannot do now is told as such, and the workspace is as it was."""
    session = here.session()
    place = here.open(session)
    fill(place.workspace, {"a": "1"})
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    monkeypatch.setattr(Path, "mkdir", lambda *args, **options: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(SandboxError, match="No space left"):
        here.checkpoints.restore(again(here, session), made.id, place, here.kit)
    monkeypatch.undo()
    assert "1" == (place.workspace / "a").read_text()


def test_a_spoilt_content_is_read_anew(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that finds the local store damaged fails once; the next one reads the workspace again."""
    session = here.session()
    place = here.open(session)
    fill(place.workspace, {"a": "1", "b": "2"})
    RUNTIME.sleep(0.15)
    here.checkpoints.save(session, place, here.kit.sandbox)
    here.hub.contents.drop(layout.checkpoints_folder("s1"))
    for path in here.checkpoints.store("s1").folder.glob("objects/*/*"):
        path.write_bytes(b"damaged")
    with pytest.raises(Corrupt):
        here.checkpoints.save(session, place, here.kit.sandbox)
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    assert {"a", "b"} == here.hub.sessions.read_manifest("s1", made.id).files.keys()
    assert 2 == len(hub_contents(here.hub))


def test_a_journal_beyond_all_bounds(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that speaks of a huge journal is refused; one that is large is cut at its beginning."""
    monkeypatch.setattr("ghcoord.execution.checkpoints.place.MAX_JOURNAL", 4)
    session = here.session()
    place = here.open(session)
    place.journal_path.write_bytes(b"12345678")
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    journal = here.hub.sessions.read_manifest("s1", made.id).record.journal
    assert journal is not None
    assert b"5678" == b"".join(here.hub.sessions.read_content("s1", journal.sha256))
    monkeypatch.setattr("ghcoord.execution.checkpoints.checkpoints.MAX_JOURNAL", 3)
    with pytest.raises(Corrupt, match="journal"):
        here.checkpoints.restore(again(here, session), made.id, place, here.kit)
    place.journal_path.write_bytes(b"")
    made = here.checkpoints.save(session, place, here.kit.sandbox)
    assert here.hub.sessions.read_manifest("s1", made.id).record.journal is None


# -- in the hub


def test_manifests_that_others_broke(here: Desk) -> None:
    """A manifest that is another's, or none, is refused; a clean-up leaves what it cannot read, with what it names."""
    session = here.session()
    place = here.open(session)
    fill(place.workspace, {"a": "1"})
    made, other = (here.checkpoints.save(session, place, here.kit.sandbox) for _ in range(2))
    folder = layout.checkpoints_folder("s1")
    good = here.hub.contents.read_file(folder, layout.manifest_name(made.id))
    assert good is not None
    (digest,) = hub_contents(here.hub)
    odd = {
        "c" + "2" * 12: good,
        "c" + "3" * 12: b"{" + digest.encode(),
        "c" + "4" * 12: b'{"epoch": "x", "listing": {"sha256": 5}}',
        "c" + "5" * 12: b'{"listing": 1}',
    }
    here.hub.contents.put(folder, [], extra={layout.manifest_name(name): data for name, data in odd.items()})
    with pytest.raises(Corrupt, match="another checkpoint"):
        here.hub.sessions.manifest_of("s1", "c" + "2" * 12)
    here.hub.sessions.delete_checkpoint("s1", made.id)
    assert sorted([*odd, other.id]) == sorted(hub_manifests(here.hub))
    assert {digest} == hub_contents(here.hub)
    here.hub.sessions.drop_all("s1")
    assert set() == hub_contents(here.hub)
    with pytest.raises(NotFound):
        here.hub.sessions.manifest_of("s1", made.id)
    with pytest.raises(NotFound):
        here.hub.sessions.prune("nobody")


def test_what_a_manifest_may_name() -> None:
    """Whatever looks like a digest counts, in the listing too; what is longer is none."""
    one, two, listing = "1" * 64, "2" * 64, "3" * 64
    data = f'{{"x": "{one}", "y": "{"4" * 65}", "listing": {{"sha256": "{listing}"}}}}'.encode()
    assert {one, two, listing} == named_in(data, lambda digest: two.encode() if digest == listing else b"")


def test_interrupted_uploads_go_with_a_whole_clean_up(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents that no manifest came for stay while one may come, and go when all is looked through; also many."""
    monkeypatch.setattr("ghcoord.coord.sessions.checkpoints.PAGE", 2)
    session = here.session()
    place = here.open(session)
    fill(place.workspace, {f"f{n}": f"{n}" for n in range(7)})
    first = here.checkpoints.save(session, place, here.kit.sandbox)

    digest = hashlib.sha256(b"left").hexdigest()
    here.hub.contents.put(layout.checkpoints_folder("s1"), [(digest, b"left")])
    fill(place.workspace, {f"f{n}": "the same" for n in range(7)})
    here.checkpoints.save(session, place, here.kit.sandbox)
    here.hub.sessions.delete_checkpoint("s1", first.id)
    assert 1 == len(hub_contents(here.hub) - {digest})
    here.hub.sessions.prune("s1")
    assert 1 == len(hub_contents(here.hub))


def test_only_so_many_are_imported(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session's record does not grow without end."""
    monkeypatch.setattr("ghcoord.coord.sessions.checkpoints.MAX_HELD", 1)
    here.session()
    here.hub.sessions.import_checkpoint("s1", io.BytesIO(gz(*GOOD)))
    with pytest.raises(UsageError, match="delete some"):
        here.hub.sessions.import_checkpoint("s1", io.BytesIO(gz(*GOOD)))
