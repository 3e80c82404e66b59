"""The audit log for whoever watches over it elsewhere: from Python, and as lines of JSON."""

import contextlib
import json
import os
import shlex
import signal
import subprocess

import pytest
from conftest import WHY, Clock
from processes import PROGRAM, call, connect, serving

from novantra_lite import AuditRecords, NovantraLite, main, write_transaction

FILE = "register.db"
ASSET = {"assetKey": "torque-wrench-7", "assetKind": "calibrated-tool", "displayName": "Wrench 7"}
FINDING = {"title": "Wrench 7 is overdue", "severity": "high", "description": "By the blue door."}
WITHHELD = "(withheld)"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty directory to work in; the environment names `register.db` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOVANTRA_LITE_DATABASE", FILE)
    # What was recorded at a time of the test's own is read under the real clock.
    monkeypatch.setenv("NOVANTRA_LITE_CLOCK_TOLERANCE", "0")


@pytest.fixture
def printed(capsys):
    """Runs one command line in this process; the objects that it printed, one a line."""

    def run(line):
        status = main(shlex.split(line))
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return [json.loads(each) for each in out.splitlines()]

    return run


@pytest.fixture
def register():
    """A file with an asset at noon, a finding a minute later, and a change of it another later."""
    clock = Clock()
    with NovantraLite(FILE, clock=clock) as lite:
        lite.collection("assets").create(**ASSET, reason=WHY)
        clock.advance(60)
        findings = lite.collection("findings")
        finding = findings.create(findingKey="f-1", **FINDING, reason=WHY)["id"]
        clock.advance(60)
        change = {"severity": "low", "description": "By the red door."}
        findings.update(finding, **change, reason="Less than it seemed.")
        return finding


def seen(entries):
    return [(entry["id"], entry["action"]) for entry in entries]


EVERYTHING = [
    (1, "key_ring.key_added"),
    (2, "organization.created"),
    (3, "asset.created"),
    (4, "finding.created"),
    (5, "finding.updated"),
    # At its first end, a workspace gets a key that signs checkpoints.
    (6, "checkpoint_key.key_added"),
]


def test_export_prints_every_entry_with_what_is_encrypted_opened(printed, register):
    entries = printed("audit export")

    assert seen(entries) == EVERYTHING
    assert entries[4] == {
        "id": 5,
        "at": "2026-06-01T12:02:00.000Z",
        "actor": "console",
        "action": "finding.updated",
        "subjectType": "finding",
        "subjectId": register,
        "reason": "Less than it seemed.",
        "requestId": "",
        "detail": {"before": {"severity": "high", "description": WITHHELD}},
        "hash": entries[4]["hash"],
        "address": None,
    }
    assert entries[3]["detail"] is None
    assert len({entry["hash"] for entry in entries}) == 6
    assert {len(entry["hash"]) for entry in entries} == {64}


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ("--from 2026-06-01T12:01:00Z", [4, 5, 6]),
        ("--from 2026-06-01T14:01:00+02:00 --to 2026-06-01T12:01:00Z", [4]),
        ("--to 2026-06-01T12:00:59.999Z", [1, 2, 3]),
        ("--from 2026-06-01 --to 2026-06-01", [1, 2, 3, 4, 5, 6]),
        ("--from 2026-06-02", []),
        ("--to 2026-05-31", []),
        ("--from 2026-06-02 --to 2026-05-31", []),
        ("--actor console", [3, 4, 5]),
        ("--actor consol", []),
        ("--action finding.updated", [5]),
        ("--action finding", []),
        ("--actor console --action finding.created --to 2026-06-01T12:01:00Z", [4]),
        ("--actor system --from 2026-06-01T12:01:00Z", [6]),
    ],
)
def test_export_filters_exactly_and_inclusively(printed, register, filters, ids):
    entries = printed(f"audit export {filters}")

    assert [entry["id"] for entry in entries] == ids


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-06-01T12:00:00"])
def test_a_time_that_is_none_is_refused_in_words(capsys, register, text):
    status = main(["audit", "export", "--from", text])

    assert status == 1
    assert capsys.readouterr().err == (
        f"novantra-lite: '{text}' is no time; write a date, or a date-time with an offset such as "
        "2026-07-30T23:59:59Z.\n"
    )


@pytest.mark.parametrize(
    ("options", "ids"),
    [("", [1, 2, 3, 4, 5, 6]), ("-n 2", [5, 6]), ("-n 0", []), ("--after 3", [4, 5, 6]),
     ("--after 6", []), ("--after 99", [])],
)  # fmt: skip
def test_tail_prints_the_last_entries_or_all_after_one(printed, register, options, ids):
    assert [entry["id"] for entry in printed(f"audit tail {options}")] == ids


def test_an_event_of_factstore_comes_with_what_its_own_log_tells(printed):
    with NovantraLite(FILE) as lite:
        client = lite.client("factstore:read", "factstore:write")
        client.post("/api/v1/environments", {"name": "production", "type": "K8S"})
        (event,) = client.get("/api/v1/audit").json["events"]

    entries = printed("audit export --action factstore.event.recorded")

    assert [entry["event"] for entry in entries] == [event]
    assert entries[0]["subjectId"] == event["id"]
    assert entries[0]["actor"] == event["actor"]


