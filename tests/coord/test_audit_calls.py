"""Recorded tool calls: never in the way of the call, nothing lost while there is room, no secrets, removed by age."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghcoord.bootstrap import open_hub
from ghcoord.clock import SystemRuntime
from ghcoord.config import Settings
from ghcoord.coord.audit.calls import DROPPED
from ghcoord.coord.audit.outbox import BATCH_ITEMS, Batch, Outbox
from ghcoord.coord.audit.redact import (
    MAX_KNOWN,
    MAX_TEXT,
    MAX_TOTAL,
    MAX_USERS,
    REDACTED,
    Known,
    is_secret,
    keep,
    keep_text,
)
from ghcoord.coord.layout import AUDIT, calls_path
from ghcoord.errors import Denied, NotFound, OutcomeUnknown, Unavailable, UsageError
from ghcoord.hub import Hub
from ghcoord.model.event import AuditEntry
from ghcoord.model.task import TaskResult
from ghcoord.store.base import ChangeSet, Oid, Operation
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.wrappers import WrappedStore
from ghcoord.testing.clock import ManualRuntime
from tests.coord.world import World

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ012345"


def entry(number: int = 0, **more: Any) -> AuditEntry:
    return AuditEntry(**{"session_id": "s1", "tool_name": "echo", "arguments": {"n": number}, **more})


def numbers(hub: Hub) -> list[int]:
    """The calls in the log, oldest first, by the number in their arguments."""
    return [
        event.fields["arguments"]["n"]
        for event in hub.audit.log(kind="tool call", oldest_first=True)
        if event.fields.get("arguments")
    ]


class Switch(WrappedStore):
    """A store whose commits to the audit space are refused while ``off``."""

    off = False

    def commit(
        self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
    ) -> dict[str, Oid]:
        if self.off and AUDIT in changes:
            raise Denied("switched off")
        return super().commit(expected, changes, op)


# -- recording


def test_an_entry_is_kept_with_all_its_fields(both: World) -> None:
    """Call and result come back with the documented keys, at their own times."""
    hub = both.open("server")
    call = AuditEntry(
        timestamp=datetime.fromtimestamp(both.runtime.now() - 30, UTC),
        session_id="s1",
        user_id="u1",
        tool_name="fs.read",
        arguments={"path": "a.py"},
        trace_id="t1",
        workspace_id="w1",
    )
    hub.audit.tool_call(call)
    result = TaskResult(success=False, output="out", error="boom", exit_code=3, duration=0.5, data={"x": 1})
    hub.audit.tool_result(call.model_copy(update={"result": result, "error_msg": "it failed", "timestamp": None}))
    hub.audit.flush()
    after, before = hub.audit.log(session="s1")
    assert ("tool result", "tool call") == (after.kind, before.kind)
    assert call.timestamp == before.at
    assert hub.now() == after.at
    assert {
        "timestamp": "2023-11-14T22:12:50.000Z",
        "session_id": "s1",
        "user_id": "u1",
        "tool_name": "fs.read",
        "arguments": {"path": "a.py"},
        "result": None,
        "error_msg": "",
        "trace_id": "t1",
        "workspace_id": "w1",
    } == before.fields
    assert "it failed" == after.fields["error_msg"]
    kept = {"success": False, "output": "out", "error": "boom", "exit_code": 3, "duration": 0.5, "data": {"x": 1}}
    assert kept.items() <= after.fields["result"].items()
    assert ("server", hub.heads()[AUDIT]) == (after.by, after.commit)


def test_entries_are_written_together_every_interval(world: World) -> None:
    """Nothing is committed before the interval is over; then all in one commit, in a folder of its minute."""
    hub = world.open()
    commits = hub.commits
    for number in range(20):
        hub.audit.tool_call(entry(number))
    world.runtime.advance(4.9)
    assert (20, commits) == (hub.audit.pending, hub.commits)
    world.runtime.advance(0.2)
    assert (0, commits + 1) == (hub.audit.pending, hub.commits)
    [path] = [path for path in world.files(AUDIT) if path.startswith("calls/")]
    assert path.startswith("calls/2023/11/14/22/13/1700000005000-")
    world.runtime.advance(60)
    assert commits + 1 == hub.commits
    assert list(range(20)) == numbers(hub)


def test_closing_the_hub_writes_what_is_left(world: World) -> None:
    """Nothing is lost when a program ends as it should, and nothing can be recorded afterwards."""
    with world.open("a") as hub:
        hub.audit.tool_call(entry(7))
    with pytest.raises(Unavailable, match="the hub is closed"):
        hub.audit.tool_call(entry(8))
    assert [7] == numbers(world.open("b"))


def test_a_call_never_waits_for_the_hub() -> None:
    """With a store that hangs calls with large arguments return within 10 ms."""
    stuck, go_on = threading.Event(), threading.Event()

    class Hanging(WrappedStore):
        def commit(
            self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
        ) -> dict[str, Oid]:
            if AUDIT in changes:
                stuck.set()
                go_on.wait(30)
            return super().commit(expected, changes, op)

    runtime = SystemRuntime()
    hub = open_hub(Hanging(MemoryStore(runtime.now)), runtime, Settings(), actor="me")
    hub.audit.interval = 0.001
    hub.audit.tool_call(entry())
    assert stuck.wait(10)
    took = []
    big = entry(arguments={"contents": "x" * 1_000_000, "list": [1] * 100_000})
    for _ in range(60):
        began = time.perf_counter()
        hub.audit.tool_call(big)
        took.append(time.perf_counter() - began)
    assert 0.01 > sorted(took)[30], "this machine may be busy with other things at times"
    assert 5 > max(took)
    with pytest.raises(Unavailable, match=r"61 audit entries are left: the hub did not answer in 0.05 s"):
        hub.audit.flush(0.05)
    go_on.set()
    hub.audit.flush()
    assert 0 == hub.audit.pending
    assert 61 == len(list(hub.audit.log(kind="tool call")))
    hub.close()


def test_what_could_not_be_written_is_written_later(world: World) -> None:
    """While writing fails entries wait and ``trouble`` says why; once it works all are there, in order, once."""
    switch = Switch(world.store())
    hub = world.open(store=switch)
    switch.off = True
    for number in range(30):
        hub.audit.tool_call(entry(number))
        world.runtime.advance(1)
    assert (30, "switched off") == (hub.audit.pending, hub.audit.trouble)
    with pytest.raises(Denied, match="switched off"):
        hub.audit.flush()
    switch.off = False
    world.runtime.advance(10)
    assert (0, "") == (hub.audit.pending, hub.audit.trouble)
    assert list(range(30)) == numbers(hub)


def test_a_lost_reply_writes_nothing_twice(world: World) -> None:
    """A flush whose outcome stayed unknown is sent again into the same file."""

    class Silent(WrappedStore):
        off = False

        def heads(self) -> dict[str, Oid]:
            if self.off:
                raise Unavailable("no answer")
            return super().heads()

        def commit(
            self, expected: Mapping[str, Oid | None], changes: Mapping[str, ChangeSet], op: Operation
        ) -> dict[str, Oid]:
            made = super().commit(expected, changes, op)
            if AUDIT in changes and first:
                first.clear()
                self.off = True
                raise OutcomeUnknown("no answer")
            return made

    first = [1]
    silent = Silent(world.store())
    hub = world.open(store=silent)
    hub.audit.tool_call(entry(1))
    with pytest.raises(OutcomeUnknown):
        hub.audit.flush(600)
    hub.audit.tool_call(entry(2))
    silent.off = False
    hub.audit.flush(600)
    other = world.open("other")
    assert [1, 2] == numbers(other)
    assert 2 == len(list(other.audit.log(kind="tool calls recorded")))


def test_an_error_of_the_program_is_not_hidden_by_the_close(world: World) -> None:
    """Entries that cannot be written make closing fail; an exception on its way out goes first."""
    switch = Switch(world.store())
    hub = world.open(store=switch)
    hub.audit.tool_call(entry())
    switch.off = True
    with pytest.raises(Denied, match="switched off"):
        hub.close()
    again = world.open(store=switch)
    again.audit.tool_call(entry())
    with pytest.raises(NotFound, match="of the program"), again:
        raise NotFound("of the program")


def test_what_is_too_much_is_dropped_from_the_front_and_counted() -> None:
    """The buffer is bounded in number and in bytes; the next batch says how many are missing."""
    runtime = ManualRuntime()
    sent: list[Batch] = []
    for most, most_bytes in ((10, 10**9), (10**9, 10 * 100)):
        box = Outbox(runtime, sent.append, to="there", interval=5.0, most=most, most_bytes=most_bytes)
        for number in range(25):
            box.put(str(number).encode().rjust(100))
        assert 10 == box.pending
        runtime.advance(5)
        batch = sent.pop()
        assert (15, [*range(15, 25)]) == (batch.dropped, [int(item) for item in batch.items])
    assert [] == sent


def test_the_log_says_how_many_were_dropped(world: World) -> None:
    """A loss is an entry of its own, before those that follow it."""
    switch = Switch(world.store())
    hub = world.open(store=switch)
    switch.off = True
    hub.audit.tool_call(entry(0))
    with pytest.raises(Denied):
        hub.audit.flush()
    hub.audit._outbox._most = 100
    for number in range(1, 251):
        hub.audit.tool_call(entry(number))
    assert 101 == hub.audit.pending, "the batch that was tried, and what there is room for"
    switch.off = False
    hub.audit.flush()
    (dropped,) = hub.audit.log(kind=DROPPED)
    kept = numbers(hub)
    assert 150 == dropped.fields["count"]
    assert [0, *range(151, 251)] == kept


def test_a_batch_goes_at_once_when_it_is_whole() -> None:
    """Many entries do not wait for the interval, and none goes in a batch of more than 2,000."""
    runtime = ManualRuntime()
    sent: list[Batch] = []
    box = Outbox(runtime, sent.append, to="there", interval=5.0)
    for number in range(5000):
        box.put(b"%d" % number)
    runtime.settle()
    box.flush(1.0)
    assert 5000 == sum(len(batch.items) for batch in sent)
    assert BATCH_ITEMS >= max(len(batch.items) for batch in sent)
    assert [*range(5000)] == [int(item) for batch in sent for item in batch.items]


def test_threads_record_together(world: World) -> None:
    """Twelve threads lose nothing."""
    hub = world.open()

    def work(start: int) -> None:
        for number in range(100):
            hub.audit.tool_call(entry(start + number))

    threads = [threading.Thread(target=work, args=(100 * at,)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hub.audit.flush()
    assert list(range(1200)) == sorted(numbers(hub))


def test_calls_of_several_processes_are_merged_by_their_own_times(world: World) -> None:
    """A process that flushed late has its calls where they happened, not where they were written."""
    early, late = world.open("early"), world.open("late")
    late.audit.interval = 60
    for number in range(0, 10, 2):
        late.audit.tool_call(entry(number))
        world.runtime.advance(6)
        early.audit.tool_call(entry(number + 1))
        world.runtime.advance(6)
    for hub in (early, late):
        hub.audit.flush()
    assert list(range(10)) == numbers(early)
    assert [9, 8] == [event.fields["arguments"]["n"] for event in early.audit.log(limit=2)]


# -- sinks


def test_a_logger_gets_each_entry_as_json(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """``sink`` is a logger or a function; what it gets is redacted as well, and its failures hurt nobody."""
    hub = world.open()
    logger = logging.getLogger("ghcoord.audit")
    hub.audit.sink = logger
    with caplog.at_level(logging.INFO, logger.name):
        hub.audit.tool_call(entry(arguments={"password": "hunter2"}))
        hub.audit.flush()
    [record] = caplog.records
    assert {"password": REDACTED} == json.loads(record.getMessage())["arguments"]
    seen: list[dict[str, Any]] = []

    def tell(line: dict[str, Any]) -> None:
        seen.append(line)
        raise RuntimeError("a sink that breaks")

    hub.audit.sink = tell
    hub.audit.tool_call(entry(1))
    hub.audit.tool_call(entry(2))
    hub.audit.flush()
    assert [1, 2] == [line["arguments"]["n"] for line in seen]
    assert 3 == len(list(hub.audit.log(kind="tool call")))


def test_an_interval_is_checked(hub: Hub) -> None:
    """Neither never nor without rest."""
    for seconds in (0, -1, 3601):
        with pytest.raises(UsageError, match="out of range"):
            hub.audit.interval = seconds


# -- secrets and sizes


@pytest.mark.parametrize(
    "key",
    "password PASSWORD db_password userPasswd pwd passphrase token GITHUB_TOKEN githubToken authorization "
    "Authorization api_key apiKey X-Api-Key secret client_secret secretKey AWS_SECRET_ACCESS_KEY accessKeyId "
    "private_key cookie Set-Cookie credentials bearer jwt connection_string auth pin".split(),
)
def test_names_of_secrets(key: str) -> None:
    """What goes by such a name is not kept, at any depth, whatever its type but a flag."""
    assert is_secret(key)
    kept = keep({"a": [{key: "hunter2"}], key: {"x": "hunter2"}})
    assert "hunter2" not in json.dumps(kept)
    assert REDACTED == kept["a"][0][key]


@pytest.mark.parametrize(
    "value",
    [
        {b"password": "hunter2"},
        {"\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44": "hunter2"},
        {"x" * 210 + "_password": "hunter2"},
        [("Authorization", "hunter2")],
        [{"name": "password", "value": "hunter2"}],
        json.dumps(json.dumps({"password": "hunter2"})),
        'password="a b\\" hunter2"',
        "Authorization: Digest hunter2",
        "Set-Cookie: a=b; sid=hunter2",
    ],
)
def test_names_in_other_shapes(value: Any) -> None:
    """Keys as bytes, in other letters or very long, pairs, JSON in JSON, headers."""
    assert "hunter2" not in json.dumps(keep(value))


@pytest.mark.parametrize("key", "path key keys monkey author authors tokenizer passing compass signal pinned".split())
def test_names_that_are_no_secrets(key: str) -> None:
    """Ordinary arguments stay readable."""
    assert {key: "value"} == keep({key: "value"})


def test_numbers_of_tokens_are_kept() -> None:
    """A count or a fencing token is no secret, a number for a password is."""
    assert {"max_tokens": 4096, "token": 17, "password": REDACTED} == keep(
        {"max_tokens": 4096, "token": 17, "password": 1234}
    )


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"git clone https://x:{SECRET}@github.com/o/r", f"git clone https://x:{REDACTED}@github.com/o/r"),
        ("https://user:pass@host/p", f"https://user:{REDACTED}@host/p"),
        (f"before {SECRET} after", f"before {REDACTED} after"),
        ("github_pat_11ABCDEFG0abcdefghijklm", REDACTED),
        ("key AKIAIOSFODNN7EXAMPLE", f"key {REDACTED}"),
        ("curl -H 'Authorization: Bearer abcdefgh'", f"curl -H 'Authorization: {REDACTED}'"),
        ("bearer abcdefgh.ijk", f"bearer {REDACTED}"),
        ("sk-proj-0123456789abcdef", REDACTED),
        ("x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.sig y", f"x {REDACTED} y"),
        ("mysql --password hunter2 -u root", f"mysql --password {REDACTED} -u root"),
        ("mysql --password=hunter2", f"mysql --password={REDACTED}"),
        ('{"api_key": "abc def", "x": 1}', f'{{"api_key": {REDACTED}, "x": 1}}'),
        ("DB_PASSWORD=hunter2 make", f"DB_PASSWORD={REDACTED} make"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nx", f"{REDACTED}\nx"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", REDACTED),
        (f"echo ghc_{'aB3-_' * 8} > f", f"echo {REDACTED} > f"),
        ("sk_live_0123456789abcdef", REDACTED),
        ("curl -s -u ann:hunter2 https://x", f"curl -s -u ann:{REDACTED} https://x"),
        ("git push -u origin:main; docker run -u 1000:1000 x", "git push -u origin:main; docker run -u 1000:1000 x"),
        ("https://hooks.slack.com/services/T0/B0/abcdef", f"https://hooks.slack.com/services/{REDACTED}"),
        ("https://x.example/f?sig=aBc%2F12345&sv=1", f"https://x.example/f?sig={REDACTED}&sv=1"),
        ("the token was lost, ask the secretary", "the token was lost, ask the secretary"),
        ("task-0123456789abcdef0123", "task-0123456789abcdef0123"),
    ],
)
def test_looks_of_secrets(text: str, kept: str) -> None:
    """Tokens of well-known services and what is assigned to a secret's name are replaced inside of any text."""
    assert kept == keep_text(text)


