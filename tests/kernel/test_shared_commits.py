"""Writes that wait for the writer share a commit; the threads that answer share a processor."""

import http.client
import json
import os
import sqlite3
import threading
import time
from urllib.parse import urlsplit

import pytest
from conftest import WHY
from rawfile import FINDING, FINDINGS, counts, rows

from novantra_lite import NovantraLite, Server, Unavailable, write_transaction

KEYS = [f"f{number}" for number in range(6)]
READ = "SELECT finding_key FROM finding ORDER BY finding_key"


@pytest.fixture
def stored(tmp_path, clock):
    """A workspace in a file, whose writes are fsynced."""
    with NovantraLite(tmp_path / "register.db", clock=clock) as lite:
        yield lite


def served(lite):
    """A server of an instance that answers from now on."""
    server = Server(lite, lite.settings, "127.0.0.1:0")
    server.start()
    return server


@pytest.fixture
def server(stored):
    """The workspace behind a real port."""
    server = served(stored)
    yield server
    server.stop()


class Callers:
    """Connections whose writes reach the server while its writer is held by other work."""

    def __init__(self, server, lite):
        self.lite, self.port = lite, urlsplit(server.url).port
        self.headers = {"Authorization": f"Bearer {lite.token('governance.findings:write')}"}
        self.open = []

    def post(self, bodies):
        """The answers to these findings, each sent over a connection of its own."""
        held, go_on = threading.Event(), threading.Event()

        def hold(current):
            held.set()
            go_on.wait(10)

        work = (self.lite.workspace, hold)
        holder = threading.Thread(
            target=write_transaction, args=work, kwargs={"actor": "t", "reason": WHY}
        )
        holder.start()
        assert held.wait(10)
        for body in bodies:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            headers = {**self.headers, "Content-Type": "application/json"}
            connection.request("POST", FINDINGS, json.dumps(body), headers)
            self.open.append(connection)
            self.wait_for(len(self.open))
        go_on.set()
        holder.join()
        answers = [connection.getresponse() for connection in self.open]
        return [(answer.status, json.loads(answer.read())) for answer in answers]

    def wait_for(self, count):
        """Return once so many writes wait for the writer."""
        deadline = time.monotonic() + 10
        while len(self.lite.workspace.writer._waiting) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def close(self):
        for connection in self.open:
            connection.close()


@pytest.fixture
def callers(server, stored):
    callers = Callers(server, stored)
    yield callers
    callers.close()


def test_requests_that_wait_share_a_commit_and_each_gets_its_own_answer(stored, callers):
    statements = []
    bodies = [{**FINDING, "findingKey": key} for key in KEYS]
    bodies[2] = {**FINDING, "findingKey": KEYS[1]}
    bodies[4] = {**FINDING, "findingKey": KEYS[0]}
    connection = stored.workspace.writer.database.connection()
    connection.set_trace_callback(statements.append)

    answers = callers.post(bodies)
    connection.set_trace_callback(None)

    assert [status for status, _ in answers] == [201, 201, 409, 201, 409, 201]
    assert [result["finding"]["findingKey"] for status, result in answers if status == 201] == [
        "f0", "f1", "f3", "f5",
    ]  # fmt: skip
    assert statements.count("COMMIT") == 1
    assert rows(stored, READ) == [("f0",), ("f1",), ("f3",), ("f5",)]
    assert counts(stored)[0] == 4
    assert stored.verify() == []


def processors(name):
    """The sets of processors that threads with such a name may run on."""
    threads = [thread for thread in threading.enumerate() if name in thread.name]
    assert threads
    return {frozenset(os.sched_getaffinity(thread.native_id)) for thread in threads}


needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="the system cannot bind threads to a processor"
)


@needs_affinity
def test_the_threads_that_answer_share_a_processor_and_no_others_do(stored):
    allowed = os.sched_getaffinity(0)

    with stored.listening():
        sets = processors("novantra-lite-server") | processors("waitress-")

        assert [len(each) for each in sets] == [1]
        assert processors("MainThread") | processors("novantra-lite-dispatcher") == {
            frozenset(allowed)
        }


@needs_affinity
def test_a_process_that_an_answering_thread_begins_is_not_bound(stored):
    bundle = {"name": "gate", "version": "1", "regoContent": "package p\ndefault allow := false\n"}
    token = stored.token("factstore:admin", "factstore:write")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    with stored.listening() as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.request("POST", "/api/v1/opa/bundles", json.dumps(bundle), headers)
        status = connection.getresponse().status
        connection.close()

        assert status == 201
        assert os.sched_getaffinity(stored.rego.pid) == os.sched_getaffinity(0)


@needs_affinity
def test_threads_run_on_any_processor_where_that_is_set(tmp_path):
    with NovantraLite(tmp_path / "register.db", one_processor=False) as lite:
        server = served(lite)

        assert processors("novantra-lite-server") == {frozenset(os.sched_getaffinity(0))}
        assert processors("waitress-") == {frozenset(os.sched_getaffinity(0))}
        server.stop()


@needs_affinity
def test_a_server_starts_where_threads_may_not_be_bound(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with NovantraLite(tmp_path / "register.db") as lite, lite.listening() as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        connection.request("GET", "/actuator/health")

        assert connection.getresponse().status == 200
        connection.close()


def test_a_disk_that_fails_in_the_middle_of_a_write_is_named_and_the_next_write_goes_on(stored):
    def fail(current):
        # As SQLite does by itself: it ends the whole transaction.
        current.database.connection().execute("ROLLBACK")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        raise error

    with pytest.raises(Unavailable) as refused:
        write_transaction(stored.workspace, fail, actor="t", reason=WHY)
    client = stored.client("governance.findings:write")
    after = client.post(FINDINGS, FINDING)

    assert str(refused.value) == (
        "The workspace's file cannot be written: the disk fails, or a quota or a limit of the size "
        "of files allows no more."
    )
    assert after.status == 201
    assert stored.verify() == []