def test_no_secret_is_in_the_log_nor_told_where_an_older_version_wrote_it_there(printed):
    with NovantraLite(FILE) as lite:
        endpoint = lite.webhooks.add("https://example.org/hook")
        rotated = lite.webhooks.rotate(endpoint["id"])
        older = json.dumps({"before": {"secret": "whsec_older", "status": "paused"}})
        journal = lite.workspace.journal
        about = ("webhook_endpoint.updated", "endpoint", endpoint["id"], older)
        write_transaction(
            lite.workspace, lambda current: journal.record(current, *about), actor="console"
        )

    entries = printed("audit export --action webhook_endpoint.updated")

    assert [entry["detail"]["before"] for entry in entries] == [
        {"previousUntil": None},
        {"secret": WITHHELD, "status": "paused"},
    ]
    for secret in (endpoint["secret"], rotated["secret"], "whsec_older"):
        assert secret not in json.dumps(entries)


def test_an_entry_about_what_is_no_table_withholds_what_was_before():
    with NovantraLite() as lite:
        detail = json.dumps({"before": {"word": "mellon"}, "attempts": 3})
        about = ("gate.opened", "gate", "moria", detail)
        journal = lite.workspace.journal
        write_transaction(
            lite.workspace, lambda current: journal.record(current, *about), actor="console"
        )

        (entry,) = lite.audit(action="gate.opened")

    assert entry["detail"] == {"before": {"word": WITHHELD}, "attempts": 3}


def test_a_long_log_is_read_a_little_at_a_time(monkeypatch, register):
    monkeypatch.setattr(AuditRecords, "BATCH", 2)
    with NovantraLite(FILE, read_only=True) as lite:
        entries = iter(lite.audit())
        statements = []
        lite.workspace.reader.connection().set_trace_callback(statements.append)

        first = next(entries)

        assert first["id"] == 1
        assert sum("FROM audit_entry WHERE" in statement for statement in statements) == 1
        assert seen([first, *entries]) == EVERYTHING
        lite.workspace.reader.connection().set_trace_callback(None)


def test_what_is_written_while_the_log_is_gone_through_is_for_the_next_time(monkeypatch):
    monkeypatch.setattr(AuditRecords, "BATCH", 1)
    with NovantraLite() as lite:
        entries = iter(lite.audit())
        first = next(entries)
        lite.collection("assets").create(**ASSET, reason=WHY)

        rest = list(entries)

        assert seen([first, *rest]) == EVERYTHING[:2]
        assert seen(lite.audit(after=2)) == EVERYTHING[2:3]


BY_ID = "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"


@pytest.mark.parametrize(
    ("filters", "found_by"),
    [
        ({}, {BY_ID}),
        ({"since": "2026-06-01"}, {"COVERING INDEX audit_entry_at (at>? AND at<?)", BY_ID}),
        ({"actor": "ada"}, {"INDEX audit_entry_actor (actor=? AND rowid>? AND rowid<?)"}),
        ({"action": "a"}, {"INDEX audit_entry_action (action=? AND rowid>? AND rowid<?)"}),
    ],
)
def test_every_filter_has_its_index_and_nothing_is_sorted(lite, filters, found_by):
    connection, statements = lite.workspace.reader.connection(), []
    connection.set_trace_callback(statements.append)

    list(lite.audit(**filters))

    connection.set_trace_callback(None)
    requests = [sql for sql in statements if "FROM audit_entry WHERE" in sql]
    plans = [connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall() for sql in requests]
    steps = {row[3].removeprefix("SEARCH audit_entry USING ") for plan in plans for row in plan}
    assert steps == found_by


# --- Going on -----------------------------------------------------------------


@contextlib.contextmanager
def following(*options):
    """A process that follows the log; its lines are read from `stdout`."""
    line = [*PROGRAM, "audit", "tail", "--follow", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, text=True, env=os.environ, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def next_entry(process):
    return json.loads(process.stdout.readline())


def test_follow_tells_what_a_server_writes_until_it_is_interrupted(register):
    with NovantraLite(FILE) as lite:
        token = lite.token("governance.findings:write")

    with (
        serving(FILE) as server,
        following("-n", "1") as process,
        contextlib.closing(connect(server.said["url"])) as connection,
    ):
        begun = next_entry(process)
        body = FINDING | {"reason": WHY}
        status, _ = call(connection, "POST", "/api/v1/governance/findings", token, body)
        result = next_entry(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert begun["action"] == "service_account.created"
    assert status == 201
    assert (result["id"], result["action"], result["reason"]) == (
        begun["id"] + 1,
        "finding.created",
        WHY,
    )
    assert (process.returncode, out, err) == (130, "", "")


def test_whoever_follows_lets_others_write_and_knows_the_keys_that_they_add(register):
    with following("-n", "1") as process:
        begun = next_entry(process)
        with NovantraLite(FILE) as lite:
            lite.rotate_keys()
            lite.collection("assets").create(**ASSET | {"assetKey": "jack-7"}, reason=WHY)
        rows = [next_entry(process), next_entry(process)]

    assert begun["id"] == 6
    assert [(entry["action"], entry["reason"]) for entry in rows] == [
        ("key_ring.key_added", "A new key for the key ring."),
        ("asset.created", WHY),
    ]