def test_a_command_line_as_a_list() -> None:
    """The word after an option that names a secret is one."""
    assert ["mysql", "--password", REDACTED, "-u", "root"] == keep(["mysql", "--password", "hunter2", "-u", "root"])


def test_a_secret_does_not_hide_in_the_cut() -> None:
    """One that begins before the cut is replaced whole, not kept in part."""
    for at in range(MAX_TEXT - 50, MAX_TEXT):
        assert "ghp_" not in keep_text("x" * (at - 1) + " " + SECRET + "y" * 10_000)[: MAX_TEXT - 1 + 20]


def test_what_is_cut_says_so() -> None:
    """Texts, lists and objects that are too long end in a mark; what is no JSON is named."""
    assert "x" * MAX_TEXT + "… [6000 more characters]" == keep_text("x" * 10_000)
    assert "[3 bytes]" == keep(b"abc")
    assert ["nan", "inf", "[a number of 200 bits]"] == keep([float("nan"), float("inf"), 2**199])
    assert {"[int]": "[object]"} == keep({1: object()})
    assert keep([0] * 100_000)[-1].endswith("more]")
    assert keep({str(n): n for n in range(100_000)})["…"].endswith("more]")
    deep: Any = []
    for _ in range(1000):
        deep = [deep]
    assert "nested too deeply" in json.dumps(keep(deep))
    circle: dict[str, Any] = {}
    circle["self"] = circle
    assert "nested too deeply" in json.dumps(keep(circle))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below) | st.tuples(below, below),
    max_leaves=30,
)


