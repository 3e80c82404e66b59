"""Rate limits: fixed minutes by the instance's clock, told on every answer."""

import contextlib

import pytest
from conftest import Clock
from rawfile import FINDING, FINDINGS, counts
from stored import audit

from novantra_lite import Client, Invalid, NovantraLite

ASSETS = "/api/v1/assets"
#: The scopes of a second account.
BOTH = ("assets:read", "governance.findings:write")
NAMES = ("limit", "remaining", "reset", "bucket")


def told(answer):
    """The four headers of an answer."""
    return tuple(answer.headers.get(f"x-ratelimit-{name}") for name in NAMES)


@pytest.fixture
def limited():
    """Opens workspaces with limits of their own at noon."""
    with contextlib.ExitStack() as stack:
        yield lambda **limits: stack.enter_context(NovantraLite(clock=Clock(), **limits))


NOON_OVER = "1780315260"


@pytest.mark.parametrize(
    ("method", "path", "authorized", "status", "headers"),
    [
        ("GET", ASSETS, True, 200, ("600", "599", NOON_OVER, "token-read")),
        ("POST", FINDINGS, True, 201, ("60", "59", NOON_OVER, "token-write")),
        ("POST", "/api/v1/flows", True, 403, ("1200", "1199", NOON_OVER, "token-write")),
        ("GET", "/api/v1/flows", True, 403, ("6000", "5999", NOON_OVER, "token-read")),
        ("GET", "/api/v1/nowhere", True, 404, ("6000", "5999", NOON_OVER, "token-read")),
        ("DELETE", ASSETS, True, 405, ("60", "59", NOON_OVER, "token-write")),
        ("GET", ASSETS + "/asset_0", True, 404, ("600", "599", NOON_OVER, "token-read")),
        ("GET", ASSETS, False, 401, ("60", "59", NOON_OVER, "token-read")),
        ("POST", FINDINGS, False, 401, ("60", "59", NOON_OVER, "token-write")),
        ("GET", "/api/v1/flows", False, 401, ("60", "59", NOON_OVER, "token-read")),
        ("GET", "/nowhere", False, 404, ("60", "59", NOON_OVER, "token-read")),
        ("GET", "/api/v1/nowhere", False, 404, ("60", "59", NOON_OVER, "token-read")),
        ("DELETE", ASSETS, False, 405, ("60", "59", NOON_OVER, "token-write")),
        ("HEAD", ASSETS, True, 200, ("600", "599", NOON_OVER, "token-read")),
        ("HEAD", ASSETS, False, 401, ("60", "59", NOON_OVER, "token-read")),
        ("GET", "/api/health/live", False, 200, ("60", "60", NOON_OVER, "token-read")),
        ("POST", "/api/v1/auth/token", False, 400, ("60", "59", NOON_OVER, "token-write")),
    ],
)
def test_every_answer_tells_its_limit_and_its_request_id(
    lite, novantra, method, path, authorized, status, headers
):
    client = novantra if authorized else Client(lite)

    answer = client.request(method, path, json=FINDING if method == "POST" else None)

    assert answer.status == status
    assert told(answer) == headers
    assert answer.headers["x-request-id"].startswith("req_")


def test_the_question_for_methods_is_answered_like_any_other(lite):
    answer = Client(lite).request("OPTIONS", ASSETS)

    assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD")
    assert answer.headers["x-request-id"].startswith("req_")
    assert told(answer) == ("60", "60", NOON_OVER, "token-read")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [(b"{", {}, 400), (b"{}", {"Content-Type": "text/plain"}, 415), (b" " * 1_048_577, {}, 413)],
)
def test_a_body_that_is_refused_counts_as_a_write(novantra, body, headers, status):
    answer = novantra.request("POST", FINDINGS, body=body, headers=headers)

    assert (answer.status, told(answer)[1]) == (status, "59")


def test_a_request_over_the_limit_waits_for_the_next_minute(limited):
    lite = limited(rate_writes=2)
    client = lite.client("governance.findings:write")
    lite.source.clock.advance(10.2)
    client.post(FINDINGS, FINDING)
    client.post(FINDINGS, FINDING)

    over = client.post(FINDINGS, FINDING)
    lite.source.clock.advance(49.7)
    still = client.post(FINDINGS, FINDING)
    lite.source.clock.advance(0.1)
    next_minute = client.post(FINDINGS, FINDING)

    assert (over.status, over.json["error"]) == (429, "rate_limited")
    assert over.headers["retry-after"] == "50"
    assert told(over) == ("2", "0", NOON_OVER, "token-write")
    assert (still.status, still.headers["retry-after"]) == (429, "1")
    assert next_minute.status == 201
    assert told(next_minute) == ("2", "1", "1780315320", "token-write")
    assert counts(lite)[0] == 3


