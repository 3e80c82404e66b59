"""API keys made and ended through the API."""

import random

import pytest
from stored import audit, ledger, stored_bytes, tables

from novantra_lite import NovantraLite

KEYS = "/api/v1/api-keys"
FLOWS = "/api/v1/flows"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def ada(factstore):
    return factstore.post("/api/v1/users", {"email": "ada", "name": "Ada"}).json["id"]


@pytest.fixture
def machine(factstore):
    return factstore.post("/api/v1/service-accounts", {"name": "pipeline"}).json["id"]


@pytest.fixture
def asked(ada):
    return {"ownerId": ada, "ownerType": "USER", "label": "laptop"}


def call(lite, key, method="GET", path=FLOWS, **more):
    headers = {"Authorization": f"Bearer {key['plainTextKey']}"}
    return lite.client().request(method, path, headers=headers, **more)


def test_a_personal_key_works_and_is_told_once(lite, factstore, ada, asked):
    created = factstore.post(KEYS, asked)

    key = dict(created.json)
    text = key.pop("plainTextKey")
    assert created.status == 201
    assert key == {
        "id": key["id"],
        "ownerId": ada,
        "ownerType": "USER",
        "label": "laptop",
        "keyPrefix": text[:12],
        "scopes": ["factstore:read", "factstore:write"],
        "isActive": True,
        "createdAt": NOON,
        "ttlDays": None,
        "expiresAt": None,
        "lastUsedAt": None,
    }
    assert (text[:4], len(text)) == ("fsp_", 68)
    assert factstore.get(f"{KEYS}/owners/{ada}").json == [key]
    assert audit(lite)[-1][1:3] == ("api_key.created", key["id"])
    assert ledger(lite)[-1] == ("API_KEY_CREATED", key["id"])
    assert call(lite, created.json).status == 200


def test_the_text_of_a_key_is_nowhere_in_the_file_also_when_its_answer_is_kept(
    lite, factstore, asked
):
    headers = {"Idempotency-Key": "one"}
    first = factstore.post(KEYS, asked, headers=headers)

    again = factstore.post(KEYS, asked, headers=headers)

    assert again.body == first.body
    assert first.json["plainTextKey"].encode() not in stored_bytes(lite)
    assert len(factstore.get(f"{KEYS}/owners/{asked['ownerId']}").json) == 1


def test_a_key_of_a_machine_is_made_here_too(factstore, machine):
    created = factstore.post(
        KEYS, {"ownerId": machine.upper(), "ownerType": "SERVICE_ACCOUNT", "name": "ci"}
    )

    listed = factstore.get(f"/api/v1/service-accounts/{machine}/api-keys").json
    assert (created.status, created.json["label"]) == (201, "ci")
    assert created.json["plainTextKey"].startswith("fss_")
    assert [key["id"] for key in listed] == [created.json["id"]]


