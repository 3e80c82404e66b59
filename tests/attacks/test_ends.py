"""Ends under load, and what happens to files, disks and clocks while a register is in use."""

import contextlib
import hashlib
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from conftest import WHY
from factstore.trails import evidence_path, make_attestation, make_trail
from multipart import upload
from processes import PROGRAM, Receiver, serving

from novantra_lite import (
    FACTSTORE_SCOPES,
    Client,
    Conflict,
    NovantraLite,
    Unavailable,
    main,
    novantra_scopes,
    wsgi_environment,
)

FINDINGS, HEALTH = "/api/v1/governance/findings", "/actuator/health"
FINDING = {"title": "Seal is cracked", "severity": "high", "reason": WHY}
DAY = 86_400


@pytest.fixture
def file(tmp_path):
    return tmp_path / "register.db"


def in_thread(work):
    """What a call returns that is made in a new thread, which has connections of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


# --- Ends under load ----------------------------------------------------------

LOAD = """
import sys, threading, time
from wsgiref.simple_server import WSGIRequestHandler, make_server
import http.client, json
from novantra_lite import Client, NovantraLite, Problem, novantra_scopes

FINDING = {"title": "Seal is cracked", "severity": "high", "reason": "Seen in the review."}
lite, stop, seen = NovantraLite(rate_limits=False, database=""), threading.Event(), set()

def use(number):
    client = Client(lite)
    while not stop.is_set():
        number += 1
        try:
            if number % 5 == 0:
                client = lite.client(*novantra_scopes())
                list(lite.collection("findings").list())
            if number % 2:
                seen.add(client.post("/api/v1/governance/findings", FINDING).status)
            seen.add(client.get("/api/v1/governance/findings").status)
            seen.add(client.get("/actuator/health").status)
        except Problem as problem:
            seen.add(problem.status)

def call(url):
    while not stop.is_set():
        try:
            connection = http.client.HTTPConnection(url, timeout=10)
            connection.request("GET", "/api/v1/governance/findings", headers={
                "Authorization": "Bearer " + token})
            seen.add(connection.getresponse().status)
        except (OSError, http.client.HTTPException):
            pass

class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass

def end(threads):
    stop.set()
    for thread in threads:
        thread.join()

threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
if sys.argv[1] == "in process":
    lite.start()
    for thread in threads:
        thread.start()
    while 200 not in seen:
        time.sleep(0.001)
    for _ in range(6):
        lite.reset()
    lite.close()
    end(threads)
