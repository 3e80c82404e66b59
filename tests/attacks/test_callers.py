"""Callers without credentials, with wrong ones, or with those of somebody else's browser."""

import contextlib
import json
import socket
import threading

import pytest
from conftest import Clock
from stored import stored_bytes

from novantra_lite import FACTSTORE_SCOPES, Client, NovantraLite, RateLimits

ASSETS = "/api/v1/assets"
FLOWS = "/api/v1/flows"
TOKEN = "/api/v1/auth/token"
REFUSED, DENIED = "api.authentication.refused", "api.authorization.refused"
WRONG = {"Authorization": "Bearer workspace.wrong"}


@pytest.fixture
def opened():
    """Opens workspaces with settings of their own at noon."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(NovantraLite(clock=Clock(), **settings))


def coming_from(lite, address, headers=WRONG):
    """A client whose requests come from an address."""

    def application(environ, start_response):
        return lite({**environ, "REMOTE_ADDR": address}, start_response)

    return Client(application, headers)


def refusals(lite, workspace=None, action=REFUSED):
    """Actor, subject, address and details of every refusal in the audit log, oldest first."""
    entries = lite.audit(action=action)
    return [(e["actor"], e["subjectId"], e["address"], e["detail"]) for e in entries]


def end_minute(lite):
    lite.source.clock.advance(60)
    lite.step()


# --- What refusals leave ------------------------------------------------------


def test_a_network_of_ipv6_leaves_two_entries_a_minute(opened):
    lite = opened(rate_limits=False)

    for number in range(1, 201):
        coming_from(lite, f"2001:db8:1:2::{number:x}").get(ASSETS)
    end_minute(lite)

    first, rest = refusals(lite)
    assert first == ("unknown", f"GET {ASSETS}", "2001:db8:1:2::1", None)
    assert rest == (
        "system",
        "199 more requests",
        None,
        {
            "since": "2026-06-01T12:00:00.000Z",
            "count": 199,
            "requests": {f"GET {ASSETS}": 199},
            "networks": {"2001:db8:1:2::/64": 199},
        },
    )
    assert lite.verify() == []


def test_any_number_of_networks_leaves_eleven_entries_a_minute(opened):
    lite = opened()

    for number in range(300):
        coming_from(lite, f"10.0.{number // 250}.{number % 250}").get(ASSETS)
    end_minute(lite)

    *first, rest = refusals(lite)
    assert [entry[2] for entry in first] == [f"10.0.0.{number}" for number in range(10)]
    assert (rest[1], rest[3]["count"]) == ("290 more requests", 290)
    assert len(rest[3]["networks"]) == 21
    assert rest[3]["networks"]["others"] == 270


def test_counted_refusals_are_written_with_the_next_refusal_where_nothing_else_does(opened):
    lite = opened()
    coming_from(lite, "192.0.2.1").get(ASSETS)
    coming_from(lite, "192.0.2.1").get(ASSETS)
    lite.source.clock.advance(3600)

    coming_from(lite, "192.0.2.2").get(ASSETS)

    assert [entry[1:3] for entry in refusals(lite)] == [
        (f"GET {ASSETS}", "192.0.2.1"),
        ("1 more requests", None),
        (f"GET {ASSETS}", "192.0.2.2"),
    ]


def test_counted_refusals_are_not_lost_at_the_end(tmp_path):
    path = tmp_path / "register.db"
    with NovantraLite(path, clock=Clock()) as lite:
        for _ in range(3):
            coming_from(lite, "192.0.2.1").get(ASSETS)

    with NovantraLite(path, clock=Clock()) as lite:
        assert [entry[1] for entry in refusals(lite)] == [f"GET {ASSETS}", "2 more requests"]


def test_a_denied_request_is_recorded_once_a_minute_and_counted(opened):
    lite = opened()
    reader = lite.client("factstore:read")
    (account,) = lite.accounts.list()

    statuses = [reader.post(FLOWS, {"name": "a"}).status for _ in range(5)]
    end_minute(lite)

    assert statuses == [403] * 5
    first, rest = refusals(lite, action=DENIED)
    assert first == (account["clientId"], f"POST {FLOWS}", "127.0.0.1", None)
    assert (rest[1], rest[3]["requests"]) == ("4 more requests", {f"POST {FLOWS}": 4})


def test_a_secret_in_the_place_of_the_client_id_is_kept_nowhere(opened):
    lite = opened()
    account = lite.accounts.create("Scanner", ["assets:read"])
    body = {
        "grant_type": "client_credentials",
        "client_id": account.client_secret,
        "client_secret": account.client_id,
    }

    refused = Client(lite).post(TOKEN, body)

    assert refused.status == 401
    assert refusals(lite) == [("unknown", f"POST {TOKEN}", "127.0.0.1", None)]
    assert account.client_secret.encode() not in stored_bytes(lite)


def test_credentials_that_ended_are_recorded_under_what_they_were(opened):
    lite = opened()
    key = lite.api_keys.create("Pipeline")
    lite.api_keys.revoke(key["id"])
    account = lite.accounts.create("Scanner", ["assets:read"])
    body = {"grant_type": "client_credentials", "client_id": account.client_id}
    token = Client(lite).post(TOKEN, {**body, "client_secret": account.client_secret}).json
    lite.accounts.disable(account.client_id)

    Client(lite, {"X-Api-Key": key["apiKey"]}).get(FLOWS)
    Client(lite, {"Authorization": f"Bearer {token['access_token']}"}).get(ASSETS)

    actors = [entry[0] for entry in refusals(lite)]
    assert actors == [key["id"], account.client_id]


def test_with_several_workspaces_a_revoked_key_leaves_a_trace_in_its_own(tmp_path):
    with NovantraLite(workspaces=tmp_path, clock=Clock()) as install:
        install.create_workspace("acme")
        install.create_workspace("zeta")
    with NovantraLite(workspaces=tmp_path, workspace="zeta", clock=Clock()) as zeta:
        key = zeta.api_keys.create("Pipeline")
        zeta.api_keys.revoke(key["id"])

        refused = coming_from(zeta, "192.0.2.1", {"X-Api-Key": key["apiKey"]}).get(FLOWS)

        assert refused.status == 401
        assert refusals(zeta) == [(key["id"], f"GET {FLOWS}", "192.0.2.1", None)]
    with NovantraLite(workspaces=tmp_path, workspace="acme", clock=Clock()) as acme:
        assert refusals(acme) == []


def test_with_several_workspaces_what_none_knows_is_counted_in_all(tmp_path, caplog):
    with NovantraLite(workspaces=tmp_path, workspace="acme", clock=Clock()) as install:
        install.create_workspace("acme")
        install.create_workspace("zeta")
        stranger = coming_from(install, "192.0.2.1", {"X-Api-Key": "fss_" + "0" * 64})

        statuses = [stranger.get(FLOWS).status for _ in range(3)]
        end_minute(install)

        assert statuses == [401] * 3
    for slug in ("acme", "zeta"):
        with NovantraLite(workspaces=tmp_path, workspace=slug, clock=Clock()) as lite:
            ((actor, subject, address, detail),) = refusals(lite)
            assert (actor, subject, address) == ("system", "3 more requests", None)
            assert detail["requests"] == {f"GET {FLOWS}": 3}
            assert "networks" not in detail
    assert caplog.text.count("Credentials of no workspace were refused") == 1
    assert "192.0.2.1" in caplog.text


def test_an_entry_has_the_address_of_the_peer_or_of_who_is_behind_a_trusted_proxy(opened):
    plain, behind = opened(), opened(trusted_proxies=("127.0.0.1",))
    hops = {"X-Forwarded-For": "203.0.113.7, 192.0.2.1"}
    addresses = []

    for lite in (plain, behind):
        token = lite.token("factstore:read", "factstore:write")
        client = Client(lite, {"Authorization": f"Bearer {token}"} | hops)
        client.post(FLOWS, {"name": "payments"})
        addresses.append([e["address"] for e in lite.audit(action="flow.created")])

    assert addresses == [["127.0.0.1"], ["192.0.2.1"]]
    assert (plain.verify(), behind.verify()) == ([], [])


# --- Counting against an address ----------------------------------------------


@pytest.fixture
def doors(opened):
    """A workspace, and what has the right secret for each of its doors."""
    lite = opened(self_approval=True)
    account = lite.accounts.create("Scanner", ["assets:read"])
    key = lite.api_keys.create("Pipeline", FACTSTORE_SCOPES)["apiKey"]
    body = {
        "grant_type": "client_credentials",
        "client_id": account.client_id,
        "client_secret": account.client_secret,
    }
    return lite, body, key


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/nowhere", "/api/v2/nowhere"])
def test_wrong_paths_lock_no_other_door(doors, path):
    lite, body, key = doors
    nobody = Client(lite)

    lost = [nobody.get(path).status for _ in range(61)]

    assert lost == [404] * 60 + [429]
    assert nobody.post(TOKEN, body).status == 200
    assert nobody.post(TOKEN, body | {"client_secret": "wrong"}).status == 401
    assert nobody.get(ASSETS).status == 401
    assert nobody.request("POST", "/api/v1/webhooks/generic", json={}).status == 400
    slack = "/api/v1/organisations/acme/slack/commands"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert nobody.request("POST", slack, body=b"text=help", headers=form).status == 404
    login = nobody.get("/api/v1/organisations/acme/sso/login", redirectUri="https://a.example/")
    assert login.status == 404
    assert Client(lite, {"X-Api-Key": key}).get(FLOWS).status == 200


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/nowhere"])
def test_wrong_paths_with_a_key_count_against_its_account(doors, path):
    lite, _, key = doors
    client = Client(lite, {"X-Api-Key": key})

    statuses = [client.get(path).status for _ in range(70)]

    assert statuses == [404] * 70
    assert Client(lite).get(path).status == 404


def test_wrong_tokens_do_not_lock_single_sign_on(doors):
    lite, _, _ = doors
    refused = [Client(lite, WRONG).get(ASSETS).status for _ in range(61)]

    login = Client(lite).get("/api/v1/organisations/a/sso/login", redirectUri="https://a.example/")

    assert refused == [401] * 60 + [429]
    assert login.status == 404


def test_a_right_secret_is_never_locked_out_by_wrong_ones(doors):
    lite, body, key = doors
    nobody = Client(lite)
    for _ in range(70):
        nobody.post(TOKEN, body | {"client_secret": "wrong"})
        nobody.get(FLOWS, headers={"X-Api-Key": "fss_" + "1" * 64})
        nobody.get(ASSETS, headers=WRONG)

    statuses = [
        nobody.post(TOKEN, body).status,
        nobody.get(FLOWS, headers={"X-Api-Key": key}).status,
        nobody.get(ASSETS, headers=WRONG).status,
    ]

    assert statuses == [200, 200, 429]


def test_callers_beyond_a_number_share_their_buckets(opened, monkeypatch):
    monkeypatch.setattr(RateLimits, "MOST", 20)
    monkeypatch.setattr(RateLimits, "SHARED", 4)
    lite = opened(rate_address=1)

    statuses = [coming_from(lite, f"192.0.2.{number}").get("/no").status for number in range(200)]

    assert statuses[:20] == [404] * 20
    assert 1 <= statuses[20:].count(404) <= 4
    assert statuses.count(429) >= 176
    assert lite.client("assets:read").get(ASSETS).status == 200


def test_a_chain_of_many_forwarded_hops_is_not_gone_through(opened):
    lite = opened(rate_address=1, trusted_proxies=("127.0.0.0/8",))
    hops = {"X-Forwarded-For": ", ".join(["192.0.2.1", *["127.0.0.1"] * 10_000])}

    statuses = [Client(lite, WRONG | hops).get(ASSETS).status for _ in range(2)]

    assert statuses == [401, 429]
    assert refusals(lite)[0][2] == "unknown"


# --- The open mode ------------------------------------------------------------

SERVED = {"Host": "localhost:8080"}
FAR = "203.0.113.7"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        SERVED,
        {"Host": "127.0.0.1:8080"},
        {"Host": "[::1]:8080"},
        {"Host": "app.localhost"},
        {"Host": "LOCALHOST."},
        SERVED | {"Origin": "http://localhost:8080"},
        SERVED | {"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"},
        SERVED | {"Sec-Fetch-Site": "none"},
        SERVED | {"Origin": "https://console.example", "Sec-Fetch-Site": "cross-site"},
        # The page of the reference server behind a proxy on this machine, in two ways.
        SERVED | {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"},
        SERVED
        | {
            "Origin": "http://localhost:5173",
            "Sec-Fetch-Site": "same-origin",
            "X-Forwarded-For": "::1",
            "X-Forwarded-Host": "localhost:5173",
            "Via": "1.1 caddy",
        },
        SERVED | {"Forwarded": 'for="[::1]:5000";host=localhost;proto=http'},
    ],
)
def test_the_open_mode_lets_this_machine_write(opened, headers):
    lite = opened(factstore_auth="open", cors_origins=("https://console.example",))

    made = Client(lite, headers).post(FLOWS, {"name": "payments"})

    assert made.status == 201


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Host": "evil.example"}, "Host header"),
        ({"Host": "evil.example:8080"}, "Host header"),
        ({"Host": "localhost.evil.example"}, "Host header"),
        ({"Host": "127.0.0.1.evil.example"}, "Host header"),
        ({"Host": "0.0.0.0:8080"}, "Host header"),
        ({"Host": "192.168.1.5"}, "Host header"),
        ({"Host": ""}, "Host header"),
        (SERVED | {"Origin": "https://evil.example"}, "cors_origins"),
        (SERVED | {"Origin": "null"}, "cors_origins"),
        (SERVED | {"Origin": "http://localhost:3000"}, "cors_origins"),
        (SERVED | {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, "cors_"),
        (SERVED | {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, "cors_"),
        (SERVED | {"Sec-Fetch-Site": "cross-site"}, "cors_origins"),
        (SERVED | {"Sec-Fetch-Site": "same-site"}, "cors_origins"),
        (SERVED | {"X-Forwarded-For": FAR}, "proxy"),
        (SERVED | {"X-Forwarded-For": f"127.0.0.1, {FAR}"}, "proxy"),
        (SERVED | {"X-Forwarded-For": f"{FAR}, 127.0.0.1"}, "proxy"),
        (SERVED | {"X-Forwarded-For": "unknown"}, "proxy"),
        (SERVED | {"X-Real-IP": FAR}, "proxy"),
        (SERVED | {"X-Forwarded-Host": "register.example"}, "proxy"),
        (SERVED | {"Forwarded": f"for={FAR}"}, "proxy"),
        (SERVED | {"Forwarded": "for=_hidden"}, "proxy"),
        (SERVED | {"Forwarded": "proto=https"}, "proxy"),
        (SERVED | {"CF-Connecting-IP": FAR}, "proxy"),
        (SERVED | {"Via": "1.1 edge.example"}, "proxy"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_open_mode_refuses_what_others_have_this_machine_ask(opened, headers, said, method):
    lite = opened(factstore_auth="open", cors_origins=("https://console.example",))
    body = {"name": "payments"} if method == "POST" else None

    refused = Client(lite, headers).request(method, FLOWS, json=body)

    assert (refused.status, refused.json["error"]) == (403, "Forbidden")
    assert said in refused.json["message"]
    assert Client(lite).get(FLOWS).json == []
    assert refusals(lite, action=DENIED)[0][:3] == ("anonymous", f"{method} {FLOWS}", "127.0.0.1")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("Host: localhost\r\nX-Forwarded-For: 127.0.0.1\r\n", b"201"),
        ("Host: localhost\r\nX-Forwarded-For: 203.0.113.7\r\n", b"403"),
        ("Host: localhost\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: ::1\r\n", b"403"),
        ("Host: evil.example\r\n", b"403"),
    ],
)
def test_the_open_mode_sees_the_headers_of_proxies_on_a_socket(opened, head, status):
    lite = opened(factstore_auth="open")
    body = b'{"name": "payments"}'

    with lite.listening() as url:
        head = f"POST {FLOWS} HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        answer = exchange(url, head.encode() + body)

    assert answer[9:12] == status


def test_a_key_is_good_from_anywhere_in_open_mode_too(opened):
    lite = opened(factstore_auth="open")
    key = lite.api_keys.create("Pipeline")["apiKey"]
    elsewhere = {"Host": "register.example", "X-Forwarded-For": FAR, "X-Api-Key": key}

    assert coming_from(lite, FAR, elsewhere).get(FLOWS).status == 200
    assert coming_from(lite, FAR, {}).get(FLOWS).status == 401


@pytest.mark.parametrize("type", [None, "", "text/plain", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("path", [FLOWS, "/api/v1/governance/findings"])
def test_a_body_needs_its_content_type(opened, path, type):
    lite = opened()
    client = lite.client("factstore:write", "governance.findings:write")
    token = client.headers["Authorization"]
    body = b'{"name": "payments"}'

    with lite.listening() as url:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n"
        head += "" if type is None else f"Content-Type: {type}\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        answer = exchange(url, head.encode() + body)

    message = json.loads(answer.partition(b"\r\n\r\n")[2])["message"]
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert message.startswith("This operation accepts application/json.")


def exchange(url, data):
    """What a server answers to these bytes."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


