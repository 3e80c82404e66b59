"""The product inside another program: mounted, listening, several at once, gone without a trace."""

import contextlib
import json
import os
import queue
import random
import subprocess
import sys
import threading
import urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import shift_path_info
from wsgiref.validate import validator

import pytest
from conftest import WHY, Clock
from processes import Receiver, call, connect

from novantra_lite import NovantraLite, Problem, create_app, novantra_scopes, verify_webhook

ASSETS, FINDINGS = "/api/v1/assets", "/api/v1/governance/findings"
ASSET = {"assetKey": "torque-wrench-7", "assetKind": "calibrated-tool", "displayName": "Wrench 7"}
FINDING = {"title": "Seal is cracked", "severity": "high", "reason": WHY}


def add_asset(lite, **members):
    return lite.collection("assets").create(**ASSET | members, reason=WHY)


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_a_listening_instance_answers_over_sockets_and_delivers_its_events():
    with Receiver() as receiver, NovantraLite(webhook_private_targets=("127.0.0.0/8",)) as lite:
        secret = lite.webhooks.add(receiver.url)["secret"]
        token = lite.token("governance.findings:read", "governance.findings:write")

        with lite.listening() as url, contextlib.closing(connect(url)) as connection:
            created = call(connection, "POST", FINDINGS, token, FINDING)
            listed = call(connection, "GET", FINDINGS, token)
            headers, body = receiver.arrived.get(timeout=60)

        assert (created[0], listed[0]) == (201, 200)
        assert [finding["title"] for finding in listed[1]["findings"]] == ["Seal is cracked"]
        event = verify_webhook(body, headers, secret)
        assert event["type"] == "finding.created"
        assert event["data"]["finding"]["id"] == created[1]["finding"]["id"]


def test_fifty_instances_leave_no_thread_and_no_open_file():
    def live():
        with (
            NovantraLite() as lite,
            lite.listening() as url,
            contextlib.closing(connect(url)) as connection,
        ):
            return call(connection, "GET", ASSETS, lite.token("assets:read"))[0]

    live()
    threads, files = threading.enumerate(), open_files()
    answers = {live() for _ in range(50)}

    assert answers == {200}
    assert threading.enumerate() == threads
    assert open_files() == files


def test_one_instance_that_listens_fifty_times_keeps_no_thread_and_no_file_of_each():
    with NovantraLite() as lite:
        token = lite.token("assets:read")

        def listen():
            with lite.listening() as url, contextlib.closing(connect(url)) as connection:
                return call(connection, "GET", ASSETS, token)[0]

        listen()
        threads, files = threading.enumerate(), open_files()
        answers = {listen() for _ in range(50)}

        assert answers == {200}
        assert threading.enumerate() == threads
        assert open_files() - files < 20


def test_a_host_that_answers_each_request_in_a_new_thread_gathers_no_open_files():
    with NovantraLite() as lite:
        client, answers = lite.client("assets:read"), []
        before = open_files()

        for _ in range(50):
            thread = threading.Thread(target=lambda: answers.append(client.get(ASSETS).status))
            thread.start()
            thread.join()

        assert answers == [200] * 50
        assert open_files() - before < 20


class Quiet(WSGIRequestHandler):
    def log_message(self, *body):
        """Keep quiet."""


def test_it_is_mounted_beside_another_application_and_keeps_to_the_rules_of_wsgi():
    with NovantraLite() as lite:
        add_asset(lite)
        token = lite.token(*novantra_scopes())
        mounted = validator(lite)

        def site(environ, start_response):
            if environ["PATH_INFO"].startswith("/register/"):
                shift_path_info(environ)
                return mounted(environ, start_response)
            start_response("200 OK", [("Content-Type", "application/json")])
            return [b'"the site"']

        with make_server("127.0.0.1", 0, site, handler_class=Quiet) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            answers = []
            for method, path, body in (
                ("GET", "/", None),
                ("GET", f"/register{ASSETS}?limit=1", None),
                ("POST", f"/register{FINDINGS}", FINDING),
                ("POST", f"/register{FINDINGS}", {}),
                ("DELETE", f"/register{ASSETS}", None),
                ("GET", "/register/nothing", None),
            ):
                url = f"http://127.0.0.1:{server.server_port}"
                with contextlib.closing(connect(url)) as connection:
                    answers.append(call(connection, method, path, token, body))
            server.shutdown()
            thread.join()

        assert [status for status, _ in answers] == [200, 200, 201, 400, 405, 404]
        assert answers[0][1] == "the site"
        assert answers[1][1]["assets"][0]["assetKey"] == "torque-wrench-7"
        assert answers[3][1]["error"] == "validation"
        assert [finding["title"] for finding in lite.collection("findings").list()] == [
            "Seal is cracked"
        ]


