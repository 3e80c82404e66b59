"""Service accounts of the Factstore surface."""

import pytest
from stored import audit, events, ledger, tables

ACCOUNTS = "/api/v1/service-accounts"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def account(factstore):
    return factstore.post(ACCOUNTS, {"name": "pipeline"}).json


@pytest.fixture
def key(factstore, account):
    return factstore.post(f"{ACCOUNTS}/{account['id']}/api-keys", {"label": "ci"}).json


def call(lite, key):
    return lite.client().get("/api/v1/flows", headers={"X-Api-Key": key["plainTextKey"]})


def test_an_account_needs_only_a_name(lite, factstore):
    created = factstore.post(ACCOUNTS, {"name": "pipeline", "orgSlug": "acme"})

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("name", "pipeline"),
        ("description", None),
        ("createdAt", NOON),
        ("updatedAt", NOON),
    ]
    assert factstore.get(f"{ACCOUNTS}/{key}").json == created.json
    assert factstore.get(ACCOUNTS).json == [created.json]
    assert audit(lite)[-1][1:3] == ("machine_account.created", key)
    assert ledger(lite)[-1] == ("MACHINE_ACCOUNT_CREATED", key)
    assert events(lite) == []


@pytest.mark.parametrize(
    "change", [{"name": None}, {"name": " "}, {"name": "x" * 256}, {"description": "x" * 10_001}]
)
def test_a_wrong_member_is_refused(lite, factstore, change):
    before = tables(lite)

    refused = factstore.post(ACCOUNTS, {"name": "pipeline"} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


def test_a_name_is_taken_once_and_an_account_may_keep_its_own(factstore, account):
    path = f"{ACCOUNTS}/{account['id']}"
    factstore.post(ACCOUNTS, {"name": "scanner"})

    created = factstore.post(ACCOUNTS, {"name": "pipeline"})
    renamed = factstore.put(path, {"name": "scanner"})
    own = factstore.put(path, {"name": "pipeline", "description": ""})

    assert [created.status, renamed.status, own.status] == [409, 409, 200]
    assert created.json["message"] == "Service account with name 'pipeline' already exists"
    assert renamed.json["message"] == "Service account with name 'scanner' already exists"
    assert own.json == account | {"description": ""}


def test_every_change_moves_the_time_an_empty_one_too(lite, factstore, clock, account):
    clock.advance(60)

    changed = factstore.put(f"{ACCOUNTS}/{account['id']}", {"name": None})

    assert changed.json == account | {"updatedAt": "2026-06-01T12:01:00.000000Z"}
    assert factstore.get(f"{ACCOUNTS}/{account['id']}").json == changed.json
    assert audit(lite)[-1][1:3] == ("machine_account.updated", account["id"])


def test_a_key_of_an_account_is_made_and_listed_under_it(lite, factstore, account):
    keys = f"{ACCOUNTS}/{account['id']}/api-keys"

    created = factstore.post(keys, {"label": "ci", "ttlDays": 30})

    expected = {
        "id": created.json["id"],
        "ownerId": account["id"],
        "ownerType": "SERVICE_ACCOUNT",
        "label": "ci",
        "keyPrefix": created.json["plainTextKey"][:12],
        "scopes": ["factstore:read", "factstore:write"],
        "isActive": True,
        "createdAt": NOON,
        "ttlDays": 30,
        "expiresAt": "2026-07-01T12:00:00.000000Z",
        "lastUsedAt": None,
    }
    assert created.status == 201
    assert created.json == expected | {"plainTextKey": created.json["plainTextKey"]}
    assert created.json["plainTextKey"].startswith("fss_")
    assert factstore.get(keys).json == [expected]
    assert audit(lite)[-1][1:3] == ("api_key.created", expected["id"])
    assert ledger(lite)[-1] == ("API_KEY_CREATED", expected["id"])
    assert call(lite, created.json).status == 200


def test_a_key_of_an_account_is_revoked_at_once(lite, factstore, account, key):
    path = f"{ACCOUNTS}/{account['id']}/api-keys/{key['id']}"
    assert call(lite, key).status == 200

    revoked = factstore.delete(path)
    again = factstore.delete(path)

    assert (revoked.status, revoked.body, again.status) == (204, b"", 204)
    assert call(lite, key).status == 401
    (listed,) = factstore.get(f"{ACCOUNTS}/{account['id']}/api-keys").json
    assert listed["isActive"] is False
    assert ledger(lite)[-1] == ("API_KEY_UPDATED", key["id"])


def test_a_key_is_revoked_only_under_its_own_account(lite, factstore, key):
    other = factstore.post(ACCOUNTS, {"name": "other"}).json

    refused = factstore.delete(f"{ACCOUNTS}/{other['id']}/api-keys/{key['id']}")

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert refused.json["message"] == (
        f"The service account {other['id']} has no API key {key['id']}."
    )
    assert call(lite, key).status == 200


def test_the_keys_of_an_account_that_goes_end_and_stay_listed(lite, factstore, account, key):
    assert call(lite, key).status == 200

    deleted = factstore.delete(f"{ACCOUNTS}/{account['id']}")

    (listed,) = factstore.get(f"/api/v1/api-keys/owners/{account['id']}").json
    assert (deleted.status, deleted.body) == (204, b"")
    assert factstore.get(f"{ACCOUNTS}/{account['id']}").status == 404
    assert (listed["id"], listed["isActive"]) == (key["id"], False)
    assert call(lite, key).status == 401
    assert ("MACHINE_ACCOUNT_DELETED", account["id"]) in ledger(lite)
    assert lite.verify() == []


def test_a_key_of_the_console_belongs_to_the_account_of_its_label(lite, factstore, account):
    lite.api_keys.create("pipeline")
    lite.api_keys.create("auditor", ["factstore:read"])
    lite.api_keys.create("auditor", ["factstore:read"])

    accounts = {record["name"]: record["id"] for record in factstore.get(ACCOUNTS).json}
    listed = {
        name: [key["label"] for key in factstore.get(f"{ACCOUNTS}/{owner}/api-keys").json]
        for name, owner in accounts.items()
    }
    assert listed == {"pipeline": ["pipeline"], "auditor": ["auditor", "auditor"]}
    assert accounts["pipeline"] == account["id"]


@pytest.mark.parametrize(
    ("method", "below"),
    [
        ("GET", ""),
        ("PUT", ""),
        ("DELETE", ""),
        ("GET", "/api-keys"),
        ("POST", "/api-keys"),
        ("DELETE", f"/api-keys/{NOBODY}"),
    ],
)
@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("nonsense", 400)])
def test_an_account_that_is_not_there_is_not_found(factstore, method, below, key, status):
    body = {"label": "ci"} if method == "POST" else {}

    refused = factstore.request(method, f"{ACCOUNTS}/{key}{below}", json=body)

    text = f"There is no service account with the id {NOBODY}."
    assert refused.status == status
    assert status == 400 or refused.json["message"] == text


def test_a_dry_run_stores_nothing(lite, factstore, account, key):
    before, path = tables(lite), f"{ACCOUNTS}/{account['id']}"
    rehearsal = {"X-Dry-Run": "true"}

    create = factstore.post(ACCOUNTS, {"name": "scanner"}, headers=rehearsal)
    mint = factstore.post(f"{path}/api-keys", {"label": "cd"}, headers=rehearsal)
    revoke = factstore.delete(f"{path}/api-keys/{key['id']}", headers=rehearsal)
    delete = factstore.delete(path, headers=rehearsal)

    assert create.json["wouldCreate"]["name"] == "scanner"
    assert call(lite, mint.json["wouldCreate"]).status == 401
    assert revoke.json["wouldDelete"]["isActive"] is True
    assert delete.json == {"dryRun": True, "wouldDelete": account}
    assert call(lite, key).status == 200
    assert {name: rows for name, rows in tables(lite).items() if name != "audit_entry"} == {
        name: rows for name, rows in before.items() if name != "audit_entry"
    }