# --- What Vault may do to this server -----------------------------------------


@contextlib.contextmanager
def answering(answer):
    """The URL of a server that reads a head, and writes what a function yields; what it read."""
    heads = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    heads.append(connection.recv(65_536).decode())
                    for part in answer():
                        connection.sendall(part)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heads
    finally:
        # Wakes the thread that waits for the next connection.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


EVIDENCE = "/api/v1/evidence/trail/t-1/download"


def asked(opened, url, **settings):
    """The answer to a document that lies in a Vault."""
    lite = opened(vault_address=url, vault_token="hvs.Root", **settings)
    client = lite.client(*FACTSTORE_SCOPES)
    return client.get(EVIDENCE, evidenceType="review")


def test_the_token_of_vault_follows_no_redirect(opened):
    with answering(lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]) as (other, heads):
        away = f"HTTP/1.1 307 Away\r\nLocation: {other}/\r\nContent-Length: 0\r\n\r\n".encode()
        with answering(lambda: [away]) as (url, own_heads):
            refused = asked(opened, url)

    assert (refused.status, heads, len(own_heads)) == (502, [], 1)
    assert refused.json["message"].startswith("Vault redirects to another server")


def test_an_endless_answer_of_vault_is_cut_off(opened):
    def flood():
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        for _ in range(64):
            yield b" " * (1 << 20)
            sent.append(1 << 20)

    sent = []
    with answering(flood) as (url, _):
        refused = asked(opened, url)

    assert refused.status == 502
    assert sum(sent) < 32 << 20


def test_an_answer_of_vault_that_drips_has_one_deadline(opened):
    def drip():
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        for _ in range(100):
            pause.wait(0.05)
            yield b" "
            dripped.append(1)

    pause, dripped = threading.Event(), []
    with answering(drip) as (url, _):
        refused = asked(opened, url, vault_timeout=0.3)
        count = len(dripped)
        pause.set()

    assert refused.status == 502
    assert count < 50


def test_vault_at_the_address_of_cloud_credentials_is_not_asked(opened):
    refused = asked(opened, "http://169.254.169.254")

    assert (refused.status, refused.json["error"]) == (502, "Bad Gateway")
