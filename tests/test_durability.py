"""Acknowledged means committed: the server as a process that is killed, stopped and started."""

import base64
import contextlib
import http.client
import random
import signal
import sqlite3
import subprocess
import threading

import pytest
from conftest import WHY
from processes import PROGRAM, Receiver, call, connect, receive, send, serving

from novantra_lite import FileLock, NovantraLite, Problem, main, verify_webhook

FINDINGS = "/api/v1/governance/findings"
CLAIMS = "/api/v1/governance/evidence/claims"
SCOPES = "governance.findings:write", "governance.findings:read", "governance.evidence:write"
ASSET = {"assetKey": "torque-wrench-7", "assetKind": "calibrated-tool", "displayName": "Wrench 7"}
FREE = {"NOVANTRA_LITE_RATE_LIMITS": "false"}
LOCAL = {"NOVANTRA_LITE_WEBHOOK_PRIVATE_TARGETS": "127.0.0.0/8"}
#: A stop that waits for what will never come goes on for longer than any test does.
PATIENT = {"NOVANTRA_LITE_SHUTDOWN_GRACE": "600"}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "register.db"


@pytest.fixture
def token(file):
    """Makes the file, with an asset and a requirement in it, and gives a token for it."""
    with NovantraLite(file) as lite:
        lite.collection("assets").create(**ASSET, reason=WHY)
        need = {"requirementKey": "calibration", "title": "Calibration certificate"}
        lite.collection("evidence-requirements").create(**need, reason=WHY)
        return lite.token(*SCOPES)


