"""Users."""

import pytest
from stored import audit, events, ledger, tables

USERS = "/api/v1/users"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
ADA = {"email": "ada@example.org", "name": "Ada"}


@pytest.fixture
def ada(factstore):
    return factstore.post(USERS, ADA).json


def test_a_user_needs_an_email_and_a_name(lite, factstore):
    created = factstore.post(USERS, ADA)

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("email", "ada@example.org"),
        ("name", "Ada"),
        ("githubId", None),
        ("createdAt", NOON),
        ("updatedAt", NOON),
    ]
    assert factstore.get(f"{USERS}/{key}").json == created.json
    assert factstore.get(USERS).json == [created.json]
    assert audit(lite)[-1][1:3] == ("user.created", key)
    assert ledger(lite)[-1] == ("USER_CREATED", key)
    assert events(lite) == []


@pytest.mark.parametrize(
    "change",
    [
        {"email": None},
        {"email": " "},
        {"email": "x" * 256},
        {"email": ["ada@example.org"]},
        {"name": None},
        {"name": ""},
        {"name": "x" * 256},
        {"githubId": "x" * 256},
        {"githubId": {}},
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, change):
    before = tables(lite)

    refused = factstore.post(USERS, ADA | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


def test_no_rule_says_what_an_email_looks_like(factstore):
    created = factstore.post(USERS, {"email": "no at sign", "name": 5, "githubId": 99})

    assert created.status == 201
    assert created.json["email"] == "no at sign"
    assert (created.json["name"], created.json["githubId"]) == ("5", "99")


def test_an_email_is_taken_once_in_exactly_its_letters(factstore, ada):
    taken = factstore.post(USERS, ADA | {"name": "Another"})
    upper = factstore.post(USERS, ADA | {"email": "ADA@example.org"})

    assert (taken.status, taken.json["error"]) == (409, "Conflict")
    assert taken.json["message"] == "User with email 'ada@example.org' already exists"
    assert upper.status == 201


def test_a_github_id_is_taken_once_where_there_is_one(factstore, ada):
    eve = factstore.post(USERS, {"email": "eve", "name": "Eve", "githubId": "42"}).json

    created = factstore.post(USERS, {"email": "bob", "name": "Bob", "githubId": "42"})
    without = factstore.post(USERS, {"email": "bob", "name": "Bob"})
    changed = factstore.put(f"{USERS}/{ada['id']}", {"githubId": "42"})
    own = factstore.put(f"{USERS}/{eve['id']}", {"githubId": "42", "name": "Eva"})

    assert [created.status, without.status, changed.status, own.status] == [409, 201, 409, 200]
    assert created.json["message"] == "User with GitHub id '42' already exists"
    assert factstore.get(f"{USERS}/{ada['id']}").json == ada


def test_a_change_keeps_the_email_and_what_is_left_out(lite, factstore, clock, ada):
    clock.advance(60)

    changed = factstore.put(
        f"{USERS}/{ada['id']}", {"name": None, "githubId": "ada", "email": "other@example.org"}
    )

    moved = {"githubId": "ada", "updatedAt": "2026-06-01T12:01:00.000000Z"}
    assert (changed.status, changed.json) == (200, ada | moved)
    assert factstore.get(f"{USERS}/{ada['id']}").json == ada | moved
    assert audit(lite)[-1][1:3] == ("user.updated", ada["id"])
    assert lite.verify() == []


def test_an_empty_change_moves_the_time(factstore, clock, ada):
    clock.advance(60)

    changed = factstore.put(f"{USERS}/{ada['id']}", {})

    assert changed.json == ada | {"updatedAt": "2026-06-01T12:01:00.000000Z"}


def test_the_list_is_in_the_order_of_creation(factstore):
    for number in range(8):
        factstore.post(USERS, {"email": f"{number}@example.org", "name": "x"})

    listed = factstore.get(USERS, page=0, size=1)

    assert [user["email"][0] for user in listed.json] == list("01234567")


def test_a_user_who_goes_leaves_memberships_and_keys_behind_that_are_of_no_use(
    lite, factstore, ada
):
    eve = factstore.post(USERS, {"email": "eve", "name": "Eve"}).json
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    members = "/api/v1/organisations/acme/members"
    factstore.post(members, {"email": "eve", "role": "ADMIN"})
    factstore.post(members, {"email": "ada@example.org", "role": "ADMIN"})
    owned = {"ownerId": ada["id"], "ownerType": "USER", "label": "laptop"}
    text = factstore.post("/api/v1/api-keys", owned).json["plainTextKey"]
    headers = {"X-Api-Key": text}
    assert lite.client().get("/api/v1/flows", headers=headers).status == 200

    deleted = factstore.delete(f"{USERS}/{ada['id']}")

    (key,) = factstore.get(f"/api/v1/api-keys/owners/{ada['id']}").json
    assert (deleted.status, deleted.body) == (204, b"")
    assert factstore.get(f"{USERS}/{ada['id']}").status == 404
    assert [member["userId"] for member in factstore.get(members).json] == [eve["id"]]
    assert key["isActive"] is False
    assert lite.client().get("/api/v1/flows", headers=headers).status == 401
    actions = [entry[1] for entry in audit(lite)]
    assert {"user.deleted", "member.deleted", "api_key.updated"} <= set(actions)
    assert lite.verify() == []


def test_the_last_admin_of_an_organisation_cannot_be_deleted(lite, factstore, ada):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    factstore.post(
        "/api/v1/organisations/acme/members", {"email": "ada@example.org", "role": "ADMIN"}
    )
    owned = {"ownerId": ada["id"], "ownerType": "USER", "label": "laptop"}
    factstore.post("/api/v1/api-keys", owned)
    before = tables(lite)

    refused = factstore.delete(f"{USERS}/{ada['id']}")

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert "the last admin of organisation 'acme'" in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("nonsense", 400)])
def test_a_user_who_is_not_there_is_not_found(factstore, method, key, status):
    refused = factstore.request(method, f"{USERS}/{key}", json={})

    assert refused.status == status
    assert status == 400 or refused.json["message"] == f"There is no user with the id {NOBODY}."


def test_a_dry_run_stores_nothing(lite, factstore, ada):
    before, rehearsal = tables(lite), {"X-Dry-Run": "true"}

    create = factstore.post(USERS, {"email": "eve", "name": "Eve"}, headers=rehearsal)
    taken = factstore.post(USERS, ADA, headers=rehearsal)
    change = factstore.put(f"{USERS}/{ada['id']}", {"name": "Eve"}, headers=rehearsal)
    delete = factstore.delete(f"{USERS}/{ada['id']}", headers=rehearsal)

    assert (create.status, create.json["wouldCreate"]["email"]) == (200, "eve")
    assert taken.status == 409
    assert change.json == {"dryRun": True, "wouldUpdate": ada | {"name": "Eve"}}
    assert delete.json == {"dryRun": True, "wouldDelete": ada}
    assert tables(lite) == before
