"""API keys of the Factstore surface."""

import random

import pytest
from stored import audit, stored_bytes

from novantra_lite import FACTSTORE_SCOPES, Invalid, NotFound, NovantraLite

FLOWS = "/api/v1/flows"


@pytest.fixture
def key(lite):
    return lite.api_keys.create("pipeline")


def call(lite, text, method="GET", path=FLOWS, header="Authorization", form="Bearer {}", **more):
    return lite.client().request(method, path, headers={header: form.format(text)}, **more)


@pytest.mark.parametrize(
    ("header", "form"),
    [("Authorization", "Bearer {}"), ("Authorization", "ApiKey {}"), ("X-Api-Key", "{}")],
)
def test_a_key_is_taken_in_each_header_that_clients_send(lite, key, header, form):
    answer = call(lite, key["apiKey"], header=header, form=form)

    assert (answer.status, answer.json) == (200, [])


def test_a_key_is_told_once_and_kept_only_as_a_hash(lite, key):
    (listed,) = lite.api_keys.list()

    assert list(listed) == [
        *("id", "ownerId", "ownerType", "label", "keyPrefix", "scopes", "isActive"),
        *("createdAt", "ttlDays", "expiresAt", "lastUsedAt"),
    ]
    assert key["apiKey"].startswith("fss_")
    assert len(key["apiKey"]) == 68
    assert key["apiKey"][:12] == listed["keyPrefix"]
    assert key["apiKey"].encode() not in stored_bytes(lite)
    assert audit(lite)[-1] == ("console", "api_key.created", key["id"], "API key created.")


def test_a_key_without_scopes_of_its_own_reads_and_writes_but_does_not_administer(lite, key):
    created = call(lite, key["apiKey"], "POST", json={"name": "payments"})
    refused = call(lite, key["apiKey"], "DELETE", "/api/v1/organisations/acme")

    assert created.status == 201
    assert refused.status == 403
    assert refused.json["message"] == "This needs the scope factstore:admin."


def test_a_key_that_may_only_read_writes_nothing(lite):
    text = lite.api_keys.create("auditor", ["factstore:read"])["apiKey"]

    assert call(lite, text, "POST", json={"name": "payments"}).status == 403
    assert call(lite, text).json == []


def test_a_revoked_key_ends_at_once(lite, key):
    assert call(lite, key["apiKey"]).status == 200

    lite.api_keys.revoke(key["id"])

    refused = call(lite, key["apiKey"])
    assert refused.status == 401
    assert refused.json["message"] == "The API key does not exist, or was revoked."
    assert lite.api_keys.list()[0]["isActive"] is False


def test_a_key_expires_with_the_clock(lite, clock):
    text = lite.api_keys.create("nightly", days=1)["apiKey"]
    clock.advance(86_399)
    assert call(lite, text).status == 200

    clock.advance(1)

    assert call(lite, text).json["message"] == "The API key has expired; create a new one."


@pytest.mark.parametrize("text", ["fss_" + "0" * 64, "fsp_", "fss_é"])
def test_a_key_that_nobody_made_is_refused_and_audited(lite, key, text):
    refused = call(lite, text, header="X-Api-Key", form="{}")

    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert audit(lite)[-1][1] == "api.authentication.refused"


def test_a_key_is_no_token_of_the_other_surface(lite):
    text = lite.api_keys.create("everything", FACTSTORE_SCOPES)["apiKey"]

    assert call(lite, text, path="/api/v1/assets").status == 401


def test_a_key_counts_against_its_own_limit_and_sends_the_headers(lite, key):
    answer = call(lite, key["apiKey"])

    assert answer.headers["x-ratelimit-limit"] == "6000"
    assert answer.headers["x-ratelimit-remaining"] == "5999"


def test_a_key_of_one_workspace_is_of_no_use_in_another(tmp_path, clock):
    with NovantraLite(workspaces=tmp_path, clock=clock, random=random.Random(3)) as install:
        for slug in ("north", "south"):
            install.create_workspace(slug)
        north, south = (install.workspaces[slug] for slug in ("north", "south"))
        text = north.api_keys.create("pipeline")["apiKey"]

        call(install, text, "POST", json={"name": "payments"})

        with south.read():
            assert south.fetch_row("SELECT count(*) FROM flow") == (0,)
        with north.read():
            assert north.fetch_row("SELECT count(*) FROM flow") == (1,)
        assert south.api_keys.check(text) is None


def test_what_a_key_cannot_be_is_said(lite):
    with pytest.raises(Invalid, match=r"There is no scope assets:read for API keys; there are f"):
        lite.api_keys.create("wrong", ["assets:read"])
    with pytest.raises(Invalid, match="needs at least one scope"):
        lite.api_keys.create("none", [])
    with pytest.raises(Invalid, match="ttlDays: Expected a number from 1 to 36500"):
        lite.api_keys.create("never", days=0)
    with pytest.raises(NotFound):
        lite.api_keys.revoke("00000000-0000-4000-8000-000000000000")


def test_the_keys_of_one_account_share_its_limit_and_its_idempotency_keys(clock):
    with NovantraLite(clock=clock, random=random.Random(7), factstore_rate_writes=4) as lite:
        admin = lite.client(*FACTSTORE_SCOPES)
        account = admin.post("/api/v1/service-accounts", {"name": "ci"}).json["id"]
        path = f"/api/v1/service-accounts/{account}/api-keys"
        first, second = (admin.post(path, {"label": label}).json for label in ("one", "two"))
        texts = first["plainTextKey"], second["plainTextKey"]
        again = {"Idempotency-Key": "rotated"}

        rows = [
            lite.client().post(FLOWS, {"name": "a"}, headers={"X-Api-Key": text, **again})
            for text in texts
        ]
        rows += [call(lite, text, "POST", json={"name": text[-9:]}) for text in (*texts, *texts)]

    assert rows[0].json["id"] == rows[1].json["id"]
    assert [record.status for record in rows] == [201, 201, 201, 201, 429, 429]
