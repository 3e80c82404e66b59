"""Principals and tokens: an account's state counts at every request, not at the token's expiry."""

import pytest
from rawfile import FINDING, FINDINGS, audit, rows
from stored import stored_bytes

from novantra_lite import Client, NovantraLite, ServiceAccount

ASSETS = "/api/v1/assets"


@pytest.fixture
def account(lite):
    return lite.accounts.create("Scanner", ["assets:read", "governance.findings:write"])


def ask(lite, account, secret="", **more):
    """Exchange an account's secret for a token."""
    body = {
        "grant_type": "client_credentials",
        "client_id": account.client_id,
        "client_secret": secret or account.client_secret,
        **more,
    }
    return Client(lite).post("/api/v1/auth/token", body)


def bearer(lite, token):
    return Client(lite, {"Authorization": f"Bearer {token}"})


@pytest.fixture
def caller(lite, account):
    return bearer(lite, ask(lite, account).json["access_token"])


def test_a_token_is_good_for_its_life_by_the_clock(lite, account, caller, clock):
    clock.advance(899)
    before = caller.get(ASSETS)
    clock.advance(1)

    after = caller.get(ASSETS)

    assert (before.status, after.status) == (200, 401)
    assert after.json["error"] == "unauthenticated"
    assert after.headers["www-authenticate"].startswith("Bearer")


def disable(lite, account):
    lite.accounts.disable(account.client_id)


def rotate(lite, account):
    lite.accounts.rotate(account.client_id)


def disable_and_enable(lite, account):
    lite.accounts.disable(account.client_id)
    lite.accounts.enable(account.client_id)


def remove_scope_from_file(lite, account):
    connection = lite.workspace.writer.database.connection()
    connection.execute("DELETE FROM service_account WHERE id = ?", (account.client_id,))
    lite.workspace.tokens.clear()


@pytest.mark.parametrize("act", [disable, rotate, disable_and_enable, remove_scope_from_file])
def test_a_token_ends_with_its_account_at_the_next_request(lite, account, caller, act):
    before = caller.get(ASSETS)

    act(lite, account)

    assert (before.status, caller.get(ASSETS).status) == (200, 401)


@pytest.mark.parametrize(
    ("act", "actions"),
    [
        (disable, ["service_account.updated"]),
        (rotate, ["service_account.updated"]),
        (disable_and_enable, ["service_account.updated"] * 2),
    ],
)
def test_what_is_done_to_an_account_is_recorded(lite, account, act, actions):
    act(lite, account)

    assert audit(lite, after=3) == [
        ("console", action, "service_account", account.client_id) for action in actions
    ]
    proofs = rows(lite, "SELECT event_type FROM ledger_entry WHERE id > 2")
    assert proofs == [("SERVICE_ACCOUNT_UPDATED",)] * len(actions)
    assert lite.verify() == []


def test_a_rotated_secret_dies_at_once_and_the_new_one_works(lite, account):
    new = lite.accounts.rotate(account.client_id)

    assert new.client_secret != account.client_secret
    assert ask(lite, account).status == 401
    assert ask(lite, account, new.client_secret).status == 200


def test_a_disabled_account_gets_no_token_until_it_is_enabled(lite, account):
    lite.accounts.disable(account.client_id)
    refused = ask(lite, account)
    lite.accounts.enable(account.client_id)

    granted = ask(lite, account)

    assert (refused.status, granted.status) == (401, 200)
    assert bearer(lite, granted.json["access_token"]).get(ASSETS).status == 200


def test_an_account_s_end_cuts_its_tokens_short(lite, clock):
    account = lite.accounts.create("Audit", ["assets:read"], expires="2026-06-01T12:05:00Z")
    answer = ask(lite, account)
    caller = bearer(lite, answer.json["access_token"])
    clock.advance(299)
    before = caller.get(ASSETS)
    clock.advance(1)

    after = caller.get(ASSETS)

    assert answer.json["expires_in"] == 300
    assert (before.status, after.status) == (200, 401)
    assert ask(lite, account).status == 401


