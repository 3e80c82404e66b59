"""Every operation of the Factstore surface against everybody who may not use it."""

import random
import re

import pytest
from conftest import Clock
from stored import tables

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
        # To administer is to govern too.
        lacking = {scope} | ({"factstore:admin"} if scope == "factstore:govern" else set())
        others = [other for other in FACTSTORE_SCOPES if other not in lacking]
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
    lite.source.clock.advance(60)
    before = tables(lite)

    for operation in OPERATIONS:
        ask(lite, operation, {})
        ask(lite, operation, unusable["a revoked key"])
        ask(lite, operation, insufficient[operation.scope]["a key"])

    after = tables(lite)
    assert len(after.pop("audit_entry")) > len(before.pop("audit_entry"))
    assert after == before


def test_only_administrators_hear_of_people_and_credentials():
    result = re.compile(r"/users|/service-accounts|/api-keys|/organisations/{slug}/members|/sso\b")

    open_to_others = [
        f"{operation.method} {operation.path}"
        for operation in OPERATIONS
        if result.search(operation.path) and operation.scope != "factstore:admin"
    ]

    assert open_to_others == []


def test_every_operation_takes_one_of_the_four_scopes():
    assert {operation.scope for operation in OPERATIONS} == set(FACTSTORE_SCOPES)


GOVERNED = """
DELETE /api/v1/deployment-policies/{deploymentPolicyId}
DELETE /api/v1/environments/{environmentId}
DELETE /api/v1/environments/{environmentId}/allowlist/{entryId}
DELETE /api/v1/flows/{flowId}
DELETE /api/v1/policies/{policyId}
DELETE /api/v1/policy-attachments/{policyAttachmentId}
DELETE /api/v1/webhook-configs/{webhookConfigId}
DELETE /api/v2/flows/{flowId}
GET /api/v1/webhook-configs
POST /api/v1/approvals/{approvalId}/approve
POST /api/v1/approvals/{approvalId}/reject
POST /api/v1/compliance/mappings
POST /api/v1/deployment-policies
POST /api/v1/environments/{environmentId}/allowlist
POST /api/v1/flows/{flowId}/security-thresholds
POST /api/v1/frameworks
POST /api/v1/frameworks/{frameworkId}/controls
POST /api/v1/opa/bundles
POST /api/v1/policies
POST /api/v1/policy-attachments
POST /api/v1/webhook-configs
PUT /api/v1/deployment-policies/{deploymentPolicyId}
PUT /api/v1/environments/{environmentId}
PUT /api/v1/flows/{flowId}
PUT /api/v1/opa/bundles/{bundleId}/activate
PUT /api/v1/policies/{policyId}
PUT /api/v1/policies/{policyId}/wasm
PUT /api/v2/flows/{flowId}
"""


def test_what_others_must_meet_is_for_those_who_govern():
    governed = {
        f"{operation.method} {operation.path}"
        for operation in OPERATIONS
        if operation.scope == "factstore:govern"
    }

    assert sorted(governed) == GOVERNED.split("\n")[1:-1]


def test_the_description_of_the_api_says_which_scope_an_operation_needs(lite):
    paths = lite.client().get("/api-docs").json["paths"]

    assert paths["/api/v1/approvals/{approvalId}/approve"]["post"]["x-scope"] == "factstore:govern"
    assert paths["/api/v1/flows"]["post"]["x-scope"] == "factstore:write"
    assert paths["/api/v1/flows/{flowId}"]["put"]["x-scope"] == "factstore:govern"


def test_a_key_of_an_administrator_governs_and_gives_what_it_may_do(lite):
    admin = Client(lite, {"X-Api-Key": lite.api_keys.create("a", ["factstore:admin"])["apiKey"]})
    account = admin.post("/api/v1/service-accounts", {"name": "release desk"}).json["id"]
    keys = f"/api/v1/service-accounts/{account}/api-keys"

    made = admin.post(keys, {"label": "desk", "scopes": ["factstore:govern"]})
    refused = admin.post(keys, {"label": "desk", "scopes": ["factstore:write"]})

    desk = Client(lite, {"X-Api-Key": made.json["plainTextKey"]})
    assert (made.status, refused.status) == (201, 403)
    for client in (admin, desk):
        created = client.post("/api/v1/policies", {"name": f"policy of {id(client)}"})
        assert created.status == 201
    assert desk.get("/api/v1/users").status == 403


def test_a_key_of_a_pipeline_neither_decides_nor_relaxes_anything(lite):
    pipeline = Client(lite, {"X-Api-Key": lite.api_keys.create("pipeline")["apiKey"]})
    flow = pipeline.post("/api/v1/flows", {"name": "guarded", "requiresApproval": True}).json["id"]
    commit = {"flowId": flow, "gitCommitSha": "4f2a", "gitBranch": "main"}
    commit |= {"gitAuthor": "Ann", "gitAuthorEmail": "ann@example.org"}
    trail = pipeline.post("/api/v1/trails", commit).json["id"]
    response = pipeline.post(f"/api/v1/trails/{trail}/approvals", {"requiredApprovers": ["ciso"]})

    answers = [
        pipeline.post(
            f"/api/v1/approvals/{response.json['id']}/approve", {"approverIdentity": "ciso"}
        ),
        pipeline.put(f"/api/v1/flows/{flow}", {"requiresApproval": False}),
        pipeline.delete(f"/api/v1/flows/{flow}"),
    ]

    assert [answer.status for answer in answers] == [403, 403, 403]
    assert {answer.json["message"] for answer in answers} == {
        "This needs the scope factstore:govern."
    }
    assert pipeline.get(f"/api/v1/approvals/{response.json['id']}").json["decisions"] == []
