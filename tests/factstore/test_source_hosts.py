"""Integrations with source hosts."""

import pytest
from stored import audit, events, ledger, stored_bytes, tables

import novantra_lite
from novantra_lite import Invalid, NovantraLite

ACME = "/api/v1/organisations/acme/scm-integrations"
TOKEN = "ghp_Secret-0123456789"
NEW = {"provider": "GITHUB", "token": TOKEN}


def test_a_new_integration_is_returned_and_listed_without_its_token(lite, factstore, acme):
    created = factstore.post(ACME, NEW)
    listed = factstore.get(ACME)

    key = created.json["id"]
    assert created.status == 201
    assert created.json == {
        "id": key,
        "orgSlug": "acme",
        "provider": "GITHUB",
        "isTokenEncrypted": True,
        "createdAt": "2026-06-01T12:00:00.000000Z",
    }
    assert (listed.status, listed.json) == (200, [created.json])
    assert audit(lite)[-1][1:3] == ("scm_integration.created", key)
    assert ledger(lite)[-1] == ("SCM_INTEGRATION_CREATED", key)
    assert events(lite) == []


def test_the_token_is_nowhere_in_the_file_in_the_clear(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        client = lite.client("factstore:admin", "factstore:read")
        client.post(ACME, NEW, headers={"Idempotency-Key": "one"})

        assert TOKEN.encode() not in stored_bytes(lite)
        with lite.workspace.read():
            assert novantra_lite.ScmIntegration.get().token == TOKEN
        assert lite.verify() == []


def test_every_provider_has_a_place_of_its_own_and_lower_case_names_it_too(factstore, acme):
    names = ["github", "GITLAB", "bitbucket", "azure_devops"]

    statuses = [factstore.post(ACME, {"provider": name, "token": "t"}).status for name in names]
    again = factstore.post(ACME, {"provider": "GitHub", "token": "other"})

    assert statuses == [201, 201, 201, 201]
    assert [record["provider"] for record in factstore.get(ACME).json] == [
        "GITHUB",
        "GITLAB",
        "BITBUCKET",
        "AZURE_DEVOPS",
    ]
    assert again.status == 409
    assert again.json["message"] == (
        "Organisation 'acme' has a token for GITHUB already; delete it first."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"provider": None}, "provider: Required"),
        ({"provider": "SVN"}, "provider: Expected one of: GITHUB, GITLAB, BITBUCKET, AZURE_DEVOPS"),
        ({"provider": ["GITHUB"]}, "provider: Expected one of"),
        ({"token": None}, "token: Required"),
        ({"token": ""}, "token: Expected 1 to 4096 characters"),
        ({"token": "x" * 4097}, "token: Expected 1 to 4096 characters"),
        ({"token": "one\r\nX-Other: two"}, "token: Expected a token of visible ASCII characters"),
        ({"token": "schlüssel"}, "token: Expected a token of visible ASCII characters"),
        ({"token": {"a": 1}}, "token: Expected string"),
    ],
)
def test_a_faulty_integration_is_refused_by_the_name_of_its_member(factstore, change, message):
    refused = factstore.post(ACME, NEW | change)

    assert refused.status == 400
    assert message in refused.json["message"]
    assert factstore.get(ACME).json == []


def test_a_deleted_integration_is_gone_and_can_be_stored_anew(lite, factstore, acme):
    key = factstore.post(ACME, NEW).json["id"]

    deleted = factstore.delete(f"{ACME}/github")
    again = factstore.delete(f"{ACME}/GITHUB")

    assert (deleted.status, deleted.body) == (204, b"")
    assert (again.status, again.json["message"]) == (
        404,
        "Organisation 'acme' has no token for GITHUB.",
    )
    assert audit(lite)[-1][1:3] == ("scm_integration.deleted", key)
    assert ledger(lite)[-1] == ("SCM_INTEGRATION_DELETED", key)
    assert factstore.post(ACME, NEW).status == 201


def test_a_path_with_an_unknown_provider_is_refused(factstore, acme):
    refused = factstore.delete(f"{ACME}/svn")

    assert refused.status == 400
    assert refused.json["message"].startswith("provider: Expected one of: GITHUB")