def rows(file, sql):
    """What a query finds in the file, in order."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return sorted(row[0] if len(row) == 1 else row for row in connection.execute(sql))


def new_finding(title, **members):
    return {"title": title, "severity": "high", "reason": WHY, **members}


class Writers:
    """Threads that write findings, each over one connection, until the server is gone.

    `told` holds the id that was acknowledged for each title. What got no answer is sent again,
    under the same Idempotency-Key, by the threads of the next run.
    """

    def __init__(self, token, subject):
        self.token, self.subject = token, subject
        self.told, self.unanswered, self.refused = {}, [], []
        self.counted, self.titles = threading.Condition(), 0

    def run(self, url, threads=4):
        """Start the threads against a server; join them once it is gone."""
        again, self.unanswered = self.unanswered, []
        writers = [
            threading.Thread(target=self.write, args=(url, again[number::threads]))
            for number in range(threads)
        ]
        for writer in writers:
            writer.start()
        return writers

    def write(self, url, again):
        with contextlib.closing(connect(url)) as connection:
            while True:
                title = again.pop() if again else self.new_title()
                try:
                    self.post(connection, title)
                except (OSError, http.client.HTTPException):
                    self.unanswered += [title, *again]
                    return

    def new_title(self):
        with self.counted:
            self.titles += 1
            return f"Finding {self.titles}"

    def post(self, connection, title):
        body = new_finding(title, **self.subject)
        key = title.replace(" ", "-")
        status, said = call(connection, "POST", FINDINGS, self.token, body, Idempotency_Key=key)
        with self.counted:
            if status == 201:
                self.told.setdefault(title, set()).add(said["finding"]["id"])
            else:
                self.refused.append((title, status, said))
            self.counted.notify_all()

    def wait_for(self, count):
        """Wait until so many more findings than now were acknowledged."""
        with self.counted:
            enough = len(self.told) + count
            assert self.counted.wait_for(lambda: len(self.told) >= enough, timeout=60)


def test_what_was_acknowledged_is_there_exactly_once_after_twelve_kills(file, token, capsys):
    (asset,) = rows(file, "SELECT id FROM asset")
    subject = {"subjectModuleKey": "assets", "subjectResourceType": "asset"}
    writers = Writers(token, subject | {"subjectResourceId": asset})
    chance, never = random.Random(11), threading.Event()

    for _ in range(12):
        with serving(file, **FREE) as server:
            threads = writers.run(server.said["url"])
            writers.wait_for(chance.randrange(5, 60))
            never.wait(chance.uniform(0, 0.02))
            server.kill()
        for thread in threads:
            thread.join()
        assert set(writers.told) <= set(rows(file, "SELECT title FROM finding"))
    with serving(file, **FREE) as server:
        with contextlib.closing(connect(server.said["url"])) as connection:
            for title in [*writers.unanswered, *list(writers.told)[::10]]:
                writers.post(connection, title)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0

    assert writers.refused == []
    findings = rows(file, "SELECT title, id FROM finding")
    assert findings == sorted((title, *ids) for title, ids in writers.told.items())
    ids = sorted(id for _, id in findings)
    audited = "SELECT subject_id FROM audit_entry WHERE action = 'finding.created'"
    proven = "SELECT record_key FROM ledger_entry WHERE event_type = 'FINDING_CREATED'"
    events = "SELECT json_extract(data, '$.finding.id') FROM event WHERE type = 'finding.created'"
    assert rows(file, audited) == ids
    assert rows(file, proven) == ids
    assert rows(file, events) == ids
    assert rows(file, "SELECT count(*) FROM idempotency_record") == [len(ids)]
    assert (main(["verify", str(file)]), *capsys.readouterr()) == (
        0,
        "Sound: the file, the ledger and the audit chain.\n",
        "",
    )


def test_a_file_is_written_with_fsync_at_every_commit_and_a_passing_one_without(file):
    with NovantraLite(file) as kept, NovantraLite() as passing:
        modes = [
            lite.workspace.writer.database.connection().execute("PRAGMA synchronous").fetchone()
            for lite in (kept, passing)
        ]

    assert modes == [(2,), (0,)]


def test_a_stop_answers_every_request_that_was_sent_before_it(file, token):
    with serving(file, **FREE, **PATIENT) as server, contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(contextlib.closing(connect(server.said["url"]))) for _ in range(40)
        ]
        for number, connection in enumerate(connections):
            send(connection, "POST", FINDINGS, token, new_finding(f"Finding {number}"))
        server.send_signal(signal.SIGTERM)
        answers = [receive(connection) for connection in connections]
        status = server.wait(60)

    assert [answer[0] for answer in answers] == [201] * 40
    assert rows(file, "SELECT id FROM finding") == sorted(
        said["finding"]["id"] for _, said in answers
    )
    assert status == 0
    assert not file.with_name("register.db.lock").exists()


def test_a_stop_takes_an_upload_in_to_its_end(file, token):
    (requirement,) = rows(file, "SELECT id FROM evidence_requirement")
    photo = {"fileName": "photo.jpg", "contentType": "image/jpeg"}
    photo["contentBase64"] = base64.b64encode(b"\xff\xd8" * 4_000_000).decode()
    claim = {"evidenceRequirementId": requirement, "title": "Seen", "attachments": [photo]}

    with serving(file, **FREE, **PATIENT) as server, contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(connect(server.said["url"])))
        send(connection, "POST", CLAIMS, token, {**claim, "reason": WHY})
        server.send_signal(signal.SIGTERM)
        status, said = receive(connection)
        ended = server.wait(60)

    assert (status, ended) == (201, 0)
    assert said["claim"]["attachments"][0]["sizeBytes"] == 8_000_000
    with NovantraLite(file, read_only=True) as lite:
        _, content = lite.attachment(said["claim"]["attachments"][0]["id"])
    assert content == b"\xff\xd8" * 4_000_000


def test_a_stop_comes_to_its_end_while_clients_go_on_asking(file, token):
    writers = Writers(token, {})

    with serving(file, **FREE, **PATIENT) as server:
        threads = writers.run(server.said["url"])
        writers.wait_for(20)
        server.send_signal(signal.SIGTERM)
        status = server.wait(60)
    for thread in threads:
        thread.join()

    assert (status, writers.refused) == (0, [])
    assert set(writers.told) <= set(rows(file, "SELECT title FROM finding"))
    assert not file.with_name("register.db.lock").exists()


def test_a_stop_does_not_wait_for_connections_on_which_nothing_is_asked(file, token):
    with serving(file, **PATIENT) as server, contextlib.ExitStack() as stack:
        used, unused = (
            stack.enter_context(contextlib.closing(connect(server.said["url"]))) for _ in "12"
        )
        answered, _ = call(used, "GET", FINDINGS, token)
        unused.connect()
        server.send_signal(signal.SIGINT)
        status = server.wait(60)

    assert (answered, status) == (200, 0)
    assert not file.with_name("register.db.lock").exists()


def test_a_stop_waits_for_the_delivery_at_hand_and_writes_down_what_came_of_it(file, token):
    with Receiver() as receiver:
        with NovantraLite(file, webhook_private_targets=("127.0.0.0/8",)) as lite:
            lite.webhooks.add(receiver.url)
        receiver.open.clear()
        with serving(file, **LOCAL, **PATIENT) as server:
            with contextlib.closing(connect(server.said["url"])) as connection:
                first = call(connection, "POST", FINDINGS, token, new_finding("First"))
                receiver.arrived.get(timeout=60)
                second = call(connection, "POST", FINDINGS, token, new_finding("Second"))
            server.send_signal(signal.SIGTERM)
            # The server has stopped listening, so the stop has begun: now the receiver answers.
            wait_until_refused(server.said["url"])
            receiver.open.set()
            status = server.wait(60)

    assert (first[0], second[0], status) == (201, 201, 0)
    deliveries = rows(file, "SELECT state, attempts FROM delivery ORDER BY id")
    assert deliveries in ([("done", 1), ("due", 0)], [("done", 1), ("done", 1)])
    assert 1 + receiver.arrived.qsize() == sum(attempts for _, attempts in deliveries)


def wait_until_refused(url):
    """Ask a server for a connection until it takes none."""
    for _ in range(100_000):
        with contextlib.closing(connect(url)) as connection:
            try:
                connection.connect()
            except ConnectionResetError:
                # It was still in the queue when the listening ended.
                continue
            except ConnectionRefusedError:
                return
    raise AssertionError("The server never stopped listening.")


def test_an_event_whose_delivery_was_cut_off_by_a_kill_arrives_after_the_restart(file, token):
    with Receiver() as receiver:
        with NovantraLite(file, webhook_private_targets=("127.0.0.0/8",)) as lite:
            secret = lite.webhooks.add(receiver.url, ["finding.created"])["secret"]
        receiver.open.clear()
        with serving(file, **LOCAL) as server:
            with contextlib.closing(connect(server.said["url"])) as connection:
                status, said = call(connection, "POST", FINDINGS, token, new_finding("Cracked"))
            _, cut_off = receiver.arrived.get(timeout=60)
        receiver.open.set()
        with serving(file, **LOCAL) as server:
            headers, body = receiver.arrived.get(timeout=60)
            server.send_signal(signal.SIGTERM)
            server.wait(60)

    event = verify_webhook(body, headers, secret)
    assert status == 201
    assert event["type"] == "finding.created"
    assert event["data"]["finding"]["id"] == said["finding"]["id"]
    assert body == cut_off
    assert rows(file, "SELECT id FROM event") == [headers["webhook-id"]]
    assert rows(file, "SELECT state, attempts FROM delivery") == [("done", 1)]
    assert receiver.arrived.empty()


def test_a_second_process_is_refused_and_told_who_has_the_file(file, token):
    with serving(file) as server:
        second = subprocess.run(
            [*PROGRAM, "serve", str(file), "--listen", "127.0.0.1:0"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        with pytest.raises(Problem) as refused:
            NovantraLite(file)
        with contextlib.closing(connect(server.said["url"])) as connection:
            status, _ = call(connection, "GET", FINDINGS, token)

    text = f"register.db is in use by process {server.pid}; stop it first."
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == f"novantra-lite: {text}\n"
    assert str(refused.value) == text
    assert status == 200


def test_a_lock_that_its_holder_gave_up_while_it_was_being_taken_is_taken_anew(tmp_path):
    class LateLock(FileLock):
        late = True

        def acquire(self):
            if self.late:
                self.late = False
                self.path.unlink()
            super().acquire()

    lock = LateLock(tmp_path / "register.db.lock")

    with pytest.raises(Problem):
        FileLock(tmp_path / "register.db.lock").release()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_server_leaves_a_file_that_opens(file, token):
    with serving(file) as server, contextlib.closing(connect(server.said["url"])) as connection:
        status, said = call(connection, "POST", FINDINGS, token, new_finding("Cracked"))
        server.kill()

    with NovantraLite(file) as lite:
        matches = [finding["id"] for finding in lite.collection("findings").list()]
        faults = lite.verify()
    assert status == 201
    assert matches == [said["finding"]["id"]]
    assert faults == []
    assert not file.with_name("register.db.lock").exists()
