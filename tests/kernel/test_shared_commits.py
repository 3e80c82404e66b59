"""Writes that arrive at the same turn of the server's loop share a commit, and wait for it."""

import http.client
import json
import sqlite3
import threading
from urllib.parse import urlsplit

import pytest
from conftest import WHY
from inside import FINDING, FINDINGS, counts, rows

from novantra_lite import Finding, LoopFirst, NovantraLite, Server, perform

KEYS = [f"f{number}" for number in range(6)]
READ = "SELECT finding_key FROM finding ORDER BY finding_key"


@pytest.fixture
def stored(tmp_path, clock):
    """A workspace in a file, whose writes are fsynced."""
    with NovantraLite(tmp_path / "register.db", clock=clock) as lite:
        yield lite


@pytest.fixture
def server(stored, monkeypatch):
    """The workspace behind a real port, its disk taken for a quick one."""
    monkeypatch.setattr(LoopFirst, "QUICK", 3600)
    server = Server(stored, stored.settings, "127.0.0.1:0")
    server.start()
    yield server
    server.stop()


class Callers:
    """Connections whose requests reach the server while its loop is held, and so at one turn."""

    def __init__(self, server, lite):
        self.server, self.port = server, urlsplit(server.url).port
        scopes = ("governance.findings:read", "governance.findings:write")
        self.headers = {"Authorization": f"Bearer {lite.token(*scopes)}"}
        self.open = []

    def post(self, bodies):
        """The answers to these findings, each sent over a connection of its own."""
        held, go_on = threading.Event(), threading.Event()
        for _ in bodies:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            connection.request("GET", FINDINGS, headers=self.headers)
            connection.getresponse().read()
            self.open.append(connection)
        self.server.waitress.trigger.pull_trigger(lambda: (held.set(), go_on.wait(10)))
        assert held.wait(10)
        for connection, body in zip(self.open, bodies, strict=True):
            headers = {**self.headers, "Content-Type": "application/json"}
            connection.request("POST", FINDINGS, json.dumps(body), headers)
        go_on.set()
        answers = [connection.getresponse() for connection in self.open]
        return [(answer.status, json.loads(answer.read())) for answer in answers]

    def close(self):
        for connection in self.open:
            connection.close()


@pytest.fixture
def callers(server, stored):
    callers = Callers(server, stored)
    yield callers
    callers.close()


def make(key):
    return lambda current: Finding.create(finding_key=key, title=key, severity="low")


def test_what_a_thread_writes_together_is_seen_by_nobody_before_its_one_commit(lite):
    statements, seen, followed = [], [], []
    connection = lite.workspace.writer.database.connection()
    connection.set_trace_callback(statements.append)

    def work(current):
        current.afterwards.append(lambda: followed.append(connection.in_transaction))
        return make("second")(current)

    with lite.workspace.writer.together():
        perform(lite.workspace, make("first"), actor="test", reason=WHY)
        perform(lite.workspace, work, actor="test", reason=WHY)
        seen += rows(lite, READ)
        assert followed == []
    connection.set_trace_callback(None)

    assert seen == []
    assert followed == [False]
    assert [word for word in statements if word in ("BEGIN IMMEDIATE", "COMMIT")] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]
    assert rows(lite, READ) == [("first",), ("second",)]
    assert lite.verify() == []


def test_a_failure_among_them_takes_nothing_with_it(lite):
    with lite.workspace.writer.together():
        perform(lite.workspace, make("first"), actor="test", reason=WHY)
        with pytest.raises(ZeroDivisionError):
            perform(lite.workspace, lambda current: make("lost")(current) and 1 / 0, actor="test")
        perform(lite.workspace, make("second"), actor="test", reason=WHY)

    assert rows(lite, READ) == [("first",), ("second",)]
    assert lite.verify() == []


def test_a_commit_that_fails_undoes_all_of_them_and_nothing_follows(lite):
    connection, followed = lite.workspace.writer.database.connection(), []

    def work(current):
        current.afterwards.append(lambda: followed.append("told"))
        make("lost")(current)

    def refuse_commit():
        with lite.workspace.writer.together():
            perform(lite.workspace, work, actor="test", reason=WHY)
            connection.set_authorizer(deny_commits(1))

    with pytest.raises(sqlite3.DatabaseError):
        refuse_commit()
    connection.set_authorizer(None)
    perform(lite.workspace, make("kept"), actor="test", reason=WHY)

    assert (rows(lite, READ), followed) == ([("kept",)], [])
    assert lite.verify() == []


def test_requests_that_come_at_once_share_a_commit_and_each_gets_its_own_answer(stored, callers):
    statements = []
    bodies = [{**FINDING, "findingKey": key} for key in KEYS]
    bodies[2] = {**FINDING, "severity": "grave"}
    bodies[4] = {**FINDING, "findingKey": KEYS[0]}
    connection = stored.workspace.writer.database.connection()
    connection.set_trace_callback(statements.append)

    answers = callers.post(bodies)
    connection.set_trace_callback(None)

    assert [status for status, _ in answers] == [201, 201, 400, 201, 409, 201]
    assert [told["finding"]["findingKey"] for status, told in answers if status == 201] == [
        "f0", "f1", "f3", "f5",
    ]  # fmt: skip
    assert statements.count("COMMIT") == 1
    assert rows(stored, READ) == [("f0",), ("f1",), ("f3",), ("f5",)]
    assert stored.verify() == []


def test_when_their_commit_fails_each_is_done_by_itself_and_once(stored, callers):
    connection = stored.workspace.writer.database.connection()
    connection.set_authorizer(deny_commits(1))

    answers = callers.post([{**FINDING, "findingKey": key} for key in KEYS])
    connection.set_authorizer(None)

    assert [(status, told["finding"]["findingKey"]) for status, told in answers] == [
        (201, key) for key in KEYS
    ]
    assert rows(stored, READ) == [(key,) for key in KEYS]
    assert counts(stored)[0] == 6
    assert stored.verify() == []


def test_writes_to_several_files_are_each_done_by_themselves(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(LoopFirst, "QUICK", 3600)
    with NovantraLite(workspaces=tmp_path, workspace="south", clock=clock) as lite:
        lite.create_workspace("north")
        lite.create_workspace("south")
        connections = [w.writer.database.connection() for w in lite.workspaces.values()]
        server = Server(lite, lite.settings, "127.0.0.1:0")
        server.start()
        callers = Callers(server, lite)
        connections[0].set_authorizer(deny_commits(1))

        try:
            answers = callers.post([{**FINDING, "findingKey": key} for key in KEYS])
        finally:
            connections[0].set_authorizer(None)
            callers.close()
            server.stop()

        assert [status for status, _ in answers] == [201] * 6
        assert rows(lite, READ) == [(key,) for key in KEYS]
        assert lite.verify() == []


def deny_commits(times):
    """An authorizer of SQLite that refuses so many commits."""
    left = [times]

    def judge(action, word, *rest):
        if action == sqlite3.SQLITE_TRANSACTION and word == "COMMIT" and left[0]:
            left[0] -= 1
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    return judge