@pytest.mark.parametrize(
    "change",
    [
        {"ownerId": None},
        {"ownerId": "nonsense"},
        {"ownerType": None},
        {"ownerType": "user"},
        {"label": None},
        {"label": "x" * 256},
        {"ttlDays": "a month"},
        {"ttlDays": 2**31},
        {"scopes": []},
        {"scopes": "factstore:read"},
        {"scopes": ["factstore:own"]},
        {"scopes": ["assets:read"]},
        {"scopes": [None]},
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, asked, change):
    before = tables(lite)

    refused = factstore.post(KEYS, asked | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize(
    ("owner", "type", "said"),
    [
        (NOBODY, "USER", "user"),
        (NOBODY, "SERVICE_ACCOUNT", "service account"),
        ("ada", "SERVICE_ACCOUNT", "service account"),
        ("machine", "USER", "user"),
    ],
)
def test_an_owner_who_is_not_there_gets_no_key(factstore, ada, machine, owner, type, said):
    owner = {"ada": ada, "machine": machine}.get(owner, owner)

    refused = factstore.post(KEYS, {"ownerId": owner, "ownerType": type, "label": "x"})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert refused.json["message"] == f"There is no {said} with the id {owner}."


def test_the_keys_of_an_owner_nobody_knows_are_none(factstore):
    listed = factstore.get(f"{KEYS}/owners/{NOBODY}")

    assert (listed.status, listed.json) == (200, [])


# --- Scopes -------------------------------------------------------------------


def test_a_key_has_the_scopes_that_were_asked_for_and_no_others(lite, factstore, asked):
    reader = factstore.post(KEYS, asked | {"scopes": ["factstore:read", "factstore:read"]}).json
    admin = factstore.post(KEYS, asked | {"scopes": ["factstore:admin"]}).json

    assert (reader["scopes"], admin["scopes"]) == (["factstore:read"], ["factstore:admin"])
    assert [call(lite, reader).status, call(lite, admin).status] == [200, 403]
    assert call(lite, reader, "POST", json={"name": "payments"}).status == 403
    assert call(lite, admin, path="/api/v1/users").status == 200


@pytest.mark.parametrize(
    ("own", "scopes", "lacking"),
    [
        (["read"], {}, "write"),
        (["write"], {}, "read"),
        ([], {"scopes": None}, "read"),
        (["read"], {"scopes": ["factstore:read", "factstore:write"]}, "write"),
    ],
)
def test_nobody_gives_a_scope_that_they_do_not_have(lite, factstore, asked, own, scopes, lacking):
    granted = [f"factstore:{scope}" for scope in [*own, "admin"]]
    maker = factstore.post(KEYS, asked | {"scopes": granted}).json
    before = len(factstore.get(f"{KEYS}/owners/{asked['ownerId']}").json)

    refused = call(lite, maker, "POST", KEYS, json=asked | scopes)

    assert (refused.status, refused.json["error"]) == (403, "Forbidden")
    assert refused.json["message"] == (
        f"You cannot grant the scope factstore:{lacking}: you do not have it yourself."
    )
    assert len(factstore.get(f"{KEYS}/owners/{asked['ownerId']}").json) == before


def test_a_key_for_a_machine_has_no_more_scopes_than_its_maker_either(lite, factstore, machine):
    maker = lite.api_keys.create("console", ["factstore:admin", "factstore:read"])
    client, path = lite.client(), f"/api/v1/service-accounts/{machine}/api-keys"
    headers = {"X-Api-Key": maker["apiKey"]}

    refused = client.post(path, {"label": "ci"}, headers=headers)
    made = client.post(path, {"label": "ci", "scopes": ["factstore:read"]}, headers=headers)

    assert [refused.status, made.status] == [403, 201]
    assert "factstore:write" in refused.json["message"]


# --- Expiry -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "expires"),
    [
        (1, "2026-06-02T12:00:00.000000Z"),
        (0, NOON),
        (-1, "2026-05-31T12:00:00.000000Z"),
        (2**31 - 1, "9999-12-31T23:59:59.000000Z"),
        (-(2**31), "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_any_number_of_days_is_taken(lite, factstore, asked, days, expires):
    created = factstore.post(KEYS, asked | {"ttlDays": days})

    assert created.status == 201
    assert (created.json["ttlDays"], created.json["expiresAt"]) == (days, expires)
    assert call(lite, created.json).status == (200 if days > 0 else 401)


def test_an_expired_key_is_refused_and_stays_active(lite, factstore, clock, asked):
    key = factstore.post(KEYS, asked | {"ttlDays": 1}).json
    clock.advance(86_399)
    assert call(lite, key).status == 200

    clock.advance(1)

    refused = call(lite, key)
    assert refused.status == 401
    assert refused.json["message"] == "The API key has expired; create a new one."
    client = lite.client("factstore:admin")
    (listed,) = client.get(f"{KEYS}/owners/{asked['ownerId']}").json
    assert listed["isActive"] is True


# --- Revocation ---------------------------------------------------------------


def test_a_revoked_key_ends_at_once_and_for_good(lite, factstore, asked):
    key = factstore.post(KEYS, asked).json
    assert call(lite, key).status == 200

    revoked = factstore.delete(f"{KEYS}/{key['id']}/revoke")
    count = len(ledger(lite))
    again = factstore.delete(f"{KEYS}/{key['id']}/revoke")

    (listed,) = factstore.get(f"{KEYS}/owners/{asked['ownerId']}").json
    assert (revoked.status, revoked.body, again.status) == (204, b"", 204)
    assert listed["isActive"] is False
    assert call(lite, key).json["message"] == "The API key does not exist, or was revoked."
    assert ledger(lite)[-1] == ("API_KEY_UPDATED", key["id"])
    assert len(ledger(lite)) == count
    assert lite.verify() == []


def test_a_key_of_a_machine_is_revoked_here_too(lite, factstore, machine):
    path = f"/api/v1/service-accounts/{machine}/api-keys"
    key = factstore.post(path, {"label": "ci"}).json

    revoked = factstore.delete(f"{KEYS}/{key['id']}/revoke")

    assert revoked.status == 204
    assert call(lite, key).status == 401


def test_a_key_may_end_itself(lite, factstore, asked):
    key = factstore.post(KEYS, asked | {"scopes": ["factstore:admin"]}).json

    revoked = call(lite, key, "DELETE", f"{KEYS}/{key['id']}/revoke")

    assert revoked.status == 204
    assert call(lite, key, path="/api/v1/users").status == 401


def test_a_key_that_is_revoked_while_it_is_looked_up_is_not_remembered(
    lite, factstore, asked, monkeypatch
):
    key = factstore.post(KEYS, asked).json
    verify = lite.api_keys.verify

    def verify_slowly(text):
        principal = verify(text)
        lite.api_keys.revoke(key["id"])
        return principal

    with monkeypatch.context() as patch:
        patch.setattr(lite.api_keys, "verify", verify_slowly)
        first = call(lite, key)

    assert first.status == 200
    assert call(lite, key).status == 401


def test_a_rehearsed_revocation_leaves_the_key(lite, factstore, asked):
    key = factstore.post(KEYS, asked).json
    before, rehearsal = tables(lite), {"X-Dry-Run": "true"}

    revoke = factstore.delete(f"{KEYS}/{key['id']}/revoke", headers=rehearsal)
    create = factstore.post(KEYS, asked, headers=rehearsal)

    expected = {name: value for name, value in key.items() if name != "plainTextKey"}
    assert revoke.json == {"dryRun": True, "wouldDelete": expected}
    assert (create.status, create.json["wouldCreate"]["label"]) == (200, "laptop")
    assert tables(lite) == before
    assert call(lite, key).status == 200


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("nonsense", 400)])
def test_a_key_that_is_not_there_is_not_found(factstore, key, status):
    refused = factstore.delete(f"{KEYS}/{key}/revoke")

    assert refused.status == status
    assert factstore.get(f"{KEYS}/owners/nonsense").status == 400


# --- Last use -----------------------------------------------------------------


def last_use(factstore, owner):
    (key,) = factstore.get(f"{KEYS}/owners/{owner}").json
    return key["lastUsedAt"]


def test_the_last_use_is_told_at_once_without_a_write(lite, factstore, clock, ada, asked):
    key = factstore.post(KEYS, asked).json
    before = tables(lite)
    clock.advance(5)

    call(lite, key)
    forbidden = call(lite, key, path="/api/v1/users")

    assert forbidden.status == 403
    assert last_use(factstore, ada) == "2026-06-01T12:00:05.000000Z"
    assert lite.api_keys.list()[0]["lastUsedAt"] == "2026-06-01T12:00:05.000000Z"
    after = tables(lite)
    written = after.pop("audit_entry")[len(before.pop("audit_entry")) :]
    assert [entry[2:4] for entry in written] == [(key["id"], "api.authorization.refused")]
    assert after == before


def test_the_last_use_reaches_the_file_when_its_minute_is_over(lite, factstore, clock, ada, asked):
    key = factstore.post(KEYS, asked).json
    for _ in range(3):
        clock.advance(40)
        call(lite, key)

    lite.step()
    stored = tables(lite)["last_use"]
    clock.advance(60)
    lite.step()

    assert stored == [(key["id"], "2026-06-01T12:01:20.000000Z")]
    assert tables(lite)["last_use"] == [(key["id"], "2026-06-01T12:02:00.000000Z")]
    assert last_use(factstore, ada) == "2026-06-01T12:02:00.000000Z"
    assert lite.verify() == []


def test_a_refused_key_counts_as_no_use(lite, factstore, clock, ada, asked):
    key = factstore.post(KEYS, asked | {"ttlDays": 0}).json

    call(lite, key)

    assert last_use(factstore, ada) is None


def test_the_last_use_survives_the_end_of_the_process(tmp_path, clock):
    def opened():
        return NovantraLite(tmp_path / "register.db", clock=clock, random=random.Random(7))

    with opened() as lite:
        text = lite.api_keys.create("pipeline")["apiKey"]
        lite.client().get(FLOWS, headers={"X-Api-Key": text})

    with opened() as lite:
        (key,) = lite.api_keys.list()
        assert key["lastUsedAt"] == NOON
        assert lite.verify() == []
