"""Every operation of the Factstore surface against everybody who may not use it."""

import random
import re

import pytest
from conftest import Clock
from looking import tables

from novantra_lite import FACTSTORE, FACTSTORE_SCOPES, Client, NovantraLite, novantra_scopes

OPERATIONS = [operation for operation in FACTSTORE.operations if not operation.public]
NOBODY = "00000000-0000-4000-8000-000000000000"


def filled(path):
    """A path whose parameters name nothing that is there."""
    return re.sub(r"{\w+}", NOBODY, path)


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture(scope="module")
def lite():
    with NovantraLite(clock=Clock(), random=random.Random(7), rate_limits=False) as lite:
        yield lite


@pytest.fixture(scope="module")
def unusable(lite):
    """Credentials that are worth nothing to anybody, by what is wrong with them."""
    expired = lite.api_keys.create("expired", FACTSTORE_SCOPES, days=1)["apiKey"]
    revoked = lite.api_keys.create("revoked", FACTSTORE_SCOPES)
    late = lite.token(*FACTSTORE_SCOPES)
    account = lite.accounts.create("disabled", FACTSTORE_SCOPES)
    token = lite.client().post(
        "/api/v1/auth/token",
        {
            "grant_type": "client_credentials",
            "client_id": account.client_id,
            "client_secret": account.client_secret,
        },
    )
    for headers in ({"X-Api-Key": revoked["apiKey"]}, bearer(token.json["access_token"])):
        # What was once remembered as good is forgotten at once.
        assert lite.client().get("/api/v1/flows", headers=headers).status == 200
    lite.api_keys.revoke(revoked["id"])
    lite.accounts.disable(account.client_id)
    lite.source.clock.advance(86_400)
    return {
        "no credentials": {},
        "an expired key": {"X-Api-Key": expired},
        "a revoked key": {"X-Api-Key": revoked["apiKey"]},
        "a key nobody made": {"Authorization": "ApiKey fsp_" + "0" * 64},
        "an expired token": bearer(late),
        "a token of a disabled account": bearer(token.json["access_token"]),
        "a forged token": bearer("workspace.forged"),
    }


@pytest.fixture(scope="module")
def insufficient(lite, unusable):
    """Good credentials that lack one scope, by that scope and by what they are."""
    credentials = {}
    for scope in FACTSTORE_SCOPES:
        others = [other for other in FACTSTORE_SCOPES if other != scope]
        token = lite.token(*others, *novantra_scopes(), life=10**9)
        key = lite.api_keys.create(f"all but {scope}", others)["apiKey"]
        credentials[scope] = {"a token": bearer(token), "a key": {"X-Api-Key": key}}
    return credentials


def each(operations):
    """Run a test once for each of these operations."""
    return pytest.mark.parametrize(
        "operation", operations, ids=lambda operation: f"{operation.method} {operation.path}"
    )


def ask(lite, operation, headers):
    """Ask for an operation with a body that would be refused too, if anybody read it."""
    return Client(lite, headers).request(operation.method, filled(operation.path), json=[])


@each(OPERATIONS)
def test_an_operation_is_refused_to_whoever_is_not_known(lite, unusable, operation):
    for what, headers in unusable.items():
        refused = ask(lite, operation, headers)

        assert (refused.status, refused.json["error"]) == (401, "Unauthorized"), what
        assert refused.headers["www-authenticate"] == "Bearer", what


@each(OPERATIONS)
def test_an_operation_is_refused_to_whoever_lacks_its_scope(lite, insufficient, operation):
    for what, headers in insufficient[operation.scope].items():
        refused = ask(lite, operation, headers)

        assert (refused.status, refused.json["error"]) == (403, "Forbidden"), what
        assert refused.json["message"] == f"This needs the scope {operation.scope}.", what


def test_no_refusal_leaves_a_trace_but_in_the_audit_log(lite, unusable, insufficient):
    before = tables(lite)

    for operation in OPERATIONS:
        ask(lite, operation, {})
        ask(lite, operation, unusable["a revoked key"])
        ask(lite, operation, insufficient[operation.scope]["a key"])

    after = tables(lite)
    assert len(after.pop("audit_entry")) > len(before.pop("audit_entry"))
    assert after == before


def test_only_administrators_hear_of_people_and_credentials():
    told = re.compile(r"/users|/service-accounts|/api-keys|/organisations/{slug}/members|/sso\b")

    open_to_others = [
        f"{operation.method} {operation.path}"
        for operation in OPERATIONS
        if told.search(operation.path) and operation.scope != "factstore:admin"
    ]

    assert open_to_others == []


def test_every_operation_takes_one_of_the_three_scopes():
    assert {operation.scope for operation in OPERATIONS} == set(FACTSTORE_SCOPES)
