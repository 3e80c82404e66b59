"""Members of organisations."""

import pytest
from stored import audit, events, ledger, tables

from novantra_lite import FACTSTORE_SCOPES, Client

ORGANISATIONS = "/api/v1/organisations"
MEMBERS = f"{ORGANISATIONS}/acme/members"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def users(factstore, acme):
    """The ids of three users, who are members of nothing yet."""
    return {
        name: factstore.post("/api/v1/users", {"email": name, "name": name.title()}).json["id"]
        for name in ("ada", "bob", "eve")
    }


@pytest.fixture
def ada(factstore, users):
    """The only admin."""
    return factstore.post(MEMBERS, {"email": "ada", "role": "ADMIN"}).json


def test_a_user_is_found_by_email_and_a_member_at_once(lite, factstore, users):
    created = factstore.post(MEMBERS, {"email": "ada", "role": "MEMBER"})

    expected = {
        "userId": users["ada"],
        "role": "MEMBER",
        "joinedAt": NOON,
        "email": "ada",
        "name": "Ada",
    }
    assert (created.status, created.json) == (201, expected)
    assert factstore.get(f"{MEMBERS}/{users['ada']}").json == expected
    assert factstore.get(MEMBERS).json == [expected]
    assert audit(lite)[-1][1] == "member.created"
    assert ledger(lite)[-1][0] == "MEMBER_CREATED"
    assert events(lite) == []


def test_members_are_listed_in_the_order_in_which_they_joined(factstore, acme, users, ada):
    factstore.post(ORGANISATIONS, {"slug": "other", "name": "Other"})
    factstore.post(f"{ORGANISATIONS}/other/members", {"email": "bob", "role": "ADMIN"})
    for name, role in (("eve", "VIEWER"), ("bob", "SERVICE_ACCOUNT")):
        factstore.post(MEMBERS, {"email": name, "role": role})

    by_slug = factstore.get(MEMBERS)
    by_id = factstore.get(f"{ORGANISATIONS}/{acme['id'].upper()}/members")

    assert [(member["email"], member["role"]) for member in by_slug.json] == [
        ("ada", "ADMIN"),
        ("eve", "VIEWER"),
        ("bob", "SERVICE_ACCOUNT"),
    ]
    assert by_id.json == by_slug.json


def test_a_renamed_user_is_renamed_among_the_members(factstore, users, ada):
    factstore.put(f"/api/v1/users/{users['ada']}", {"name": 'Ada "the first" Ünger'})

    assert factstore.get(MEMBERS).json == [ada | {"name": 'Ada "the first" Ünger'}]
    assert factstore.get(f"{MEMBERS}/{users['ada']}").json["name"] == 'Ada "the first" Ünger'


