"""Authentication."""

import base64
import json
import random
import urllib.parse

import pytest
from conftest import NOON
from stored import audit, stored_bytes

from novantra_lite import Client, NovantraLite

TOKEN = "/api/v1/auth/token"
CONTROLS = "/api/v1/governance/controls"
SCOPES = ["governance.controls:read", "governance.findings:write"]


@pytest.fixture
def account(lite):
    return lite.accounts.create("Scanner", SCOPES)


@pytest.fixture
def anyone(lite):
    """A client without credentials."""
    return lite.client()


def request_of(account, **members):
    """A token request in JSON."""
    return {
        "grant_type": "client_credentials",
        "client_id": account.client_id,
        "client_secret": account.client_secret,
    } | members


def bearing(lite, token):
    """A client that presents this token."""
    return Client(lite, {"Authorization": f"Bearer {token}"})


def basic(user, password):
    """The header of HTTP Basic."""
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {text}", "Content-Type": "application/x-www-form-urlencoded"}


def test_client_credentials_in_json_give_a_token_for_15_minutes(lite, anyone, account):
    answer = anyone.post(TOKEN, request_of(account))

    assert answer.status == 200
    assert list(answer.json) == ["access_token", "token_type", "expires_in", "scope"]
    assert answer.json["token_type"] == "Bearer"
    assert answer.json["expires_in"] == 900
    assert answer.json["scope"] == "governance.controls:read governance.findings:write"
    assert answer.headers["cache-control"] == "no-store"
    assert bearing(lite, answer.json["access_token"]).get(CONTROLS).status == 200
    assert audit(lite)[-1][:3] == (account.client_id, "api.token.issued", account.client_id)


def test_a_form_gives_a_token(lite, anyone, account):
    form = (
        f"grant_type=client_credentials&client_id={account.client_id}"
        f"&client_secret={account.client_secret}&scope=governance.controls%3Aread"
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    answer = anyone.request("POST", TOKEN, body=form.encode(), headers=headers)

    assert (answer.status, answer.json["scope"]) == (200, "governance.controls:read")
    assert bearing(lite, answer.json["access_token"]).get(CONTROLS).status == 200


@pytest.mark.parametrize("body", [b"grant_type=client_credentials", b"grant_type=wrong"])
def test_http_basic_holds_the_credentials_of_a_form(anyone, account, body):
    headers = basic(account.client_id, account.client_secret)

    answer = anyone.request("POST", TOKEN, body=body, headers=headers)

    assert answer.status == {b"grant_type=client_credentials": 200, b"grant_type=wrong": 400}[body]


def test_a_client_authenticates_in_one_way(lite, anyone, account):
    both, own = basic(account.client_id, account.client_secret), request_of(account)
    other = {"grant_type": "client_credentials", "client_id": "svc_other"}
    same = other | {"client_id": account.client_id}

    answers = [
        anyone.request("POST", TOKEN, body=urllib.parse.urlencode(body).encode(), headers=both)
        for body in (own, other, same)
    ]

    assert [answer.status for answer in answers] == [400, 400, 200]
    assert [answer.json.get("error") for answer in answers[:2]] == ["invalid_request"] * 2
    assert answers[0].json["message"] == (
        "Send the client id and secret in the Authorization header or in the body, not in both."
    )


@pytest.mark.parametrize("name", ["grant_type", "client_id", "client_secret", "scope", "other"])
@pytest.mark.parametrize("type", ["application/json", "application/x-www-form-urlencoded"])
def test_a_parameter_that_comes_twice_is_refused(anyone, account, name, type):
    pairs = [*request_of(account, scope="governance.controls:read").items(), ("other", "1")]
    pairs.append((name, dict(pairs)[name]))
    members = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs)
    body = f"{{{members}}}" if type.endswith("json") else urllib.parse.urlencode(pairs)

    refused = anyone.request("POST", TOKEN, body=body.encode(), headers={"Content-Type": type})

    assert (refused.status, refused.json["error"]) == (400, "invalid_request")
    assert refused.json["message"] == "A parameter of the request is repeated."


@pytest.mark.parametrize("name", ["grant_type", "client_id", "client_secret", "scope"])
def test_a_parameter_in_the_url_is_refused(anyone, account, name):
    refused = anyone.post(TOKEN, request_of(account), **{name: "x"})

    assert (refused.status, refused.json["error"]) == (400, "invalid_request")
    assert refused.json["message"] == f"Send {name} in the body: URLs are logged."
    assert anyone.post(TOKEN, request_of(account), trace="1").status == 200