@given(value=JSON, big=st.integers(0, 60_000))
@settings(max_examples=60, deadline=None)
def test_anything_becomes_bounded_json(value: Any, big: int) -> None:
    """Whatever a caller passes, what is kept is JSON of bounded size."""
    kept = keep({"value": value, "big": "é" * big, "more": [value] * 20})
    text = json.dumps(kept, allow_nan=False)
    assert MAX_TOTAL + 6 * MAX_TEXT + 2000 > len(text)
    assert kept == json.loads(text)


@given(
    before=st.text(alphabet=st.characters(exclude_categories=("L", "N"), exclude_characters="_-"), max_size=30),
    after=st.text(alphabet=" \n,;)'\"", max_size=10),
    depth=st.integers(0, 8),
)
@settings(max_examples=60, deadline=None)
def test_a_known_secret_is_found_anywhere(before: str, after: str, depth: int) -> None:
    """In any text at any depth, under a name that tells nothing."""
    value: Any = before + SECRET + after
    for _ in range(depth):
        value = {"x": [value]}
    assert SECRET not in json.dumps(keep({"x": value}))


def test_what_was_called_a_secret_is_one_everywhere(world: World) -> None:
    """Under its name in one call, in the output of that or a later one under none: as it is and as JSON writes it."""
    hub = world.open()
    secret, other = 'correct "horse"\nbattery', "staple-staple"
    hub.audit.tool_call(entry(arguments={"env": {"DB_PASSWORD": f" {secret}\n"}, "credentials": {"of": ["ab", other]}}))
    said = f"{other} {secret} {json.dumps([secret])}"
    result = TaskResult(success=False, output=said, error=said, data={"stdout": said, said: 1})
    hub.audit.tool_result(entry(arguments={"command": f"echo {other}"}, result=result, error_msg=said))
    hub.audit.tool_result(entry(result=TaskResult(success=True, output="key = v4lue-x", data={"api_key": "v4lue-x"})))
    hub.audit.tool_call(entry(arguments={"text": f"{secret[:-1]} ab staple"}))
    hub.audit.flush()
    kept = json.dumps([event.fields for event in hub.audit.log(oldest_first=True, kind="tool ")])
    for part in ("horse", "battery", other, "v4lue-x"):
        assert part not in kept.replace(json.dumps(f"{secret[:-1]} ab staple"), "")
    assert "ab staple" in kept, "only what is whole, and no short word"
    hub.audit.tool_call(entry(arguments={f"password{n}": f"secret-{n:04}" for n in range(MAX_KNOWN + 1)}))
    assert MAX_KNOWN >= len(hub.audit._known.of("")._secrets)


