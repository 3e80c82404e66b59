"""Clients that ask much, say little or take nothing: they cost a bounded buffer, and no thread."""

import contextlib
import gzip
import http.client
import json
import os
import socket
import sqlite3
import threading
import time
from urllib.parse import urlsplit

import pytest
from conftest import WHY
from factstore.trails import evidence_path, make_attestation, make_trail
from multipart import FORM, form, part

from novantra_lite import FACTSTORE_SCOPES, NovantraLite, ServiceAccount, novantra_scopes

FINDINGS = "/api/v1/governance/findings"
FINDING = json.dumps({"title": "A finding", "severity": "low", "reason": WHY}).encode()
DOCUMENT = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
LIVE = b"GET /api/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
#: Deadlines that tests can wait for.
SOON = {"head_timeout": 0.4, "body_timeout": 0.4, "send_timeout": 0.4, "idle_timeout": 0.4}


class Site:
    """A served workspace: its address, and a valid account."""

    def __init__(self, lite, url):
        self.lite, self.port = lite, urlsplit(url).port
        self.opened = contextlib.ExitStack()

    def token(self):
        """A token of an account with every scope."""
        return self.lite.token(*novantra_scopes(), *FACTSTORE_SCOPES)

    def connect(self, data=b"", buffer=0):
        """A connection over which this was sent; `buffer` is what the client's side holds."""
        connection = socket.socket()
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(data)
        return self.opened.enter_context(connection)

    def call(self, method, path, token="", body=None, **headers):
        """The answer to one request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            named["Authorization"] = f"Bearer {token}"
        with contextlib.closing(connection):
            connection.request(method, path, body, named)
            with connection.getresponse() as response:
                return response.status, response.headers, response.read()

    def serves(self, token):
        """The statuses of a read and a write of a valid account, and of health."""
        posted = self.call("POST", FINDINGS, token, FINDING, Content_Type="application/json")
        got = self.call("GET", FINDINGS, token)
        return got[0], posted[0], self.call("GET", "/api/health/live")[0]


@contextlib.contextmanager
def served(database="", **settings):
    """A workspace with a few threads behind a real port."""
    with (
        NovantraLite(database, **{"threads": 2, "rate_limits": False} | settings) as lite,
        lite.listening() as url,
    ):
        site = Site(lite, url)
        with site.opened:
            yield site


def head(method, path, *lines, token=""):
    """The head of a request."""
    own = [f"Authorization: Bearer {token}"] if token else []
    text = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *own, *lines])
    return text.encode() + b"\r\n\r\n"


def read_all(connection):
    """What comes over a connection until the server hangs up."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 20):
            data += piece
    return data


def status_of(connection):
    """The status that is answered next over a connection."""
    return int(connection.recv(65_536).split(b" ", 2)[1])


