"""Organisations."""

import pytest
from conftest import WHY
from stored import audit, events, ledger, tables

from novantra_lite import Client, Invalid

ORGANISATIONS = "/api/v1/organisations"
NEW = {"slug": "acme", "name": "Acme", "description": "Makes everything."}


@pytest.fixture
def acme(factstore):
    return factstore.post(ORGANISATIONS, NEW).json


def test_a_new_organisation_is_returned_bare_and_found_by_slug_and_by_uuid(lite, factstore):
    created = factstore.post(ORGANISATIONS, NEW)

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("slug", "acme"),
        ("name", "Acme"),
        ("description", "Makes everything."),
        ("type", "SHARED"),
        ("createdAt", "2026-06-01T12:00:00.000000Z"),
        ("updatedAt", "2026-06-01T12:00:00.000000Z"),
    ]
    for name in ("acme", key, key.upper()):
        response = factstore.get(f"{ORGANISATIONS}/{name}")
        assert (response.status, response.json) == (200, created.json)
    assert audit(lite)[-1][1:3] == ("organisation.created", key)
    assert ledger(lite)[-1] == ("ORGANISATION_CREATED", key)
    assert events(lite) == []


def test_the_list_is_a_bare_array_in_the_order_of_creation(factstore, clock):
    empty = factstore.get(ORGANISATIONS)
    slugs = ["zebra", "acme", "mole"]
    for slug in slugs:
        factstore.post(ORGANISATIONS, NEW | {"slug": slug})
        clock.advance(0.000001)

    listed = factstore.get(ORGANISATIONS, limit=1, page=0, anything="x")

    assert (empty.status, empty.json) == (200, [])
    assert [record["slug"] for record in listed.json] == slugs


def test_organisations_of_one_moment_are_listed_in_the_order_of_creation(factstore):
    slugs = [f"org-{number}" for number in range(8)]
    for slug in slugs:
        factstore.post(ORGANISATIONS, NEW | {"slug": slug})

    listed = factstore.get(ORGANISATIONS)

    assert [record["slug"] for record in listed.json] == slugs


def test_a_slug_is_taken_once(factstore, acme):
    refused = factstore.post(ORGANISATIONS, NEW)

    assert refused.status == 409
    assert list(refused.json) == ["status", "error", "message", "timestamp"]
    assert (refused.json["status"], refused.json["error"]) == (409, "Conflict")
    assert "acme" in refused.json["message"]
    assert refused.json["timestamp"] == "2026-06-01T12:00:00.000000Z"