def test_a_secret_of_one_user_hides_nothing_of_another(world: World) -> None:
    """Nobody can blank the others' entries, or learn from what is missing there; users are forgotten as well."""
    hub = world.open()
    hub.audit.tool_call(entry(arguments={"password": "rm -rf /"}, user_id="ann"))
    for user in ("ann", "ben"):
        hub.audit.tool_call(entry(arguments={"command": "rm -rf /"}, user_id=user))
    hub.audit.flush()
    said = {e.fields["user_id"]: e.fields["arguments"] for e in hub.audit.log(oldest_first=True, kind="tool ")}
    assert {"ann": {"command": REDACTED}, "ben": {"command": "rm -rf /"}} == said
    for number in range(MAX_USERS + 1):
        hub.audit.tool_call(entry(user_id=str(number)))
    assert MAX_USERS == len(hub.audit._known._users)


def test_many_known_secrets_cost_little() -> None:
    """With as many as are kept a large entry takes a few milliseconds."""
    known = Known()
    known.learn([f"secret number {n}" for n in range(MAX_KNOWN)])
    took = []
    for _ in range(5):
        began = time.perf_counter()
        kept = keep({"one": "secret number 7", "texts": ["x" * 10] * 500, "more": "y" * 10_000}, known)
        took.append(time.perf_counter() - began)
    assert REDACTED == kept["one"]
    assert 0.05 > min(took)