def test_a_mounted_instance_delivers_only_once_it_is_started():
    class Transport:
        def __init__(self):
            self.sent = queue.Queue()

        def post(self, url, body, headers):
            from novantra_lite import HttpResponse

            self.sent.put(json.loads(body)["type"])
            return HttpResponse(204, None, "Answered with status 204.")

    transport = Transport()
    with NovantraLite(transport=transport, webhook_private_targets=("127.0.0.0/8",)) as lite:
        lite.webhooks.add("http://127.0.0.1:9/hook")
        lite.collection("findings").create(
            title="Cracked", severity="low", findingKey="f-1", reason=WHY
        )
        before = transport.sent.empty()

        lite.start()
        sent = transport.sent.get(timeout=60)

        assert before
        assert sent == "finding.created"
    assert "novantra-lite-dispatcher" not in {thread.name for thread in threading.enumerate()}


def test_two_instances_at_once_share_nothing():
    with NovantraLite() as record, NovantraLite() as other:
        asset = add_asset(record)
        tokens = [lite.token("assets:read") for lite in (record, other)]

        with record.listening() as first, other.listening() as second:
            answers = []
            for url in (first, second):
                for token in tokens:
                    with contextlib.closing(connect(url)) as connection:
                        answers.append(call(connection, "GET", ASSETS, token))
                with contextlib.closing(connect(url)) as connection:
                    path = f"{ASSETS}/{asset['id']}"
                    answers.append(call(connection, "GET", path, tokens[url == second]))

        assert [status for status, _ in answers] == [200, 401, 200, 401, 200, 404]
        assert [len(answers[item][1]["assets"]) for item in (0, 4)] == [1, 0]


def test_a_reset_empties_the_workspace_and_ends_its_tokens(lite, novantra):
    add_asset(lite)
    lite.webhooks.add("https://example.org/hook")
    held = novantra.get(ASSETS).status

    lite.reset()

    assert held == 200
    assert novantra.get(ASSETS).status == 401
    assert lite.accounts.list() == []
    assert lite.webhooks.list() == []
    assert list(lite.collection("assets").list()) == []
    assert lite.client("assets:read").get(ASSETS).json["assets"] == []
    assert add_asset(lite)["assetKey"] == "torque-wrench-7"