def test_the_end_of_an_account_is_looked_at_when_a_token_was_made_before_it_was_set(lite, clock):
    account = lite.accounts.create("Audit", ["assets:read"], expires="2026-06-01T12:05:00Z")
    with lite.workspace.read():
        record = ServiceAccount.find(account.client_id)
    caller = bearer(lite, lite.workspace.tokens.issue(record, ["assets:read"], 900))
    clock.advance(300)

    assert caller.get(ASSETS).status == 401


def test_scopes_narrow_on_request_and_never_widen(lite, account):
    narrow = ask(lite, account, scope="assets:read").json
    wide = ask(lite, account, scope="assets:read governance.controls:read")

    caller = bearer(lite, narrow["access_token"])
    assert (narrow["scope"], caller.get(ASSETS).status) == ("assets:read", 200)
    refused = caller.post(FINDINGS, FINDING)
    assert (refused.status, refused.json["error"]) == (403, "forbidden")
    assert refused.headers["www-authenticate"] == (
        'Bearer error="insufficient_scope", scope="governance.findings:write"'
    )
    assert (wide.status, wide.json["issues"][0]["path"]) == (400, ["scope"])
    assert rows(lite, "SELECT count(*) FROM finding") == [(0,)]


def change_letter(token):
    return token[:30] + ("A" if token[30] != "A" else "B") + token[31:]


@pytest.mark.parametrize(
    "change",
    [
        change_letter,
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token.partition(".")[2],
        lambda token: "other." + token.partition(".")[2],
        lambda token: token.partition(".")[0] + ".",
        lambda token: token.partition(".")[0] + ".\xff",
        lambda token: token.rpartition(".")[0],
        lambda token: "",
    ],
)
def test_a_changed_token_is_refused(lite, caller, change):
    token = caller.headers["Authorization"].removeprefix("Bearer ")

    answer = bearer(lite, change(token)).get(ASSETS)

    assert (answer.status, answer.json["error"]) == (401, "unauthenticated")


def test_a_signature_that_was_made_for_something_else_is_no_token(lite, novantra):
    for _ in range(2):
        novantra.post(FINDINGS, FINDING)
    cursor = novantra.get(FINDINGS, limit=1).json["pagination"]["nextCursor"]

    assert bearer(lite, f"workspace.{cursor}").get(ASSETS).status == 401


def test_a_token_of_another_workspace_of_the_same_name_is_refused(lite, caller):
    with NovantraLite(clock=lite.source.clock) as other:
        answer = bearer(other, caller.headers["Authorization"].removeprefix("Bearer ")).get(ASSETS)

    assert answer.status == 401


def test_issued_and_refused_credentials_are_audited_without_secrets(lite, account):
    ask(lite, account)
    ask(lite, account, secret="nvs_wrong")
    bearer(lite, "workspace.bad").get(ASSETS)

    assert audit(lite, after=3) == [
        (account.client_id, "api.token.issued", "service_account", account.client_id),
        (account.client_id, "api.authentication.refused", "request", "POST /api/v1/auth/token"),
        ("unknown", "api.authentication.refused", "request", "GET /api/v1/assets"),
    ]
    stored = stored_bytes(lite)
    assert account.client_secret.encode() not in stored
    assert b"nvs_wrong" not in stored


def test_a_secret_does_not_show_where_credentials_are_printed(account):
    assert account.client_secret not in repr(account)
    assert account.client_secret == account._asdict()["client_secret"]


def test_the_memory_of_tokens_stays_bounded(lite, account):
    tokens = lite.workspace.tokens
    tokens.max_entries = 3
    with lite.workspace.read():
        record = ServiceAccount.find(account.client_id)

    made = [tokens.issue(record, ["assets:read"], life) for life in range(100, 110)]

    assert {bearer(lite, token).get(ASSETS).status for token in made} == {200}
    assert len(tokens._principals) <= 3