def test_the_uuid_of_an_organisation_leads_to_the_integrations_of_its_slug(factstore, acme):
    by_id = f"/api/v1/organisations/{acme['id'].upper()}/scm-integrations"

    created = factstore.post(by_id, NEW)

    assert (created.status, created.json["orgSlug"]) == (201, "acme")
    assert factstore.get(ACME).json == factstore.get(by_id).json == [created.json]
    assert factstore.delete(f"{by_id}/GITHUB").status == 204
    assert factstore.get(ACME).json == []


def test_an_unknown_organisation_has_an_empty_list_and_may_get_an_integration(factstore):
    empty = factstore.get(ACME)
    created = factstore.post(ACME, NEW)
    too_long = factstore.post(f"/api/v1/organisations/{'x' * 256}/scm-integrations", NEW)

    assert (empty.status, empty.json) == (200, [])
    assert created.status == 201
    assert (too_long.status, too_long.json["message"]) == (
        400,
        "orgSlug: Expected at most 255 characters",
    )


def test_an_organisation_with_a_token_is_not_deleted(factstore, acme):
    factstore.post(ACME, NEW)

    refused = factstore.delete("/api/v1/organisations/acme")

    assert refused.status == 409
    assert "scm integration" in refused.json["message"]


def test_only_administrators_store_and_forget_tokens(lite, factstore, acme):
    factstore.post(ACME, NEW)
    writer = lite.client("factstore:read", "factstore:write")

    statuses = [
        writer.post(ACME, {"provider": "GITLAB", "token": "t"}).status,
        writer.delete(f"{ACME}/GITHUB").status,
        writer.get(ACME).status,
    ]

    assert statuses == [403, 403, 200]
    assert len(factstore.get(ACME).json) == 1


def test_a_dry_run_tells_all_but_the_token_and_stores_nothing(lite, factstore, acme):
    before = tables(lite)

    creating = factstore.post(ACME, NEW, headers={"X-Dry-Run": "true"})
    after = tables(lite)
    created = factstore.post(ACME, NEW).json
    deleting = factstore.delete(f"{ACME}/GITHUB", headers={"X-Dry-Run": "true"})

    assert (creating.status, creating.json["dryRun"]) == (200, True)
    assert list(creating.json["wouldCreate"]) == list(created)
    assert after == before
    assert deleting.json == {"dryRun": True, "wouldDelete": created}
    assert factstore.get(ACME).json == [created]


# The setting scm_hosts


def test_the_hosts_that_the_operator_named_are_read_by_provider():
    settings = novantra_lite.Settings.read(
        {"NOVANTRA_LITE_SCM_HOSTS": "GITLAB=https://git.lan/, github=http://127.0.0.1:1234/api/v3"}
    )

    assert dict(novantra_lite.source_bases(settings)) == {
        "GITLAB": "https://git.lan",
        "GITHUB": "http://127.0.0.1:1234/api/v3",
    }


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (("git.lan",), "The setting scm_hosts needs one entry for a provider, such as GITLAB="),
        (("SVN=https://git.lan",), "the providers are GITHUB, GITLAB, BITBUCKET, AZURE_DEVOPS."),
        (("GITLAB=https://a.lan", "GITLAB=https://b.lan"), "needs one entry for a provider"),
        (("GITLAB=",), "has no good URL for GITLAB: The URL must start with https:// or http://."),
        (("GITLAB=ftp://git.lan",), "has no good URL for GITLAB: The URL must start with"),
        (("GITLAB=https://",), "must name a host"),
        (("GITLAB=https://git.lan:99999",), "a port from 1 to 65535"),
        (("GITLAB=https://me:word@git.lan",), "must not contain a user name or password"),
        (("GITLAB=https://git.lan?x=1",), "must end with its path"),
        (("GITLAB=https://git.lan/#x",), "must end with its path"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_at_the_start(entries, sentence):
    with pytest.raises(Invalid) as refusal:
        NovantraLite(scm_hosts=entries)

    assert sentence in str(refusal.value)
    assert "word" not in str(refusal.value).replace("password", "")