def test_a_refused_request_does_not_count(limited):
    lite = limited(rate_reads=1, rate_organization=2)
    record, other = lite.client("assets:read"), lite.client(*BOTH)
    statuses = [record.get(ASSETS).status for _ in range(5)]

    rest = other.get(ASSETS)

    assert statuses == [200, 429, 429, 429, 429]
    assert rest.status == 200


def test_reads_and_writes_are_counted_apart(limited):
    lite = limited(rate_reads=1, rate_writes=1)
    client = lite.client("assets:read", "governance.findings:write")

    statuses = [client.get(ASSETS).status, client.post(FINDINGS, FINDING).status]

    assert statuses == [200, 201]
    assert client.get(ASSETS).status == client.post(FINDINGS, FINDING).status == 429


def test_an_account_is_counted_not_its_token(limited):
    lite = limited(rate_reads=2)
    account = lite.accounts.create("Scanner", ["assets:read"])
    body = {
        "grant_type": "client_credentials",
        "client_id": account.client_id,
        "client_secret": account.client_secret,
    }

    def fresh():
        token = Client(lite).post("/api/v1/auth/token", body).json["access_token"]
        return Client(lite, {"Authorization": f"Bearer {token}"})

    statuses = [fresh().get(ASSETS).status for _ in range(3)]

    assert statuses == [200, 200, 429]
    assert lite.client(*BOTH).get(ASSETS).status == 200


def test_the_organization_has_a_limit_over_all_of_its_accounts(limited):
    lite = limited(rate_organization=3)
    clients = [lite.client("assets:read"), lite.client(*BOTH)] * 2

    answers = [client.get(ASSETS) for client in clients]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert told(answers[0]) == ("3", "2", NOON_OVER, "org")
    assert told(answers[3]) == ("3", "0", NOON_OVER, "org")


def test_the_headers_speak_of_the_bucket_with_the_smallest_share_left(limited):
    lite = limited(rate_reads=10, rate_organization=4)
    record, other = lite.client("assets:read"), lite.client(*BOTH)
    record.get(ASSETS)

    answer = other.get(ASSETS)

    assert told(answer) == ("4", "2", NOON_OVER, "org")


def test_an_address_without_usable_credentials_is_limited(limited):
    lite = limited(rate_address=2)
    nobody = Client(lite)

    statuses = [
        nobody.get(ASSETS).status,
        Client(lite, {"Authorization": "Bearer a.b"}).get(ASSETS).status,
        nobody.get(ASSETS).status,
        nobody.post("/api/v1/flows", {}).status,
    ]

    assert statuses == [401, 401, 429, 429]
    assert lite.client("assets:read").get(ASSETS).status == 200


@pytest.mark.parametrize(
    ("method", "path", "first"),
    [("GET", "/nowhere", 404), ("PUT", ASSETS, 405), ("POST", "/api/v1/auth/token", 400)],
)
def test_unknown_paths_and_the_token_endpoint_have_buckets_of_their_own(
    limited, method, path, first
):
    nobody = Client(limited(rate_address=2))
    refused = [nobody.get(ASSETS).status for _ in range(3)]

    statuses = [nobody.request(method, path).status for _ in range(3)]

    assert refused == [401, 401, 429]
    assert statuses == [first, first, 429]


def test_an_unknown_path_counts_against_the_account_of_a_valid_token(limited):
    lite = limited(rate_address=1, rate_reads=3)
    client = lite.client("assets:read")

    statuses = [client.get("/api/v1/workspace").status for _ in range(2)]
    statuses += [client.get(ASSETS).status for _ in range(2)]

    assert statuses == [404, 404, 200, 429]
    assert Client(lite).get("/nowhere").status == 404


def at(lite, address, hops=None):
    """The status of a request without credentials that comes from an address."""

    def application(environ, start_response):
        return lite({**environ, "REMOTE_ADDR": address}, start_response)

    return Client(application, {"X-Forwarded-For": hops} if hops else {}).get(ASSETS).status