# -- retention


def aged(world: World) -> Hub:
    """A call a day for ten days, up to now."""
    hub = world.open("ann")
    for number in range(10):
        hub.audit.tool_call(entry(number))
        hub.audit.flush()
        world.runtime.advance(86_400)
    return hub


def test_old_entries_are_removed_in_pages(both: World) -> None:
    """A preview changes nothing; the purge removes exactly what it showed, a page a commit, and says so in the log."""
    hub = aged(both)
    plan = hub.audit.purge(5.5 * 86_400, dry_run=True)
    assert (5, 5, [0, 1, 2, 3, 4]) == (plan.entries, plan.files, [c.fields["arguments"]["n"] for c in plan.first])
    commits = hub.commits
    assert list(range(10)) == numbers(hub)
    assert 5 == hub.audit.purge(5.5 * 86_400, page=2).entries
    assert commits + 3 == hub.commits
    assert [5, 6, 7, 8, 9] == numbers(hub)
    purged = list(hub.audit.log(kind="audit purged"))
    assert [1, 2, 2] == [event.fields["files"] for event in purged]
    assert 0 == hub.audit.purge(5.5 * 86_400).entries


def test_the_hub_s_retention_is_the_default(world: World) -> None:
    """Without an age that of the hub's settings counts."""
    hub = aged(world)
    assert 0 == hub.audit.purge().entries
    hub.config.set("retention.audit", "3d")
    assert 7 == hub.audit.purge(dry_run=True).entries
    with pytest.raises(UsageError, match="older_than"):
        hub.audit.purge(-1)


def test_directories_stay_small() -> None:
    """Each level of the folders for calls has at most 60 names, and a file is in the folder of its minute."""
    assert "calls/2026/11/21/10/07/1795255620123-ab12.jsonl" == calls_path(1_795_255_620_123, "ab12")


def test_nothing_runs_without_entries_or_after_the_close(world: World) -> None:
    """A hub that records nothing starts no thread, and closing ends the one that was started."""

    def running() -> list[str]:
        return [thread.name for thread in world.runtime._running]

    hub = world.open()
    hub.memory.set("a", 1)
    assert [] == running()
    hub.audit.tool_call(entry())
    assert ["ghcoord audit to the hub"] == running()
    hub.close()
    world.runtime.settle()
    assert [] == running()