@pytest.mark.parametrize(
    "change", [{"email": None}, {"email": ["ada"]}, {"role": None}, {"role": "OWNER"}, {"role": ""}]
)
def test_a_wrong_member_is_refused(lite, factstore, users, change):
    before = tables(lite)

    refused = factstore.post(MEMBERS, {"email": "ada", "role": "ADMIN"} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


def test_nobody_is_a_member_twice_and_nobody_unknown_is_one(factstore, ada):
    twice = factstore.post(MEMBERS, {"email": "ada", "role": "VIEWER"})
    unknown = factstore.post(MEMBERS, {"email": "ADA", "role": "VIEWER"})

    assert (twice.status, unknown.status) == (409, 404)
    assert twice.json["message"] == "Member 'ada' already exists in organisation 'acme'"
    assert unknown.json["message"] == "There is no user with the email 'ADA'."
    assert factstore.get(MEMBERS).json == [ada]


def test_another_role_is_taken_and_the_day_of_joining_stays(
    lite, factstore, clock, acme, users, ada
):
    factstore.post(MEMBERS, {"email": "bob", "role": "ADMIN"})
    clock.advance(60)

    changed = factstore.put(
        f"{ORGANISATIONS}/{acme['id']}/members/{users['ada'].upper()}", {"role": "VIEWER"}
    )

    assert (changed.status, changed.json) == (200, ada | {"role": "VIEWER"})
    assert factstore.get(f"{MEMBERS}/{users['ada']}").json == ada | {"role": "VIEWER"}
    assert audit(lite)[-1][1] == "member.updated"
    assert lite.verify() == []


@pytest.mark.parametrize("body", [{}, {"role": None}, {"role": "admin"}])
def test_a_change_needs_a_role(factstore, users, ada, body):
    refused = factstore.put(f"{MEMBERS}/{users['ada']}", body)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert factstore.get(MEMBERS).json == [ada]


def test_a_member_who_leaves_is_gone_and_stays_a_user(lite, factstore, users, ada):
    factstore.post(MEMBERS, {"email": "bob", "role": "MEMBER"})

    left = factstore.delete(f"{MEMBERS}/{users['bob']}")
    again = factstore.delete(f"{MEMBERS}/{users['bob']}")

    assert (left.status, left.body, again.status) == (204, b"", 404)
    assert factstore.get(MEMBERS).json == [ada]
    assert factstore.get(f"/api/v1/users/{users['bob']}").status == 200
    assert audit(lite)[-1][1] == "member.deleted"
    assert lite.verify() == []


# --- The last admin -----------------------------------------------------------


@pytest.mark.parametrize(("method", "body"), [("DELETE", None), ("PUT", {"role": "MEMBER"})])
def test_the_last_admin_of_an_organisation_stays_admin(lite, factstore, users, ada, method, body):
    factstore.post(MEMBERS, {"email": "bob", "role": "MEMBER"})
    factstore.post(ORGANISATIONS, {"slug": "other", "name": "Other"})
    factstore.post(f"{ORGANISATIONS}/other/members", {"email": "eve", "role": "ADMIN"})
    before = tables(lite)

    refused = factstore.request(method, f"{MEMBERS}/{users['ada']}", json=body)

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert refused.json["message"] == (
        f"User {users['ada']} is the last admin of organisation 'acme'; "
        "make somebody else an admin first."
    )
    assert tables(lite) == before


def test_an_admin_may_go_while_another_stays(factstore, users, ada):
    factstore.post(MEMBERS, {"email": "bob", "role": "MEMBER"})
    same = factstore.put(f"{MEMBERS}/{users['ada']}", {"role": "ADMIN"})

    raised = factstore.put(f"{MEMBERS}/{users['bob']}", {"role": "ADMIN"})
    left = factstore.delete(f"{MEMBERS}/{users['ada']}")
    last = factstore.delete(f"{MEMBERS}/{users['bob']}")

    assert [same.status, raised.status, left.status, last.status] == [200, 200, 204, 409]


@pytest.mark.parametrize(
    "roles", [["ADMIN", "MEMBER"], ["ADMIN", "ADMIN"], ["MEMBER"], ["VIEWER", "MEMBER"]]
)
def test_an_organisation_with_members_stays(lite, factstore, users, roles):
    for name, role in zip(users, roles, strict=False):
        factstore.post(MEMBERS, {"email": name, "role": role})
    before = tables(lite)

    refused = factstore.delete(f"{ORGANISATIONS}/acme")

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert refused.json["message"] == (
        "Organisation 'acme' is still in use by member records; delete them first."
    )
    assert tables(lite) == before


def test_an_organisation_takes_its_last_admin_along(lite, factstore, acme, users, ada):
    factstore.post("/api/v1/flows", {"name": "payments", "orgSlug": "acme"})
    carried = factstore.delete(f"{ORGANISATIONS}/acme")
    (flow,) = factstore.get("/api/v1/flows").json
    assert (carried.status, factstore.get(MEMBERS).json) == (409, [ada])
    factstore.delete(f"/api/v1/flows/{flow['id']}")

    deleted = factstore.delete(f"{ORGANISATIONS}/acme")
    factstore.post(ORGANISATIONS, {"slug": "acme", "name": "Acme again"})

    assert deleted.status == 204
    assert factstore.get(MEMBERS).json == []
    assert factstore.delete(f"/api/v1/users/{users['ada']}").status == 204
    assert ("ORGANISATION_DELETED", acme["id"]) in ledger(lite)
    assert "MEMBER_DELETED" in [event for event, _ in ledger(lite)]
    assert lite.verify() == []


# --- Refusals -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "role", "lacking"),
    [
        (["read"], "ADMIN", "write"),
        (["read"], "MEMBER", "write"),
        ([], "VIEWER", "read"),
        (["write"], "SERVICE_ACCOUNT", "read"),
    ],
)
def test_nobody_gives_a_role_that_may_do_more_than_they(
    lite, factstore, ada, scopes, role, lacking
):
    client = lite.client("factstore:admin", *(f"factstore:{scope}" for scope in scopes))

    refused = client.post(MEMBERS, {"email": "bob", "role": role})
    changed = client.put(f"{MEMBERS}/{ada['userId']}", {"role": role})

    assert [refused.status, changed.status] == [403, 403]
    assert f"factstore:{lacking}" in refused.json["message"]
    assert factstore.get(MEMBERS).json == [ada]