def wait_until(condition):
    """What a condition returns as soon as it holds; what it returned last after a bounded time."""
    deadline = time.monotonic() + 5
    while not (outcome := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return outcome


def test_clients_that_pipeline_large_answers_and_take_none_hold_no_thread():
    with served(send_timeout=0.4) as site:
        token = site.token()

        greedy = [site.connect(DOCUMENT * 60, 4096) for _ in range(8)]
        statuses = site.serves(token)
        time.sleep(0.8)
        answers = read_all(greedy[0]).count(b"HTTP/1.1 200 OK")

    assert statuses == (200, 201, 200)
    assert 0 < answers < 60


@pytest.mark.parametrize("spool", [1 << 30, 1 << 20], ids=["on disk", "where the disk is full"])
def test_downloads_that_stall_hold_no_thread_and_end(spool):
    content = os.urandom(1 << 20) * 6
    with served(spool_limit=spool, send_timeout=0.4) as site:
        token, trail = site.token(), make_trail(site.lite)
        path = evidence_path(trail, make_attestation(site.lite, trail))
        client = site.lite.client(*FACTSTORE_SCOPES)
        key = client.request("POST", path, body=form(part(content)), headers=FORM).json[
            "sha256Hash"
        ]

        request = head("GET", f"/api/v1/evidence/{key}", token=token)
        stalled = [site.connect(request, 4096) for _ in range(8)]
        statuses = site.serves(token)
        ended = wait_until(lambda: site.call("GET", "/actuator/health")[0] == 200)
        time.sleep(0.8)
        sizes = [len(read_all(connection)) for connection in stalled[:2]]
        whole = site.call("GET", f"/api/v1/evidence/{key}", token)

    assert statuses == (200, 201, 200) and ended
    assert max(sizes) < len(content)
    assert (whole[0], whole[2]) == (200, content)


def long_findings(lite, number=200):
    """Make findings of which a page has two megabytes."""
    rows = (
        (line, {"findingKey": f"f-{line}", "title": "F", "severity": "low"} | LONG_TEXT)
        for line in range(1, number + 1)
    )
    lite.collection("findings").import_rows(rows, reason=WHY)


LONG_TEXT = {"description": "x" * 10_000}
PAGE = f"{FINDINGS}?limit=200"


def test_large_pages_that_many_clients_ask_for_at_once_arrive_whole():
    with served() as site:
        long_findings(site.lite)
        token = site.token()
        _, _, expected = site.call("GET", PAGE, token)

        asked = [
            site.connect(head("GET", PAGE, "Connection: close", token=token)) for _ in range(24)
        ]
        live = site.call("GET", "/api/health/live")[0]
        bodies = {read_all(connection).partition(b"\r\n\r\n")[2] for connection in asked}

    assert len(expected) > 2_000_000
    assert bodies == {expected}
    assert live == 200


@pytest.mark.parametrize("spool", [1 << 30, 1 << 20], ids=["on disk", "where the disk is full"])
def test_large_pages_that_nobody_reads_stop_no_other_request(spool):
    with served(spool_limit=spool, send_timeout=0.4) as site:
        long_findings(site.lite)
        token = site.token()
        site.call("GET", PAGE, token)

        stalled = [site.connect(head("GET", PAGE, token=token), 4096) for _ in range(24)]
        statuses = site.serves(token)
        time.sleep(0.8)
        sizes = [len(read_all(connection)) for connection in stalled[:2]]
        again = site.serves(token)

    assert statuses == again == (200, 201, 200)
    assert max(sizes) < 2_000_000


def test_an_account_that_is_disabled_reads_nothing_more_over_its_connection():
    with served() as site:
        account = site.lite.accounts.create("Reader", ["governance.findings:read"])
        with site.lite.workspace.read():
            record = ServiceAccount.find(account.client_id)
        token = site.lite.workspace.tokens.issue(record, record.scopes, 900)
        connection = site.connect()

        statuses = []
        for _ in range(2):
            connection.sendall(head("GET", FINDINGS, token=token))
            statuses.append(status_of(connection))
        site.lite.accounts.disable(account.client_id)
        connection.sendall(head("GET", FINDINGS, token=token))
        statuses.append(status_of(connection))

    assert statuses == [200, 200, 401]


def test_pipelined_requests_are_answered_in_order_one_after_the_other():
    with served() as site:
        pipelined = site.connect(LIVE + DOCUMENT + LIVE * 30)

        pipelined.shutdown(socket.SHUT_WR)
        data = read_all(pipelined)

    assert data.count(b"HTTP/1.1 200 OK") == 32
    assert data.count(b'{"status":"ok"}') == 31
    assert data.endswith(b'{"status":"ok"}')


def test_hundreds_of_silent_connections_and_half_sent_heads_delay_nobody_and_end():
    with served(**SOON) as site:
        token = site.token()

        silent = [site.connect() for _ in range(200)]
        halves = [site.connect(b"GET / HTTP/1.1\r\nHost") for _ in range(100)]
        blank = [site.connect(b"\r\n") for _ in range(20)]
        statuses = site.serves(token)
        for _ in range(10):
            for connection in (*halves, *blank):
                with contextlib.suppress(ConnectionError):
                    connection.send(b"a" if connection in halves else b"\r\n\r\n\r\n")
            time.sleep(0.1)
        ends = [read_all(connection) for connection in (*silent, *halves, *blank)]

    assert statuses == (200, 201, 200)
    assert set(ends) == {b""}


def test_a_body_that_drips_and_a_connection_that_rests_are_closed_in_time():
    with served(**SOON) as site:
        token = site.token()
        lines = ["Content-Type: application/json", "Content-Length: 90000"]
        request = head("POST", FINDINGS, *lines, token=token)

        dripping, resting = site.connect(request), site.connect(LIVE)
        first = status_of(resting)
        for _ in range(8):
            with contextlib.suppress(ConnectionError):
                dripping.send(b" ")
            time.sleep(0.1)

        assert first == 200
        assert (read_all(dripping), read_all(resting)) == (b"", b"")


def test_who_has_asked_nothing_longest_makes_room_when_all_connections_are_in_use():
    with served(connection_limit=20) as site:
        token = site.token()

        silent = [site.connect() for _ in range(40)]
        statuses = site.serves(token)
        first, last = read_all(silent[0]), silent[-1]
        last.sendall(LIVE)

        assert statuses == (200, 201, 200)
        assert first == b""
        assert status_of(last) == 200


def own_address():
    """An address of this machine that is not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]
    pytest.skip("The machine has no address but loopback.")


@pytest.mark.parametrize(("proxies", "statuses"), [((), [200, 0]), (("0.0.0.0/0",), [200, 200])])
def test_one_address_has_so_many_connections_at_once_unless_it_is_a_trusted_proxy(
    proxies, statuses
):
    address, got = own_address(), []
    with (
        NovantraLite(address_connections=3, trusted_proxies=proxies) as lite,
        lite.listening("0.0.0.0:0") as url,
        contextlib.ExitStack() as opened,
    ):
        values = address, urlsplit(url).port
        for _ in range(2):
            opened.enter_context(socket.create_connection(values, 10))

        for _ in range(2):
            connection = opened.enter_context(socket.create_connection(values, 10))
            with contextlib.suppress(ConnectionError):
                connection.sendall(LIVE)
            data = b""
            with contextlib.suppress(ConnectionError):
                data = connection.recv(65_536)
            got.append(int(data.split(b" ")[1]) if data else 0)

    assert got == statuses


EVIDENCE = (
    "/api/v1/trails/00000000-0000-4000-8000-000000000000"
    "/attestations/00000000-0000-4000-8000-000000000000/evidence"
)


@pytest.mark.parametrize(
    ("path", "lines", "status"),
    [
        (EVIDENCE, ["Content-Length: 50000000"], 401),
        (EVIDENCE, ["Content-Length: 50000000", "Expect: 100-continue"], 401),
        (EVIDENCE, ["Transfer-Encoding: chunked"], 401),
        (EVIDENCE, ["Content-Length: 50000000", "Authorization: Bearer no"], 401),
        (FINDINGS, ["Content-Length: 1048577"], 401),
        ("/api/v1/auth/token", ["Content-Length: 1048577"], 413),
        ("/no/such/path", ["Content-Length: 65537"], 404),
    ],
)
def test_who_may_not_send_a_body_is_refused_before_it_is_read(path, lines, status):
    with served() as site:
        refused = site.connect(head("POST", path, "Content-Type: application/json", *lines))

        answer = read_all(refused)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer
    assert b"\r\nX-Request-Id: req_" in answer


def test_a_declared_length_over_the_operations_limit_is_refused_at_once():
    with served() as site:
        token = site.token()
        request = head(
            "POST", FINDINGS, "Content-Type: application/json", "Content-Length: 1048577",
            token=token,
        )  # fmt: skip

        answer = read_all(site.connect(request))
        # A client that sends all of it before it reads finds the answer, too.
        whole = site.call("POST", FINDINGS, token, bytes(3 << 20), Content_Type="application/json")

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"message":"The body is over the limit of 1048576 bytes."' in answer
    assert whole[0] == 413


def test_a_client_that_asks_first_is_told_to_go_on_once_it_may():
    body = form(part(b"x" * 100_000))
    with served() as site:
        trail = make_trail(site.lite)
        path = evidence_path(trail, make_attestation(site.lite, trail))
        lines = [f"Content-Type: {FORM['Content-Type']}", f"Content-Length: {len(body)}"]
        request = head("POST", path, *lines, "Expect: 100-continue", token=site.token())

        asking = site.connect(request)
        first = asking.recv(65_536)
        asking.sendall(body)
        stored = status_of(asking)

    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert stored == 201


def test_large_bodies_lie_beside_the_database_without_a_name_and_bounded_together(tmp_path):
    lines = ["Content-Type: multipart/form-data; boundary=x", "Content-Length: 150000"]
    with served(tmp_path / "register.db", spool_limit=200_000) as site:
        wait_until(lambda: (tmp_path / "register.db.checkpoints").exists())
        request = head("POST", EVIDENCE, *lines, token=site.token())
        before = sorted(os.listdir(tmp_path))

        sending = site.connect(request + bytes(120_000))
        spooled = wait_until(lambda: nameless_files(tmp_path))
        names = sorted(os.listdir(tmp_path))
        refused = read_all(site.connect(request))
        sending.close()
        again = wait_until(lambda: b"100 Continue" in asked_again(site, request))

    assert spooled == [0o600]
    assert names == before
    assert refused.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 5\r\n" in refused
    assert again


def nameless_files(folder):
    """The modes of this process's open files in a folder that have no name any more."""
    modes = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith(f"{folder}/") and target.endswith(" (deleted)"):
                modes.append(os.fstat(int(descriptor)).st_mode & 0o777)
    return modes


def asked_again(site, request):
    """What is answered to a request with a body that waits to be told to go on."""
    asking = site.connect(request[:-2] + b"Expect: 100-continue\r\n\r\n")
    return asking.recv(65_536)


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused_and_ends_the_connection(data):
    with served() as site:
        answer = read_all(site.connect(data + LIVE))
        second = read_all(site.connect(LIVE + data))
        live = site.call("GET", "/api/health/live")[0]

    assert answer.split(b" ")[1] == b"400"
    assert (answer.count(b"HTTP/1."), second.count(b"HTTP/1.")) == (1, 2)
    assert second.startswith(b"HTTP/1.1 200 ") and b" 400 Bad Request\r\n" in second
    assert live == 200


@pytest.mark.parametrize(
    ("chunks", "status"),
    [
        (b"zz\r\n", 400),
        (b"5" * 2000, 400),
        (b"1;" + b"a" * 5000, 400),
        (b"1\r\na\r\n" * 40_000, 400),
        (b"0\r\n" + b"a: b\r\n" * 4000, 400),
        (b"100000\r\n" + b"x" * 0x100000 + b"\r\n1\r\n", 413),
    ],
)
def test_chunks_are_held_to_the_limits_of_bodies_and_to_their_own(chunks, status):
    lines = ["Transfer-Encoding: chunked", "Content-Type: application/json"]
    with served() as site:
        sender = site.connect(head("POST", FINDINGS, *lines, token=site.token()))
        with contextlib.suppress(ConnectionError):
            sender.sendall(chunks + b"x")

        answer = read_all(sender)

    assert answer.split(b" ")[1] == b"%d" % status


def test_a_head_without_end_is_refused():
    with served() as site:
        answer = read_all(site.connect(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000))

    assert answer.startswith(b"HTTP/1.0 431 ")


def test_health_is_told_while_a_foreign_lock_holds_every_write(tmp_path):
    path = tmp_path / "register.db"
    with served(path, threads=1, busy_timeout=0.6) as site:
        token, foreign = site.token(), sqlite3.connect(path, isolation_level=None)
        with contextlib.closing(foreign):
            foreign.execute("BEGIN IMMEDIATE")
            request = head(
                "POST", FINDINGS, "Content-Type: application/json",
                f"Content-Length: {len(FINDING)}", token=token,
            )  # fmt: skip
            waiting = [site.connect(request + FINDING) for _ in range(3)]

            time.sleep(0.1)
            live = site.call("GET", "/api/health/live")[0]
            refused = {status_of(connection) for connection in waiting}
            down = site.call("GET", "/api/health/ready"), site.call("GET", "/actuator/health")
            foreign.execute("ROLLBACK")
        up = site.call("GET", "/api/health/ready")[0], site.call("GET", "/actuator/health")[0]

        assert (live, refused) == (200, {503})
        assert [answer[0] for answer in down] == [503, 503]
        assert down[0][1]["Retry-After"]
        assert up == (200, 200)
        assert site.serves(token) == (200, 201, 200)


def test_one_workspace_whose_writes_wait_takes_no_thread_of_the_others(tmp_path):
    with NovantraLite(workspaces=tmp_path, threads=2, busy_timeout=1.0, rate_limits=False) as lite:
        lite.create_workspace("stuck")
        lite.create_workspace("free")
        tokens = {
            slug: NovantraLite.token(chosen(lite, slug), *novantra_scopes())
            for slug in ("stuck", "free")
        }
        with lite.listening() as url:
            site = Site(lite, url)
            foreign = sqlite3.connect(tmp_path / "stuck.db", isolation_level=None)
            with contextlib.closing(foreign), site.opened:
                foreign.execute("BEGIN IMMEDIATE")
                request = head(
                    "POST", FINDINGS, "Content-Type: application/json",
                    f"Content-Length: {len(FINDING)}", token=tokens["stuck"],
                )  # fmt: skip
                waiting = [site.connect(request + FINDING) for _ in range(30)]

                began = time.monotonic()
                statuses = site.serves(tokens["free"])
                took = time.monotonic() - began
                refused = [status_of(connection) for connection in waiting]
                foreign.execute("ROLLBACK")

    assert statuses == (200, 201, 200)
    assert took < 1
    assert set(refused) == {503}


def chosen(lite, slug):
    """An install that speaks of one of its workspaces."""
    lite._chosen = slug
    lite.__dict__.pop("accounts", None)
    return lite


def test_the_public_documents_are_compressed_for_who_takes_that():
    with served() as site:
        plain = site.call("GET", "/api/v1/openapi.json")
        packed = site.call("GET", "/api/v1/openapi.json", Accept_Encoding="br, gzip;q=0.5")
        refused = site.call("GET", "/docs", Accept_Encoding="gzip;q=0, identity")

    assert (plain[0], plain[1]["Content-Encoding"], plain[1]["Vary"]) == (
        200, None, "Accept-Encoding",
    )  # fmt: skip
    assert packed[1]["Content-Encoding"] == "gzip"
    assert int(packed[1]["Content-Length"]) == len(packed[2]) < len(plain[2]) / 5
    assert gzip.decompress(packed[2]) == plain[2]
    assert refused[1]["Content-Encoding"] is None and refused[2].startswith(b"<!DOCTYPE html>")


def test_a_stop_waits_for_no_client_that_says_or_takes_nothing():
    with NovantraLite(shutdown_grace=5.0) as lite:
        with lite.listening() as url:
            site = Site(lite, url)
            opened = site.opened
            silent = [site.connect() for _ in range(20)]
            refused = site.connect(head("POST", EVIDENCE, "Content-Length: 50000000"))
            assert status_of(refused) == 401
            began = time.monotonic()
        took = time.monotonic() - began
        with opened:
            ends = {connection.recv(10) for connection in silent}

    assert took < 2
    assert ends == {b""}
    assert not [thread for thread in threading.enumerate() if "waitress" in thread.name]
