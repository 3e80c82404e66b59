"""Rate limits: fixed minutes by the instance's clock, told on every answer."""

import contextlib

import pytest
from conftest import Clock
from inside import FINDING, FINDINGS, counts

from novantra_lite import Client, NovantraLite

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
        ("POST", "/api/v1/flows", True, 403, ("60", "59", NOON_OVER, "token-write")),
        ("GET", ASSETS + "/asset_0", True, 404, ("600", "599", NOON_OVER, "token-read")),
        ("GET", ASSETS, False, 401, ("60", "59", NOON_OVER, "token-read")),
        ("POST", FINDINGS, False, 401, ("60", "59", NOON_OVER, "token-write")),
        ("GET", "/api/v1/flows", False, 401, ("60", "59", NOON_OVER, "token-read")),
        ("GET", "/nowhere", False, 404, ("60", "59", NOON_OVER, "token-read")),
        ("GET", "/api/v1/nowhere", False, 404, ("60", "59", NOON_OVER, "token-read")),
        ("DELETE", ASSETS, False, 405, ("60", "59", NOON_OVER, "token-write")),
        ("HEAD", ASSETS, False, 405, ("60", "59", NOON_OVER, "token-read")),
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

    assert (answer.status, answer.headers["allow"]) == (204, "GET")
    assert answer.headers["x-request-id"].startswith("req_")
    assert None not in told(answer)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b" " * 1_048_577, {}, 413),
    ],
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
    one, other = lite.client("assets:read"), lite.client(*BOTH)
    statuses = [one.get(ASSETS).status for _ in range(5)]

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
    one, other = lite.client("assets:read"), lite.client(*BOTH)
    one.get(ASSETS)

    answer = other.get(ASSETS)

    assert told(answer) == ("4", "2", NOON_OVER, "org")


def test_an_address_without_usable_credentials_is_limited(limited):
    lite = limited(rate_address=2)
    nobody = Client(lite)

    statuses = [
        nobody.get(ASSETS).status,
        Client(lite, {"Authorization": "Bearer a.b"}).get(ASSETS).status,
        nobody.get("/nowhere").status,
        nobody.post("/api/v1/auth/token", {}).status,
    ]

    assert statuses == [401, 401, 429, 429]
    assert lite.client("assets:read").get(ASSETS).status == 200


def test_ten_failures_a_minute_shut_a_client_id_out_even_with_the_right_secret(limited):
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

    failures = [ask(account, "wrong").status for _ in range(10)]
    eleventh = ask(account, account.client_secret)
    lite.source.clock.advance(60)

    assert failures == [401] * 10
    assert (eleventh.status, eleventh.headers["retry-after"]) == (429, "60")
    assert ask(account, account.client_secret).status == 200
    assert ask(other, other.client_secret).status == 200


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