@pytest.mark.parametrize("type", ["", "text/plain", "multipart/form-data; boundary=x"])
def test_a_token_request_of_another_kind_is_refused(anyone, account, type):
    body = urllib.parse.urlencode(request_of(account)).encode()

    refused = anyone.request("POST", TOKEN, body=body, headers={"Content-Type": type})

    assert (refused.status, refused.json["error"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("text", ["Basic", "Basic !!", "Basic /w==", "Basic bm8tY29sb24="])
def test_a_broken_basic_header_is_refused(anyone, text):
    headers = {"Authorization": text, "Content-Type": "application/x-www-form-urlencoded"}

    refused = anyone.request("POST", TOKEN, body=b"grant_type=client_credentials", headers=headers)

    assert refused.status in (400, 401)
    assert refused.json["error"] in ("validation", "unauthenticated")


def test_a_token_carries_only_the_scopes_that_were_asked_for(lite, anyone, account):
    body = request_of(account, scope="governance.findings:write")

    answer = anyone.post(TOKEN, body)
    refused = bearing(lite, answer.json["access_token"]).get(CONTROLS)

    assert answer.json["scope"] == "governance.findings:write"
    assert (refused.status, refused.json["error"]) == (403, "forbidden")
    assert refused.headers["www-authenticate"] == (
        'Bearer error="insufficient_scope", scope="governance.controls:read"'
    )


def test_a_scope_that_was_not_granted_is_refused(anyone, account):
    refused = anyone.post(TOKEN, request_of(account, scope="governance.controls:read assets:read"))

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert [issue["path"] for issue in refused.json["issues"]] == [["scope"]]


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, [["grant_type"], ["client_id"], ["client_secret"]]),
        ({"grant_type": "password", "client_id": "svc_1", "client_secret": "x"}, [["grant_type"]]),
        ({"grant_type": "client_credentials", "client_id": "svc_1"}, [["client_secret"]]),
        (
            {"grant_type": "client_credentials", "client_id": 1, "client_secret": ["x"]},
            [["client_id"], ["client_secret"]],
        ),
    ],
)
def test_a_token_request_tells_every_fault_at_once(anyone, body, paths):
    refused = anyone.post(TOKEN, body)

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert [issue["path"] for issue in refused.json["issues"]] == paths


def test_whatever_is_wrong_with_credentials_is_refused_in_the_same_words(lite, clock, anyone):
    accounts = {
        name: lite.accounts.create(name, SCOPES, expires="2026-06-02" if name == "old" else None)
        for name in ("sound", "old", "disabled")
    }
    lite.accounts.disable(accounts["disabled"].client_id)
    clock.advance(24 * 3600)
    wrong = [
        request_of(accounts["sound"], client_secret="nvs_wrong"),
        request_of(accounts["sound"], client_id="svc_01HXY000000000000000000000"),
        request_of(accounts["disabled"]),
        request_of(accounts["old"]),
    ]

    answers = [anyone.post(TOKEN, body) for body in wrong]

    assert {answer.status for answer in answers} == {401}
    assert {answer.json["error"] for answer in answers} == {"unauthenticated"}
    assert len({answer.json["message"] for answer in answers}) == 1
    assert len({answer.headers["www-authenticate"] for answer in answers}) == 1