@pytest.mark.parametrize(
    "change",
    [
        {"slug": None},
        {"slug": ""},
        {"slug": "   "},
        {"slug": "x" * 256},
        {"slug": ["acme"]},
        {"slug": "00000000-0000-4000-8000-000000000000"},
        {"slug": " 0190ABCD-0000-7000-8000-00000000000A "},
        {"name": None},
        {"name": " "},
        {"name": {}},
        {"type": "shared"},
        {"type": "COMPANY"},
        {"description": ["x"]},
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, change):
    before = tables(lite)

    refused = factstore.post(ORGANISATIONS, NEW | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


def test_numbers_become_text_and_a_null_with_a_default_means_the_default(factstore):
    created = factstore.post(
        ORGANISATIONS, {"slug": 5, "name": 7.5, "description": None, "type": None, "x": {}}
    )

    assert created.status == 201
    assert {name: created.json[name] for name in ("slug", "name", "description", "type")} == {
        "slug": "5",
        "name": "7.5",
        "description": "",
        "type": "SHARED",
    }


def test_a_change_moves_only_what_is_given(lite, factstore, clock, acme):
    clock.advance(60)

    changed = factstore.put(
        f"{ORGANISATIONS}/{acme['id']}", {"name": "Acme Ltd", "slug": "other", "type": "PERSONAL"}
    )

    moved = {"name": "Acme Ltd", "updatedAt": "2026-06-01T12:01:00.000000Z"}
    assert (changed.status, changed.json) == (200, acme | moved)
    assert factstore.get(f"{ORGANISATIONS}/acme").json == acme | moved
    assert audit(lite)[-1][1:3] == ("organisation.updated", acme["id"])


@pytest.mark.parametrize("body", [{}, {"name": "Acme"}, {"name": None, "description": None}])
def test_every_successful_change_moves_the_time_an_empty_one_too(factstore, clock, acme, body):
    clock.advance(60)

    changed = factstore.put(f"{ORGANISATIONS}/acme", body)

    assert changed.status == 200
    assert changed.json == acme | {"updatedAt": "2026-06-01T12:01:00.000000Z"}


def test_an_empty_description_is_kept(factstore, acme):
    changed = factstore.put(f"{ORGANISATIONS}/acme", {"description": ""})

    assert changed.json["description"] == ""


def test_a_deleted_organisation_is_gone(lite, factstore, acme):
    deleted = factstore.delete(f"{ORGANISATIONS}/acme")
    again = factstore.delete(f"{ORGANISATIONS}/acme")

    assert (deleted.status, deleted.body) == (204, b"")
    assert (again.status, again.json["error"]) == (404, "Not Found")
    assert audit(lite)[-1][1:3] == ("organisation.deleted", acme["id"])
    assert ledger(lite)[-1] == ("ORGANISATION_DELETED", acme["id"])
    assert lite.verify() == []


def test_an_organisation_that_flows_carry_stays(factstore, acme):
    factstore.post("/api/v1/flows", {"name": "payments", "orgSlug": "acme"})

    refused = factstore.delete(f"{ORGANISATIONS}/acme")

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert "flow" in refused.json["message"]
    assert factstore.get(f"{ORGANISATIONS}/acme").status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("key", ["nobody", "00000000-0000-4000-8000-000000000000"])
def test_an_organisation_that_is_not_there_is_not_found(factstore, method, key):
    refused = factstore.request(method, f"{ORGANISATIONS}/{key}", json={})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert key in refused.json["message"]


def test_an_organisation_gets_no_slug_that_is_another_s_uuid(lite, factstore, acme):
    lite.collection("organisations").create(slug="zeta", name="Zeta", reason=WHY)
    zeta = factstore.get(f"{ORGANISATIONS}/zeta").json["id"]

    with pytest.raises(
        Invalid, match="slug: Expected a slug that does not have the form of a UUID"
    ):
        lite.collection("organisations").update(zeta, slug=acme["id"], reason=WHY)

    assert factstore.get(f"{ORGANISATIONS}/{acme['id']}").json == acme


def test_a_uuid_names_its_organisation_before_an_older_slug_of_that_form(lite, factstore, acme):
    other = factstore.post(ORGANISATIONS, {"slug": "zeta", "name": "Zeta"}).json
    with lite.workspace.read():
        writer = lite.workspace.writer.database.connection()
        writer.execute("UPDATE organisation SET slug = ? WHERE slug = 'zeta'", [acme["id"]])
    token = {"provider": "GITHUB", "token": "ghp_1"}

    response = factstore.get(f"{ORGANISATIONS}/{acme['id']}")
    kept = factstore.post(f"{ORGANISATIONS}/{acme['id']}/scm-integrations", token)

    assert response.json["slug"] == "acme"
    assert kept.json["orgSlug"] == "acme"
    assert factstore.get(f"{ORGANISATIONS}/{other['id']}").json["id"] == other["id"]


def test_deleting_takes_an_administrator(lite, factstore, acme):
    writer = lite.client("factstore:read", "factstore:write")

    refused = writer.delete(f"{ORGANISATIONS}/acme")

    assert (refused.status, refused.json["error"]) == (403, "Forbidden")
    assert factstore.get(f"{ORGANISATIONS}/acme").json == acme


@pytest.mark.parametrize(
    "name", ["Authorization: Bearer", "Authorization: ApiKey", "X-Api-Key:", "X-API-KEY:"]
)
def test_a_token_is_presented_in_any_of_the_clients_ways(lite, name):
    header, _, scheme = name.partition(":")
    value = f"{scheme} {lite.token('factstore:read')}".strip()

    listed = Client(lite, {header: value}).get(ORGANISATIONS)

    assert (listed.status, listed.json) == (200, [])


@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_a_refused_key_is_audited(lite, header):
    value = {"Authorization": "Bearer workspace.forged", "X-Api-Key": "workspace.forged"}[header]
    before = len(audit(lite))

    refused = Client(lite, {header: value}).get(ORGANISATIONS)

    assert (refused.status, refused.json["error"]) == (401, "Unauthorized")
    assert [entry[1:3] for entry in audit(lite)[before:]] == [
        ("api.authentication.refused", "GET /api/v1/organisations")
    ]


def test_every_answer_names_the_region(factstore):
    response = factstore.get(ORGANISATIONS)
    refused = factstore.get(f"{ORGANISATIONS}/nobody")

    assert response.headers["x-factstore-region"] == "us-east-1"
    assert refused.headers["x-factstore-region"] == "us-east-1"


def test_a_repeated_creation_is_done_once(lite, factstore):
    headers = {"Idempotency-Key": "one"}
    first = factstore.post(ORGANISATIONS, NEW, headers=headers)

    repeat = factstore.post(ORGANISATIONS, NEW, headers=headers)
    other = factstore.post(ORGANISATIONS, NEW | {"name": "Other"}, headers=headers)

    assert (repeat.status, repeat.body) == (201, first.body)
    assert repeat.headers["idempotency-replayed"] == "true"
    assert (other.status, other.json["error"]) == (409, "Conflict")
    assert len(factstore.get(ORGANISATIONS).json) == 1