def test_a_workspace_that_is_kept_is_not_reset(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        add_asset(lite)

        with pytest.raises(Problem) as refused:
            lite.reset()

        assert str(refused.value) == "Only a workspace without a file can be reset."
        assert len(list(lite.collection("assets").list())) == 1


def test_a_read_only_instance_sees_what_another_writes_and_changes_nothing(tmp_path):
    file = tmp_path / "register.db"
    with NovantraLite(file) as lite:
        token = {"Authorization": f"Bearer {lite.token(*novantra_scopes())}"}
        account = lite.accounts.create("Console", ["assets:read"])
        with NovantraLite(file, read_only=True) as reader:
            client = reader.client()
            add_asset(lite)

            listed = client.get(ASSETS, headers=token)
            exchanged = client.post(
                "/api/v1/auth/token",
                {
                    "grant_type": "client_credentials",
                    "client_id": account.client_id,
                    "client_secret": account.client_secret,
                },
            )
            refused = client.post(FINDINGS, FINDING, headers=token)
            with pytest.raises(Problem) as result:
                add_asset(reader, assetKey="torque-wrench-8")

        entries = lite.collection("findings").list()
        assert [asset["assetKey"] for asset in listed.json["assets"]] == ["torque-wrench-7"]
        assert exchanged.status == 200
        assert (refused.status, refused.json["error"]) == (409, "conflict")
        assert str(result.value) == "The workspace is open for reading only."
        assert list(entries) == []
        assert lite.verify() == []


def test_a_read_only_instance_makes_no_file(tmp_path):
    with pytest.raises(Problem) as refused:
        NovantraLite(tmp_path / "none.db", read_only=True)

    assert str(refused.value) == f"There is no workspace at {tmp_path / 'none.db'}."
    assert list(tmp_path.iterdir()) == []


def test_the_same_time_and_chance_give_the_same_ids_secrets_and_times():
    def live():
        with NovantraLite(clock=Clock(), random=random.Random(7)) as lite:
            account = lite.accounts.create("Console", ["assets:read"])
            return add_asset(lite), account, account.client_secret, lite.token("assets:read")

    first, again = live(), live()

    assert first == again
    assert first[0]["id"].startswith("asset_01KT1GW6G0")
    assert first[0]["createdAt"] == "2026-06-01T12:00:00.000Z"


def test_time_moves_only_as_the_clock_says(lite, clock):
    client = lite.client("assets:read")

    before = client.get(ASSETS).status
    clock.advance(900)
    after = client.get(ASSETS).status

    assert (before, after) == (200, 401)


def test_the_context_manager_closes_the_file_also_when_something_is_raised(tmp_path):
    file = tmp_path / "register.db"

    with pytest.raises(ZeroDivisionError), NovantraLite(file) as lite:
        asset = add_asset(lite)
        held = sorted(path.name for path in tmp_path.iterdir())
        raise ZeroDivisionError
    left = sorted(path.name for path in tmp_path.iterdir())
    with NovantraLite(file) as lite:
        matches = [record["id"] for record in lite.collection("assets").list()]

    assert {"register.db.lock", "register.db-wal"} <= set(held)
    assert left == ["register.db", "register.db.checkpoints", "register.db.key"]
    assert matches == [asset["id"]]


def test_a_passing_workspace_takes_its_files_with_it():
    with NovantraLite() as lite:
        add_asset(lite)
        file = lite.workspace.file
        during = file.exists()

    assert (during, file.parent.exists()) == (True, False)


def test_the_files_are_for_their_owner_only(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        lite.backup(tmp_path / "copy.db")
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    assert modes["register.db.key"] == 0o600
    assert modes["register.db.lock"] == 0o600
    assert modes["copy.db"] == 0o600


def test_a_port_that_is_taken_is_refused_in_a_sentence():
    with NovantraLite() as lite, lite.listening() as url:
        taken, threads = url.removeprefix("http://"), threading.enumerate()

        with pytest.raises(Problem) as refused, lite.listening(taken):
            pass

        assert threading.enumerate() == threads
        assert str(refused.value) == (
            f"Nothing can listen on {taken}: it is in use, or not an address of this machine; "
            "port 0 picks a free one."
        )


def test_a_server_is_handed_the_application_that_the_environment_describes(tmp_path):
    program = (
        "import json, threading, novantra_lite\n"
        "app = novantra_lite.create_app()\n"
        "client = app.client('assets:read')\n"
        "names = [thread.name for thread in threading.enumerate()]\n"
        "print(json.dumps([client.get('/api/v1/assets').status, app.settings.threads, names]))\n"
        "app.close()\n"
    )
    environment = {
        "NOVANTRA_LITE_DATABASE": str(tmp_path / "register.db"),
        "NOVANTRA_LITE_THREADS": "5",
    }

    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [200, 5, ["MainThread", "novantra-lite-dispatcher"]]
    assert (tmp_path / "register.db").exists()


def test_the_environment_may_name_a_directory_of_workspaces(tmp_path, monkeypatch):
    with NovantraLite(workspaces=tmp_path) as lite:
        lite.create_workspace("hangar-7", "Hangar 7")
    monkeypatch.setenv("NOVANTRA_LITE_WORKSPACES", str(tmp_path))

    with create_app() as app:
        names = {slug: workspace.name for slug, workspace in app.workspaces.items()}

    assert names == {"hangar-7": "Hangar 7"}


def test_the_reference_page_and_the_health_are_there_without_a_token():
    with NovantraLite() as lite, lite.listening() as url:
        pages = []
        for path in ("/docs", "/api/health/live", "/api/health/ready"):
            with urllib.request.urlopen(url + path, timeout=60) as answer:
                pages.append((answer.status, answer.headers.get_content_type(), answer.read()))

    assert pages[0][:2] == (200, "text/html")
    assert b"</html>" in pages[0][2]
    assert [json.loads(page[2])["status"] for page in pages[1:]] == ["ok", "ok"]


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(TypeError) as refused:
        NovantraLite(thread=4)

    assert str(refused.value) == "No such setting: thread."


STRUCK_AS_IT_BEGINS_TO_WAIT = """
import os, signal, sys, threading
from novantra_lite import NovantraLite

def strike(frame, event, called):
    waits = event == "c_call" and called.__name__ in {"acquire", "get", "recv", "select", "sigwait"}
    if waits and os.getpid() == threading.get_native_id():
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)

with NovantraLite() as lite:
    lite.serve("127.0.0.1:0", ready=lambda url: sys.setprofile(strike))
print("stopped")
"""

STRUCK_IN_ANOTHER_THREAD = """
import signal, threading, time
from novantra_lite import NovantraLite

def strike():
    time.sleep(0.1)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

with NovantraLite() as lite:
    lite.serve("127.0.0.1:0", ready=lambda url: threading.Thread(target=strike).start())
print("stopped")
"""


# The main thread cannot be struck by hand between the interpreter's last look at what has arrived
# and the system call that waits. A signal that another thread takes reaches it as little.
@pytest.mark.parametrize("program", [STRUCK_AS_IT_BEGINS_TO_WAIT, STRUCK_IN_ANOTHER_THREAD])
def test_a_signal_stops_a_server_whatever_its_main_thread_is_at(program):
    line = [sys.executable, "-c", program]

    done = subprocess.run(line, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("stopped\n", 0)