elif sys.argv[1] == "mounted":
    with make_server("127.0.0.1", 0, lambda *call: lite(*call), handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        token, address = lite.token(*novantra_scopes()), f"127.0.0.1:{server.server_port}"
        callers = [threading.Thread(target=call, args=(address,)) for _ in range(4)]
        for thread in [*threads[:4], *callers]:
            thread.start()
        while 200 not in seen:
            time.sleep(0.001)
        for _ in range(5):
            time.sleep(0.02)
            former, lite = lite, NovantraLite(rate_limits=False)
            token = lite.token(*novantra_scopes())
            former.close()
        lite.close()
        end([*threads[:4], *callers])
        server.shutdown()
else:
    for _ in range(3):
        with lite.listening() as url:
            token = lite.token(*novantra_scopes())
            callers = [threading.Thread(target=call, args=(url[7:],)) for _ in range(8)]
            for thread in callers:
                thread.start()
            while 200 not in seen:
                time.sleep(0.001)
            lite.reset()
        end(callers)
        stop.clear()
    lite.close()
print(sorted(seen))
"""


@pytest.mark.parametrize("where", ["in process", "mounted", "with a socket"])
def test_no_end_closes_a_connection_under_the_statement_of_another_thread(where):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, where], capture_output=True, text=True, timeout=120
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert {200} <= set(json.loads(done.stdout)) <= {200, 201, 401, 403, 409, 503}


class Held:
    """A write that does not come to its end before it is released."""

    def __init__(self, lite):
        self.lite, self.begun, self.go_on = lite, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        assert self.begun.wait(60)
        return self

    def run(self):
        self.made = self.lite.accounts.create("scanner", ["assets:read"], show=self.show)

    def show(self, credentials):
        self.begun.set()
        self.go_on.wait()

    def __exit__(self, *raised):
        self.go_on.set()
        self.thread.join()


def test_a_close_waits_for_what_is_in_flight_and_refuses_what_comes_after(file):
    lite = NovantraLite(file, shutdown_grace=600)
    client = lite.client("assets:read")

    with Held(lite) as held:
        closing = threading.Thread(target=lite.close)
        closing.start()
        while (refused := client.get("/api/v1/assets")).status == 200:
            time.sleep(0.001)
        was_waiting = closing.is_alive()
        held.go_on.set()
        closing.join()

    assert was_waiting
    assert (refused.status, refused.json["message"]) == (503, "The workspace was closed.")
    assert refused.headers["retry-after"] == "1"
    with NovantraLite(file) as lite:
        accounts = {account["clientId"] for account in lite.accounts.list()}
        assert held.made.client_id in accounts
        assert lite.verify() == []


def test_a_download_in_flight_is_finished_before_a_close():
    content = bytes(range(256)) * 4096
    lite, started = NovantraLite(shutdown_grace=600), []
    client = lite.client(*FACTSTORE_SCOPES)
    trail = make_trail(lite)
    upload(client, evidence_path(trail, make_attestation(lite, trail)), content)
    path = f"/api/v1/evidence/{hashlib.sha256(content).hexdigest()}"
    environment = wsgi_environment("GET", path, "", b"")
    environment["HTTP_AUTHORIZATION"] = client.headers["Authorization"]

    chunks = lite(environment, lambda *answer: started.append(answer[0]))
    stream = iter(chunks)
    received = [next(stream)]
    closing = threading.Thread(target=lite.close)
    closing.start()
    while client.get("/api/v1/flows").status != 503:
        time.sleep(0.001)
    received += stream
    was_waiting = closing.is_alive()
    chunks.close()
    closing.join()

    assert started == ["200 OK"]
    assert b"".join(received) == content
    assert was_waiting


def test_a_close_leaves_what_outlasts_the_grace_to_its_own_thread(file):
    lite = NovantraLite(file, shutdown_grace=0.05)

    with Held(lite) as held:
        lite.close()
        with pytest.raises(Conflict, match="is in use by process"):
            NovantraLite(file)
        with pytest.raises(Unavailable, match="was closed"):
            lite.accounts.list()

    with NovantraLite(file) as lite:
        assert [account["clientId"] for account in lite.accounts.list()] == [held.made.client_id]
        assert lite.verify() == []


def test_a_reset_waits_for_what_is_in_flight_and_lets_new_requests_into_the_new_workspace():
    with NovantraLite(shutdown_grace=600) as lite:
        former = lite.client("assets:read")

        with Held(lite) as held:
            resetting = threading.Thread(target=lite.reset)
            resetting.start()
            while former.get("/api/v1/assets").status == 200:
                time.sleep(0.001)
            answered = lite.client("assets:read").get("/api/v1/assets").status
            was_waiting = resetting.is_alive()
            held.go_on.set()
            resetting.join()

        assert (was_waiting, answered) == (True, 200)
        assert [account["name"] for account in lite.accounts.list()] == ["In-process client"]


def test_a_receiver_that_never_answers_does_not_keep_a_server_from_its_end(file):
    options = {"webhook_private_targets": ("127.0.0.0/8",), "webhook_timeout": 600}
    with Receiver() as receiver:
        receiver.open.clear()

        with NovantraLite(file, shutdown_grace=0.2, **options) as lite, lite.listening():
            lite.webhooks.add(receiver.url)
            lite.client("governance.findings:write").post(FINDINGS, FINDING)
            receiver.arrived.get(timeout=60)

    with NovantraLite(file) as lite:
        assert [delivery["state"] for delivery in lite.webhooks.deliveries()] == ["due"]


# --- Files that go away -------------------------------------------------------

LOST = (
    "register.db was moved, deleted or replaced while it was open: put it back, or end the process "
    "and restore a backup."
)


@pytest.mark.parametrize("name", ["register.db", "register.db-wal"])
def test_no_write_is_acknowledged_once_the_file_was_taken_away(file, tmp_path, name):
    with NovantraLite(file) as lite:
        client = lite.client("governance.findings:write", "governance.findings:read")
        before = client.post(FINDINGS, FINDING)
        (tmp_path / name).rename(tmp_path / "elsewhere")

        refused = [client.post(FINDINGS, FINDING) for _ in range(3)]
        health = client.get(HEALTH)
        (tmp_path / "elsewhere").rename(tmp_path / name)
        after = client.post(FINDINGS, FINDING)

        assert (before.status, after.status) == (201, 201)
        assert {answer.status for answer in refused} == {503}
        assert {answer.json["message"] for answer in refused} == {LOST}
        # Only the first went into it, before anybody could know.
        assert len(client.get(FINDINGS).json["findings"]) == 3
        fault = {"workspace": "register", "fault": LOST}
        assert (health.status, health.json) == (503, {"status": "DOWN", "faults": [fault]})
        assert lite.verify() == []


def test_nothing_is_read_from_a_file_that_was_put_in_the_place_of_the_open_one(file, tmp_path):
    with NovantraLite(file) as lite:
        client = lite.client("governance.findings:write", "governance.findings:read")
        client.post(FINDINGS, FINDING)
        lite.backup(tmp_path / "other.db")
        (tmp_path / "other.db").replace(file)

        written = client.post(FINDINGS, FINDING)
        read = in_thread(lambda: client.get(FINDINGS))

    assert (written.status, written.json["message"]) == (503, LOST)
    assert (read.status, read.json["message"]) == (503, LOST)


@pytest.mark.parametrize("take_away", [os.unlink, lambda file: os.truncate(file, 0)])
def test_a_file_that_is_gone_is_not_silently_made_new_beside_its_key(file, capsys, take_away):
    with NovantraLite(file):
        pass
    take_away(file)

    status = main(["account", "create", "x", "--scope", "assets:read", "--database", str(file)])
    with pytest.raises(Conflict) as refusal:
        NovantraLite(file)

    assert str(refusal.value) == (
        "register.db is missing or empty, though there is register.db.key and "
        "register.db.checkpoints: restore a backup of it, or move register.db.key and "
        "register.db.checkpoints away to begin a new one."
    )
    assert (status, capsys.readouterr().err) == (1, f"novantra-lite: {refusal.value}\n")
    assert not (file.exists() and file.stat().st_size)
    assert not file.with_name("register.db.lock").exists()


def test_a_file_without_any_table_is_not_filled_beside_the_key_of_another(file):
    with NovantraLite(file):
        pass
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as empty:
        empty.execute("PRAGMA user_version = 0")
        empty.execute("VACUUM")

    with pytest.raises(Conflict, match=r"register\.db is missing or empty"):
        NovantraLite(file)


def test_a_second_name_does_not_get_past_the_lock(file, tmp_path):
    with NovantraLite(file):
        (tmp_path / "other.db").symlink_to(file)
        with pytest.raises(Conflict, match=f"register.db is in use by process {os.getpid()}"):
            NovantraLite(tmp_path / "other.db")
        (tmp_path / "other.db").unlink()
        (tmp_path / "other.db").hardlink_to(file)
        with pytest.raises(Conflict, match=r"other\.db has 2 names \(hard links\)"):
            NovantraLite(tmp_path / "other.db")

    with pytest.raises(Conflict, match=r"register\.db has 2 names \(hard links\)"):
        NovantraLite(file)
    (tmp_path / "other.db").unlink()
    with NovantraLite(file) as lite:
        assert lite.verify() == []


# --- Disks that fail ----------------------------------------------------------

TRUNCATED = """
import json, os, sys, threading
from novantra_lite import FACTSTORE_SCOPES, NovantraLite, novantra_scopes
with NovantraLite(sys.argv[1]) as lite:
    client = lite.client(*novantra_scopes(), *FACTSTORE_SCOPES)
    for path in ("/api/v1/governance/findings", "/api/v1/flows"):
        client.get(path)
    lite.backup(sys.argv[1] + ".copy")
    os.truncate(sys.argv[1], 8192)
    answers = []
    def read(path):
        answer = client.get(path)
        answers.append((answer.status, answer.json["message"]))
    for path in ("/api/v1/governance/findings", "/api/v1/flows") * 2:
        thread = threading.Thread(target=read, args=(path,))
        thread.start()
        thread.join()
    print(json.dumps([answers, client.get("/actuator/health").json]), flush=True)
os._exit(0)
"""


def test_a_file_that_was_cut_short_is_refused_in_words_and_does_not_end_the_process(file):
    with NovantraLite(file) as lite:
        client = lite.client("governance.findings:write")
        for _ in range(20):
            client.post(FINDINGS, FINDING)

    done = subprocess.run(
        [sys.executable, "-c", TRUNCATED, str(file)], capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    answers, health = json.loads(done.stdout)
    words = "The workspace's file is damaged: restore a backup of it."
    assert answers == [[503, words]] * 4
    assert health == {"status": "DOWN", "faults": [{"workspace": "register", "fault": words}]}


# --- Directories with one bad file --------------------------------------------


@pytest.fixture
def directory(tmp_path):
    """A directory of two workspaces, of which one is damaged, and a token for each."""
    tokens = {}
    with NovantraLite(workspaces=tmp_path, key="k") as lite:
        lite.create_workspace("alpha")
        lite.create_workspace("beta")
    for slug in ("alpha", "beta"):
        with NovantraLite(workspaces=tmp_path, workspace=slug, key="k") as lite:
            tokens[slug] = lite.token("organization:read")
    (tmp_path / "beta.db").write_bytes(b"Shopping list: milk, milk, milk. " * 200)
    return tmp_path, tokens


def test_one_bad_file_keeps_nobody_from_the_other_workspaces(directory):
    folder, tokens = directory

    with NovantraLite(workspaces=folder, key="k") as lite:
        answers = {
            slug: Client(lite, {"Authorization": f"Bearer {token}"}).get("/api/v1/organization")
            for slug, token in tokens.items()
        }
        key = Client(lite, {"X-Api-Key": "fss_" + "0" * 64}).get("/api/v1/flows")
        health, ready = lite.client().get(HEALTH), lite.client().get("/api/health/ready")

    why = "beta.db is not a file of novantra-lite; name another one."
    faults = [{"workspace": "beta", "fault": why}]
    assert (answers["alpha"].status, answers["beta"].status) == (200, 503)
    assert answers["beta"].json["message"] == f"The workspace beta is not served. {why}"
    assert (key.status, key.json["message"]) == (503, "Not every workspace is served: beta is not.")
    assert (health.status, health.json) == (200, {"status": "UP", "faults": faults})
    assert (ready.status, ready.json) == (200, {"status": "ok", "faults": faults})


def test_a_command_does_not_take_the_only_good_workspace_for_the_one_that_is_meant(
    directory, capsys, monkeypatch
):
    folder, _ = directory
    monkeypatch.setenv("NOVANTRA_LITE_KEY", "k")
    line = ["account", "list", "--workspaces", str(folder)]

    unnamed, bad = main(line), main([*line, "--workspace", "beta"])
    good = main([*line, "--workspace", "alpha"])

    assert (unnamed, bad, good) == (1, 1, 0)
    assert "Name one of the workspaces: alpha, beta." in capsys.readouterr().err


# --- Clocks -------------------------------------------------------------------


def rested(file, days):
    """Make a file whose newest entry is so many days old."""
    with NovantraLite(file, clock=lambda: time.time() - days * DAY) as lite:
        return lite.accounts.create("scanner", novantra_scopes())


def test_nothing_is_written_while_the_clock_is_far_ahead_of_the_newest_entry(file, capsys):
    with NovantraLite(file, clock=lambda: time.time() - 200 * DAY) as lite:
        token = lite.token(*novantra_scopes(), life=400 * DAY)

    with NovantraLite(file) as lite:
        client = Client(lite, {"Authorization": f"Bearer {token}"})
        read, written = client.get(FINDINGS), client.post(FINDINGS, FINDING)
        health, steps = client.get(HEALTH), lite.step()
    status = main(["account", "create", "x", "--scope", "assets:read", "--database", str(file)])

    assert (read.status, written.status, health.status, steps) == (200, 503, 503, 0)
    assert ", 200 days after the newest entry: nothing is written" in written.json["message"]
    assert "start the server once with --accept-clock" in written.json["message"]
    assert ", 200 days after the newest entry" in health.json["faults"][0]["fault"]
    assert (status, "200 days after" in capsys.readouterr().err) == (1, True)


def test_a_clock_that_is_right_after_a_long_rest_is_accepted_once_and_audited(file):
    rested(file, 200)

    with serving(file, "--accept-clock") as server:
        server.send_signal(signal.SIGTERM)
        server.wait(60)

    with NovantraLite(file) as lite:
        made = lite.accounts.create("later", ["assets:read"])
        (entry,) = lite.audit(action="clock.accepted")
    assert made.name == "later"
    assert (entry["actor"], entry["subjectType"]) == ("console", "workspace")


@pytest.mark.parametrize(
    "options",
    [{"clock": lambda: time.time() + 70 * 365 * DAY}, {"clock_tolerance": 0}, {}],
    ids=["a clock of the embedder's own", "no tolerance is set", "a rest within the tolerance"],
)
def test_a_clock_is_not_refused_without_a_reason(file, options):
    rested(file, 200 if options else 90)

    with NovantraLite(file, **options) as lite:
        assert lite.accounts.create("later", ["assets:read"]).name == "later"


# --- Secrets that nobody would see --------------------------------------------


@pytest.mark.parametrize(
    ("line", "output", "listed"),
    [
        ("account create scanner --scope assets:read", ">&-", "account list"),
        ("account create scanner --scope assets:read", "| :", "account list"),
        ("webhook add https://203.0.114.7/hook", ">&-", "webhook list"),
        ("key create pipeline", "> /dev/full", "key list"),
    ],
)
def test_what_is_shown_once_is_not_made_unless_it_was_shown(file, capsys, line, output, listed):
    with NovantraLite(file):
        pass
    program = f"{sys.executable} -m novantra_lite {line} --database {file}"
    shell = f"set -o pipefail; {{ sleep 0.1; {program}; }} {output}"

    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    main([*listed.split(), "--database", str(file), "--json"])

    assert done.returncode in (1, 141)
    assert "Traceback" not in done.stderr
    assert capsys.readouterr().out == "[]\n"


def test_the_secrets_of_a_first_start_go_to_a_terminal_and_into_no_file(file):
    ours, theirs = pty.openpty()
    line = [*PROGRAM, "serve", str(file), "--listen", "127.0.0.1:0"]

    with subprocess.Popen(line, stdout=theirs) as server:
        os.close(theirs)
        said = b""
        while b"Stop with Ctrl-C." not in said:
            said += os.read(ours, 4096)
        server.send_signal(signal.SIGTERM)
        ended = server.wait(60)
    os.close(ours)

    assert (ended, b"Client secret  nvs_" in said) == (0, True)
    assert not file.with_name("register.db.credentials").exists()


def test_a_first_start_makes_no_account_whose_secret_cannot_be_written_down(file):
    file.with_name("register.db.credentials").mkdir()
    line = [*PROGRAM, "serve", str(file), "--listen", "127.0.0.1:0"]

    done = subprocess.run(line, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (1, "")
    assert "register.db.credentials" in done.stderr
    with NovantraLite(file) as lite:
        assert (lite.accounts.list(), lite.api_keys.list()) == ([], [])