@pytest.mark.parametrize(
    ("method", "below", "body"),
    [
        ("GET", "", None),
        ("POST", "", {"email": "ada", "role": "ADMIN"}),
        ("GET", "/{ada}", None),
        ("PUT", "/{ada}", {"role": "ADMIN"}),
        ("DELETE", "/{ada}", None),
    ],
)
def test_an_organisation_that_is_not_there_has_no_members(factstore, ada, method, below, body):
    below = below.format(ada=ada["userId"])

    for key in ("nobody", NOBODY):
        refused = factstore.request(method, f"{ORGANISATIONS}/{key}/members{below}", json=body)

        assert (refused.status, refused.json["error"]) == (404, "Not Found")
        assert refused.json["message"] == f"There is no organisation '{key}'."


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_user_who_is_no_member_is_not_found(factstore, users, ada, method):
    body = {"role": "VIEWER"}

    refused = factstore.request(method, f"{MEMBERS}/{users['bob']}", json=body)
    nonsense = factstore.request(method, f"{MEMBERS}/nonsense", json=body)

    assert (refused.status, nonsense.status) == (404, 400)
    assert refused.json["message"] == f"User {users['bob']} is no member of organisation 'acme'."


def test_a_dry_run_stores_nothing(lite, factstore, users, ada):
    before, rehearsal = tables(lite), {"X-Dry-Run": "true"}
    path = f"{MEMBERS}/{users['ada']}"

    create = factstore.post(MEMBERS, {"email": "bob", "role": "ADMIN"}, headers=rehearsal)
    change = factstore.put(path, {"role": "ADMIN"}, headers=rehearsal)
    last = factstore.delete(path, headers=rehearsal)

    assert (create.status, create.json["wouldCreate"]["userId"]) == (200, users["bob"])
    assert change.json == {"dryRun": True, "wouldUpdate": ada}
    assert last.status == 409
    assert tables(lite) == before


# --- Keys of those who go -----------------------------------------------------

KEYS = "/api/v1/api-keys"
EVERYTHING = list(FACTSTORE_SCOPES)


@pytest.fixture
def keys_of(lite, factstore):
    """Makes an API key of a user; the key's record, and a client that presents it."""

    def make(user, scopes):
        body = {"ownerId": user, "ownerType": "USER", "label": "own", "scopes": scopes}
        made = factstore.post(KEYS, body).json
        return made, Client(lite, {"X-Api-Key": made["plainTextKey"]})

    return make