def test_the_addresses_of_one_ipv6_network_of_64_bits_count_as_one(limited):
    lite = limited(rate_address=1)

    near = [at(lite, address) for address in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9")]
    others = [at(lite, address) for address in ("2001:db8:1:3::1", "::ffff:192.0.2.1")]

    assert (near, others) == ([401, 429], [401, 401])
    assert (at(lite, "192.0.2.1"), at(lite, "192.0.2.2")) == (429, 401)


def test_a_forwarded_address_is_believed_from_trusted_proxies_alone(limited):
    plain = limited(rate_address=1)
    behind = limited(rate_address=1, trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))

    unknown = [at(plain, "127.0.0.1", f"192.0.2.{number}") for number in range(2)]
    values = [at(behind, "127.0.0.1", f"192.0.2.{number}") for number in range(2)]
    again = at(behind, "127.0.0.1", "192.0.2.1")
    forged = at(behind, "127.0.0.1", "203.0.113.7, 192.0.2.1")
    chained = at(behind, "127.0.0.1", "192.0.2.1, 10.0.0.1")
    with_port = at(behind, "127.0.0.1", "192.0.2.1:50000")
    stranger = [at(behind, "198.51.100.1", f"203.0.113.{number}") for number in range(2)]

    assert (unknown, values) == ([401, 429], [401, 401])
    assert (again, forged, chained, with_port) == (429, 429, 429, 429)
    assert stranger == [401, 429]


def test_a_forwarded_address_that_is_none_counts_as_one_for_all(limited):
    lite = limited(rate_address=1, trusted_proxies=("127.0.0.1",))

    statuses = [at(lite, "127.0.0.1", hop) for hop in ("unknown", "_hidden", "[::1", "x" * 900)]

    assert statuses == [401, 429, 429, 429]


def test_a_trusted_proxy_that_is_no_network_is_refused_at_the_start():
    with pytest.raises(Invalid, match=r"The setting trusted_proxies needs networks such as 10\."):
        NovantraLite(trusted_proxies=("proxy.lan",))


def test_factstore_has_limits_of_its_own_that_the_organization_does_not_share(limited):
    lite = limited(
        rate_reads=1,
        rate_writes=1,
        rate_organization=2,
        factstore_rate_reads=3,
        factstore_rate_writes=2,
    )
    client = lite.client("assets:read", "factstore:read", "factstore:write")

    reads = [client.get("/api/v1/flows").status for _ in range(4)]
    writes = [client.post("/api/v1/flows", {"name": f"f{n}"}).status for n in range(3)]
    novantra = [client.get(ASSETS).status for _ in range(2)]

    assert (reads, writes) == ([200, 200, 200, 429], [201, 201, 429])
    assert novantra == [200, 429]


def test_failures_lock_nobody_out_who_has_the_right_secret(limited):
    lite = limited()
    account = lite.accounts.create("Scanner", ["assets:read"])
    other = lite.accounts.create("Other", ["assets:read"])

    def ask(account, secret):
        body = {
            "grant_type": "client_credentials",
            "client_id": account.client_id,
            "client_secret": secret,
        }
        return Client(lite).post("/api/v1/auth/token", body)

    failures = [ask(account, "wrong") for _ in range(11)]
    right = ask(account, account.client_secret)
    lite.source.clock.advance(60)

    assert [failure.status for failure in failures] == [401] * 10 + [429]
    assert failures[10].headers["retry-after"] == "60"
    assert right.status == 200
    assert ask(account, "wrong").status == 401
    assert ask(other, other.client_secret).status == 200


def test_whoever_fails_too_often_leaves_no_more_traces_in_the_audit_log(limited):
    lite = limited(rate_address=3)
    body = {"grant_type": "client_credentials", "client_secret": "wrong"}

    statuses = [
        Client(lite).post("/api/v1/auth/token", body | {"client_id": f"svc_{number}"}).status
        for number in range(5)
    ]

    lite.source.clock.advance(60)
    lite.step()

    assert statuses == [401, 401, 401, 429, 429]
    refused = [entry[:3] for entry in audit(lite) if entry[1] == "api.authentication.refused"]
    assert refused == [
        ("unknown", "api.authentication.refused", "POST /api/v1/auth/token"),
        ("system", "api.authentication.refused", "2 more requests"),
    ]


def test_limits_that_are_off_are_still_told(limited):
    lite = limited(rate_limits=False, rate_reads=1)
    client = lite.client("assets:read")
    client.get(ASSETS)

    answer = client.get(ASSETS)

    assert answer.status == 200
    assert told(answer) == ("1", "0", NOON_OVER, "token-read")


def test_each_workspace_has_its_own_count(tmp_path):
    with NovantraLite(workspaces=tmp_path, clock=Clock(), rate_organization=1) as install:
        for slug in ("first", "second"):
            install.create_workspace(slug)
    statuses = []
    for slug in ("first", "second"):
        with NovantraLite(
            workspaces=tmp_path, workspace=slug, clock=Clock(), rate_organization=1
        ) as lite:
            client = lite.client("assets:read")
            statuses.append([client.get(ASSETS).status for _ in range(2)])

    assert statuses == [[200, 429], [200, 429]]