def test_refused_credentials_are_audited(lite, anyone, account):
    anyone.post(TOKEN, request_of(account, client_secret="nvs_wrong"))

    actor, action, subject, _ = audit(lite)[-1]
    assert (actor, action, subject) == (
        account.client_id,
        "api.authentication.refused",
        "POST /api/v1/auth/token",
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer workspace.forged"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer workspace.é"},
    ],
)
def test_a_refused_token_is_audited(lite, headers):
    before = len(audit(lite))

    refused = Client(lite, headers).get(CONTROLS)

    assert (refused.status, refused.json["error"]) == (401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert [entry[1:3] for entry in audit(lite)[before:]] == [
        ("api.authentication.refused", "GET /api/v1/governance/controls")
    ]


def test_reads_are_audited_as_one_count_for_account_and_minute(lite, clock):
    from novantra_lite import ReadCount

    client = lite.client("governance.controls:read")
    before = audit(lite)

    for _ in range(3):
        client.get(CONTROLS)
    clock.advance(60)
    lite.step()

    with lite.workspace.read():
        counts = [(entry.minute, entry.count) for entry in ReadCount.select()]
    assert counts == [("2026-06-01T12:00:00.000Z", 3)]
    assert audit(lite) == before


def test_rotating_a_secret_ends_the_old_one_and_its_tokens_at_once(lite, anyone, account):
    token = anyone.post(TOKEN, request_of(account)).json["access_token"]
    assert bearing(lite, token).get(CONTROLS).status == 200

    fresh = lite.accounts.rotate(account.client_id)

    assert bearing(lite, token).get(CONTROLS).status == 401
    assert anyone.post(TOKEN, request_of(account)).status == 401
    assert anyone.post(TOKEN, request_of(fresh)).status == 200
    assert ("console", "service_account.updated", account.client_id) in [
        entry[:3] for entry in audit(lite)
    ]


def test_disabling_an_account_ends_its_tokens_for_good(lite, anyone, account):
    token = anyone.post(TOKEN, request_of(account)).json["access_token"]
    assert bearing(lite, token).get(CONTROLS).status == 200

    lite.accounts.disable(account.client_id)
    while_disabled = bearing(lite, token).get(CONTROLS)
    lite.accounts.enable(account.client_id)

    assert while_disabled.status == 401
    assert bearing(lite, token).get(CONTROLS).status == 401
    assert anyone.post(TOKEN, request_of(account)).status == 200


def test_a_token_ends_after_900_seconds(lite, clock, anyone, account):
    token = anyone.post(TOKEN, request_of(account)).json["access_token"]

    clock.at = NOON + 899
    young = bearing(lite, token).get(CONTROLS)
    clock.at = NOON + 900
    old = bearing(lite, token).get(CONTROLS)

    assert (young.status, old.status) == (200, 401)


def test_a_token_ends_with_its_account(lite, clock, anyone):
    account = lite.accounts.create("Visitor", SCOPES, expires="2026-06-01T12:05:00Z")

    answer = anyone.post(TOKEN, request_of(account))
    client = bearing(lite, answer.json["access_token"])
    clock.at = NOON + 299
    young = client.get(CONTROLS)
    clock.at = NOON + 300
    old = client.get(CONTROLS)

    assert answer.json["expires_in"] == 300
    assert (young.status, old.status) == (200, 401)


def test_ten_failures_in_a_minute_are_answered_and_the_right_secret_in_any_case(
    lite, clock, anyone, account
):
    other = lite.accounts.create("Other", SCOPES)
    wrong = request_of(account, client_secret="nvs_wrong")

    failures = [anyone.post(TOKEN, wrong) for _ in range(11)]
    right = anyone.post(TOKEN, request_of(account))
    others = anyone.post(TOKEN, request_of(other))
    clock.advance(60)
    again = anyone.post(TOKEN, wrong)

    assert [failure.status for failure in failures] == [401] * 10 + [429]
    assert failures[10].json["error"] == "rate_limited"
    assert failures[10].headers["retry-after"] == "60"
    assert (right.status, others.status, again.status) == (200, 200, 401)


def test_an_account_gets_60_tokens_a_minute(lite, anyone, account):
    answers = [anyone.post(TOKEN, request_of(account)) for _ in range(61)]

    assert {answer.status for answer in answers[:60]} == {200}
    assert (answers[60].status, answers[60].json["error"]) == (429, "rate_limited")
    assert answers[0].headers["x-ratelimit-limit"] == "60"
    assert answers[0].headers["x-ratelimit-remaining"] == "59"
    assert answers[0].headers["x-ratelimit-bucket"] == "token-write"


def test_a_new_token_does_not_fill_the_bucket_again(clock):
    with NovantraLite(clock=clock, random=random.Random(7), rate_reads=2) as lite:
        account = lite.accounts.create("Scanner", SCOPES)
        tokens = [
            lite.client().post(TOKEN, request_of(account)).json["access_token"] for _ in range(3)
        ]

        answers = [bearing(lite, token).get(CONTROLS) for token in tokens]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] == "60"


def test_an_idempotency_key_means_nothing_to_the_token_endpoint(anyone, account):
    headers = {"Idempotency-Key": "one"}

    anyone.post(TOKEN, request_of(account), headers=headers)
    second = anyone.post(
        TOKEN, request_of(account, scope="governance.controls:read"), headers=headers
    )

    assert (second.status, "idempotency-replayed" in second.headers) == (200, False)


def test_a_secret_is_told_once_and_nowhere_in_the_file(lite, account):
    secret = account.client_secret

    listed = lite.accounts.list()

    assert secret.startswith("nvs_")
    assert secret.encode() not in stored_bytes(lite)
    assert b"Scanner" in stored_bytes(lite)
    assert secret not in repr(account)
    assert listed[0]["name"] == "Scanner"
    assert [member for member in listed[0] if "secret" in member.lower()] == []


def test_a_header_that_is_not_http_basic_is_told_what_is_asked_for(lite):
    headers = {"Authorization": "Basic ???", "Content-Type": "application/x-www-form-urlencoded"}

    refused = lite.client().post(
        "/api/v1/auth/token", body=b"grant_type=client_credentials", headers=headers
    )

    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Basic"