@pytest.mark.parametrize(
    ("role", "left", "statuses"),
    [
        ("MEMBER", ["factstore:read", "factstore:write"], [200, 201, 403, 403]),
        ("VIEWER", ["factstore:read"], [200, 403, 403, 403]),
    ],
)
def test_a_member_with_a_lesser_role_keeps_keys_of_that_role(
    lite, factstore, users, ada, keys_of, role, left, statuses
):
    factstore.post(MEMBERS, {"email": "bob", "role": "ADMIN"})
    _, client = keys_of(users["bob"], EVERYTHING)
    assert client.get("/api/v1/users").status == 200

    factstore.put(f"{MEMBERS}/{users['bob']}", {"role": role})

    answers = [
        client.get("/api/v1/flows"),
        client.post("/api/v1/flows", {"name": "payments"}),
        client.post("/api/v1/policies", {"name": "lax"}),
        client.get("/api/v1/users"),
    ]
    (key,) = factstore.get(f"{KEYS}/owners/{users['bob']}").json
    assert [answer.status for answer in answers] == statuses
    assert (key["scopes"], key["isActive"]) == (left, True)
    assert lite.verify() == []


def test_a_key_without_any_scope_left_ends(factstore, users, ada, keys_of):
    factstore.post(MEMBERS, {"email": "bob", "role": "ADMIN"})
    _, client = keys_of(users["bob"], ["factstore:admin"])

    factstore.put(f"{MEMBERS}/{users['bob']}", {"role": "VIEWER"})

    (key,) = factstore.get(f"{KEYS}/owners/{users['bob']}").json
    assert client.get("/api/v1/users").status == 401
    assert (key["scopes"], key["isActive"]) == (["factstore:admin"], False)


def test_who_is_a_member_no_more_has_no_keys_any_more(lite, factstore, users, ada, keys_of):
    factstore.post(MEMBERS, {"email": "bob", "role": "MEMBER"})
    _, client = keys_of(users["bob"], ["factstore:read", "factstore:write"])
    assert client.get("/api/v1/flows").status == 200

    factstore.delete(f"{MEMBERS}/{users['bob']}")

    assert [entry[1] for entry in audit(lite)[-2:]] == ["member.deleted", "api_key.updated"]
    (key,) = factstore.get(f"{KEYS}/owners/{users['bob']}").json
    assert client.get("/api/v1/flows").status == 401
    assert key["isActive"] is False
    assert lite.verify() == []


def test_keys_go_with_the_organisation_of_its_last_admin(factstore, users, ada, keys_of):
    _, client = keys_of(users["ada"], EVERYTHING)

    assert factstore.delete(f"{ORGANISATIONS}/acme").status == 204

    assert client.get("/api/v1/flows").status == 401


def test_what_another_membership_gives_stays(factstore, users, ada, keys_of):
    factstore.post(ORGANISATIONS, {"slug": "other", "name": "Other"})
    factstore.post(f"{ORGANISATIONS}/other/members", {"email": "bob", "role": "VIEWER"})
    factstore.post(MEMBERS, {"email": "bob", "role": "ADMIN"})
    _, client = keys_of(users["bob"], EVERYTHING)
    _, unrelated = keys_of(users["eve"], EVERYTHING)

    factstore.delete(f"{MEMBERS}/{users['bob']}")

    (key,) = factstore.get(f"{KEYS}/owners/{users['bob']}").json
    assert (key["scopes"], key["isActive"]) == (["factstore:read"], True)
    assert client.get("/api/v1/flows").status == 200
    assert unrelated.get("/api/v1/users").status == 200


def test_a_rehearsed_removal_leaves_the_keys(factstore, users, ada, keys_of):
    factstore.post(MEMBERS, {"email": "bob", "role": "MEMBER"})
    _, client = keys_of(users["bob"], ["factstore:read"])

    factstore.delete(f"{MEMBERS}/{users['bob']}", dryRun="true")

    assert client.get("/api/v1/flows").status == 200
