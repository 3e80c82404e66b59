"""The evidence vault on HashiCorp Vault."""

import contextlib
import json
import socket
import subprocess
import sys
from http.client import HTTPConnection

import pytest
from stored import audit, events, ledger, tables

from factstore.vaults import ROLE, SECRET, TOKEN, running_vault
from novantra_lite import Client, Invalid, NovantraLite

TRAIL = "/api/v1/evidence/trail/t-1"
KEY = "evidence/trail/t-1/review"
REVIEW = {"evidenceType": "review", "data": {"reviewer": "ada", "verdict": "fine"}}
STORED = {
    "entityType": "trail",
    "entityId": "t-1",
    "evidenceType": "review",
    "vaultPath": "secret/evidence/trail/t-1/review",
    "version": 1,
    "data": None,
    "storedAt": "2026-05-04T03:02:01.987654Z",
}
READ = ("GET", TRAIL)
STORE = ("POST", TRAIL)
DELETE = ("DELETE", TRAIL)
LIST = ("GET", f"{TRAIL}/list")
DOWNLOAD = ("GET", f"{TRAIL}/download")
EVERY = [READ, STORE, DELETE, LIST, DOWNLOAD]


def call(client, operation, **options):
    """Call one of the five operations on documents the way that it wants to be called."""
    method, path = operation
    body = REVIEW if method == "POST" else None
    return client.request(method, path, json=body, evidenceType="review", **options)


@pytest.fixture
def vault():
    with running_vault() as vault:
        yield vault


@pytest.fixture
def lite(vault, clock):
    with NovantraLite(clock=clock, vault_address=vault.url, vault_token=TOKEN) as lite:
        yield lite


@pytest.fixture
def by_role(vault, clock):
    with NovantraLite(
        clock=clock,
        vault_address=vault.url,
        vault_auth_method="APPROLE",
        vault_role_id=ROLE,
        vault_secret_id=SECRET,
    ) as lite:
        yield lite


def test_a_stored_document_lies_in_vault_and_only_its_trace_lies_here(lite, factstore, vault):
    stored = factstore.post(TRAIL, REVIEW)

    assert (stored.status, stored.json) == (201, STORED)
    assert vault.documents == {KEY: [{"data": REVIEW["data"], "deletion_time": ""}]}
    assert vault.requests == [("POST", f"/v1/secret/data/{KEY}", TOKEN)]
    assert tables(lite)["vault_document"] == []
    ((_, *written),) = tables(lite)["vault_write"]
    assert written == ["STORED", STORED["vaultPath"], 1, "2026-06-01T12:00:00.000000Z"]
    assert audit(lite)[-1][1] == "vault_write.acknowledged"
    assert ledger(lite)[-1][0] == "VAULT_WRITE_ACKNOWLEDGED"
    assert events(lite) == []
    assert lite.verify() == []


def test_a_document_is_told_and_downloaded_from_vault(factstore, vault):
    factstore.post(TRAIL, REVIEW)
    factstore.post(TRAIL, REVIEW | {"data": {"verdict": "poor"}})

    existing, download = call(factstore, READ), call(factstore, DOWNLOAD)

    assert (existing.status, existing.json) == (200, STORED | {"version": 2})
    assert (download.status, download.json) == (200, {"verdict": "poor"})
    assert download.headers["content-disposition"].startswith(
        'attachment; filename="evidence-trail-t-1-review.json"'
    )
    assert vault.requests[2:] == [
        ("GET", f"/v1/secret/metadata/{KEY}", TOKEN),
        ("GET", f"/v1/secret/data/{KEY}", TOKEN),
    ]


def test_a_deleted_document_is_still_known_and_listed_and_lives_again_once_stored(
    lite, factstore, vault
):
    factstore.post(TRAIL, REVIEW)

    deleted = call(factstore, DELETE)

    assert (deleted.status, deleted.body) == (204, b"")
    assert vault.requests[1:] == [("DELETE", f"/v1/secret/data/{KEY}", TOKEN)]
    assert vault.documents[KEY][0]["deletion_time"] != ""
    assert sorted(written[1:4] for written in tables(lite)["vault_write"]) == [
        ("DELETED", STORED["vaultPath"], None),
        ("STORED", STORED["vaultPath"], 1),
    ]
    assert audit(lite)[-1][1] == "vault_write.acknowledged"
    assert call(factstore, DOWNLOAD).status == 404
    assert call(factstore, READ).json == STORED
    assert call(factstore, LIST).json["evidenceTypes"] == ["review"]
    assert factstore.post(TRAIL, REVIEW).json["version"] == 2
    assert call(factstore, DOWNLOAD).json == REVIEW["data"]
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("operation", "status"), [(READ, 404), (DOWNLOAD, 404), (LIST, 200), (DELETE, 204)]
)
def test_what_was_never_stored_is_not_there(factstore, operation, status):
    answer = call(factstore, operation)

    assert answer.status == status
    if status == 404:
        assert "trail/t-1/review" in answer.json["message"]
    if operation is LIST:
        assert answer.json["evidenceTypes"] == []


def test_the_types_are_those_that_vault_lists_without_its_folders(factstore, vault):
    for item in ("scan", "review"):
        factstore.post(TRAIL, REVIEW | {"evidenceType": item})
    vault.documents["evidence/trail/t-1/folder/inside"] = []

    listed = call(factstore, LIST)

    assert listed.json == {
        "entityType": "trail",
        "entityId": "t-1",
        "evidenceTypes": ["review", "scan"],
    }
    assert vault.requests[-1] == ("LIST", "/v1/secret/metadata/evidence/trail/t-1", TOKEN)


def test_words_of_any_kind_stay_in_their_place_in_vault(factstore, vault):
    body = REVIEW | {"evidenceType": "日本 %2e%2e"}

    stored = factstore.post("/api/v1/evidence/Über%20uns/50%25%3F%23", body)

    assert stored.json["vaultPath"] == "secret/evidence/Über uns/50%?#/日本 %2e%2e"
    assert list(vault.documents) == ["evidence/Über uns/50%?#/日本 %2e%2e"]


@pytest.mark.parametrize("path", ["trail/%2E%2E", "../t-1", "trail/%2E", "trail/a%5Cb"])
@pytest.mark.parametrize("operation", EVERY)
def test_a_path_that_could_lead_elsewhere_does_not_reach_vault(factstore, vault, path, operation):
    method, existing = operation

    refused = call(factstore, (method, existing.replace("trail/t-1", path)))

    assert refused.status == 400
    assert vault.requests == []


def test_what_others_stored_in_vault_is_told_as_text(factstore, vault):
    vault.documents[KEY] = [{"data": {"a": 5, "b": [True], "c": "x"}, "deletion_time": ""}]

    download = call(factstore, DOWNLOAD)

    assert download.json == {"a": "5", "b": "[true]", "c": "x"}


@pytest.mark.parametrize("created", ["", "yesterday", None, {"at": 1}])
def test_a_version_without_a_good_time_is_from_now(factstore, vault, created):
    vault.created = created

    stored = factstore.post(TRAIL, REVIEW)
    response = call(factstore, READ)

    assert stored.json == response.json == STORED | {"storedAt": "2026-06-01T12:00:00.000000Z"}


def test_metadata_without_any_version_is_no_evidence(factstore, vault):
    vault.documents[KEY] = []

    assert call(factstore, READ).status == 404


@pytest.mark.parametrize(
    ("state", "healthy", "message"),
    [
        ({}, True, "Vault is initialised and unsealed."),
        ({"sealed": True}, False, "Vault is sealed."),
        ({"sealed": True, "initialized": False}, False, "Vault is not initialised."),
        (
            {"answers": {"sys/health": (200, b"<html>Welcome")}},
            False,
            "The server at vault_address did not answer like a KV version 2 store.",
        ),
    ],
)
def test_health_tells_the_truth_about_vault(factstore, vault, state, healthy, message):
    vars(vault).update(state)

    health = factstore.get("/api/v1/evidence/health")

    assert health.status == 200
    assert health.json == {
        "healthy": healthy,
        "vaultUri": vault.url,
        "authMethod": "TOKEN",
        "message": message,
        "checkedAt": "2026-06-01T12:00:00.000000Z",
    }


@pytest.mark.parametrize("operation", EVERY)
def test_a_sealed_vault_is_told_to_be_sealed(lite, factstore, vault, operation):
    before = tables(lite)
    vault.sealed = True

    refused = call(factstore, operation)

    assert (refused.status, refused.json["error"]) == (503, "Service Unavailable")
    assert refused.json["message"] == "Vault is sealed, or cannot answer now; try again later."
    assert refused.headers["retry-after"] == "10"
    assert tables(lite)["vault_write"] == before["vault_write"]


@pytest.mark.parametrize("operation", EVERY)
def test_a_token_that_vault_refuses_is_no_fault_of_the_caller(lite, factstore, vault, operation):
    vault.tokens.clear()

    refused = call(factstore, operation)

    assert (refused.status, refused.json["error"]) == (502, "Bad Gateway")
    assert refused.json["message"] == (
        "Vault rejected the credentials of this server, or does not permit them this request."
    )
    assert tables(lite)["vault_write"] == []


@pytest.mark.parametrize("operation", EVERY)
@pytest.mark.parametrize(
    ("status", "result", "refusal"),
    [
        (500, {"errors": ["internal detail"]}, 502),
        (400, {"errors": ["internal detail"]}, 502),
        (429, {"errors": ["internal detail"]}, 503),
        (404, b"<html>internal detail", 502),
        (200, b"<html>internal detail", 502),
        (200, [], 502),
        (403, {"errors": [{"odd": "internal detail"}]}, 502),
    ],
)
def test_an_odd_answer_of_vault_is_refused_without_its_words(
    lite, factstore, vault, operation, status, result, refusal
):
    vault.answers["secret/"] = status, result

    answer = call(factstore, operation)

    assert answer.status == refusal
    assert tables(lite)["vault_write"] == []
    assert b"internal detail" not in answer.body
    assert TOKEN.encode() not in answer.body


@pytest.mark.parametrize("operation", EVERY)
def test_a_mount_that_is_not_there_is_not_taken_for_a_document_that_is_not(
    factstore, vault, operation
):
    vault.mount = "elsewhere"

    refused = call(factstore, operation)

    assert refused.status == 502
    assert refused.json["message"] == (
        "Vault has no key-value store where the setting vault_mount says."
    )


@pytest.mark.parametrize("operation", EVERY)
def test_a_vault_that_is_down_is_told_of(clock, operation):
    with socket.socket() as taken:
        # Bound, so that nobody else listens there, and not listening.
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with NovantraLite(clock=clock, vault_address=address, vault_token=TOKEN) as lite:
            client = lite.client("factstore:read", "factstore:write")

            refused = call(client, operation)
            health = client.get("/api/v1/evidence/health")

    text = "Vault cannot be reached, or did not answer in time."
    assert (refused.status, refused.json["message"]) == (502, text)
    assert (health.status, health.json["healthy"], health.json["message"]) == (200, False, text)


def test_a_vault_that_does_not_answer_is_given_up(clock):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with NovantraLite(
            clock=clock, vault_address=address, vault_token=TOKEN, vault_timeout=0.05
        ) as lite:
            refused = call(lite.client("factstore:read"), READ)

    assert refused.status == 502


@pytest.mark.parametrize("operation", EVERY)
def test_others_are_answered_while_one_waits_for_vault(lite, vault, operation):
    method, path = operation
    token = lite.token("factstore:read", "factstore:write")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps(REVIEW) if method == "POST" else None
    vault.may_answer.clear()
    with lite.listening() as url:
        host = url.removeprefix("http://")
        with (
            contextlib.closing(HTTPConnection(host, timeout=5)) as waiting,
            contextlib.closing(HTTPConnection(host, timeout=4)) as other,
        ):
            waiting.request(method, f"{path}?evidenceType=review", body, headers)
            assert vault.asked.wait(5)

            other.request("GET", "/api/health/live")
            alive = other.getresponse().status
            held_up = vault.may_answer.is_set()
            vault.may_answer.set()
            late = waiting.getresponse().status

    assert (alive, held_up) == (200, False)
    assert late in (200, 201, 204, 404)


@pytest.mark.parametrize(("stored", "version"), [(0, 1), (2, 3)])
def test_a_dry_run_of_a_store_tells_the_version_to_come_and_writes_nothing(
    lite, factstore, vault, stored, version
):
    for _ in range(stored):
        factstore.post(TRAIL, REVIEW)
    before, held = tables(lite), len(vault.requests)

    rehearsed = factstore.post(TRAIL, REVIEW, headers={"X-Dry-Run": "true"})

    coming = {"version": version, "storedAt": "2026-06-01T12:00:00.000000Z"}
    assert rehearsed.status == 200
    assert rehearsed.json == {"dryRun": True, "wouldCreate": STORED | coming}
    assert [request[:2] for request in vault.requests[held:]] == [
        ("POST", "/v1/sys/capabilities-self"),
        ("GET", f"/v1/secret/metadata/{KEY}"),
    ]
    assert tables(lite) == before


@pytest.mark.parametrize(("stored", "result"), [(0, None), (1, STORED)])
def test_a_dry_run_of_a_deletion_tells_what_stands_there(lite, factstore, vault, stored, result):
    for _ in range(stored):
        factstore.post(TRAIL, REVIEW)
    before = tables(lite)

    rehearsed = call(factstore, DELETE, headers={"X-Dry-Run": "true"})

    assert (rehearsed.status, rehearsed.json) == (200, {"dryRun": True, "wouldDelete": result})
    assert "DELETE" not in [method for method, _, _ in vault.requests]
    assert tables(lite) == before


@pytest.mark.parametrize("operation", [STORE, DELETE])
@pytest.mark.parametrize("rights", [{"read", "list"}, set()])
def test_a_dry_run_refuses_what_the_policy_of_vault_would(factstore, vault, operation, rights):
    vault.tokens[TOKEN] = rights

    rehearsed = call(factstore, operation, headers={"X-Dry-Run": "true"})
    real = call(factstore, operation)

    assert (rehearsed.status, rehearsed.json) == (real.status, real.json)
    assert real.status == 502


def test_a_dry_run_needs_no_more_rights_than_the_store(factstore, vault):
    vault.tokens[TOKEN] = {"create", "update"}

    rehearsed = call(factstore, STORE, headers={"X-Dry-Run": "true"})

    assert (rehearsed.status, rehearsed.json["wouldCreate"]["version"]) == (200, 1)


def test_a_repeated_store_reaches_vault_once(factstore, vault):
    headers = {"Idempotency-Key": "one"}

    first = call(factstore, STORE, headers=headers)
    repeat = call(factstore, STORE, headers=headers)

    assert (repeat.status, repeat.body) == (201, first.body)
    assert len(vault.documents[KEY]) == 1


def test_nothing_reaches_vault_without_the_scope(lite, vault):
    clients = [Client(lite), lite.client("factstore:read"), lite.client("governance.risks:read")]

    statuses = [[call(client, item).status for item in EVERY] for client in clients[::2]]
    writing = [call(clients[1], item).status for item in (STORE, DELETE)]

    assert statuses == [[401] * 5, [403] * 5]
    assert writing == [403, 403]
    assert vault.requests == []


def test_a_role_logs_in_once_for_many_requests(by_role, vault):
    client = by_role.client("factstore:read", "factstore:write")

    answers = [call(client, operation) for operation in (STORE, READ, DOWNLOAD)]
    health = client.get("/api/v1/evidence/health")

    assert [answer.status for answer in answers] == [201, 200, 200]
    assert [path for method, path, _ in vault.requests if "auth" in path] == [
        "/v1/auth/approle/login"
    ]
    assert {token for _, path, token in vault.requests if "secret" in path} == {"hvs.Role-1"}
    assert (health.json["authMethod"], health.json["healthy"]) == ("APPROLE", True)


def test_a_role_whose_token_came_to_its_end_logs_in_anew(by_role, vault):
    client = by_role.client("factstore:read", "factstore:write")
    call(client, STORE)
    del vault.tokens["hvs.Role-1"]
    vault.tokens["hvs.Other"] = set()

    again = call(client, STORE)

    assert (again.status, again.json["version"]) == (201, 2)
    assert vault.requests[-1][2] == "hvs.Role-2"


@pytest.mark.parametrize(
    ("result", "status", "message"),
    [
        ((400, {"errors": ["invalid secret id"]}), 502, "Vault refuses the role that this"),
        ((503, {"errors": ["Vault is sealed"]}), 503, "Vault is sealed, or cannot answer"),
        ((404, {"errors": []}), 502, "Vault has no key-value store"),
        ((200, {"auth": {"client_token": None}}), 502, "The server at vault_address did not"),
        ((200, b"<html>"), 502, "The server at vault_address did not"),
    ],
)
@pytest.mark.parametrize("operation", [STORE, READ])
def test_a_role_that_cannot_log_in_is_told_of(by_role, vault, operation, result, status, message):
    vault.answers["auth/approle/login"] = result
    client = by_role.client("factstore:read", "factstore:write")

    refused = call(client, operation)

    assert refused.status == status
    assert refused.json["message"].startswith(message)
    assert SECRET.encode() not in refused.body
    assert [path for _, path, _ in vault.requests] == ["/v1/auth/approle/login"]


def test_several_workspaces_do_not_see_each_other_in_one_vault(tmp_path, vault, clock):
    with NovantraLite(
        workspaces=tmp_path, clock=clock, vault_address=vault.url, vault_token=TOKEN
    ) as install:
        keys = {}
        for slug in ("north", "south"):
            keys[slug] = install.create_workspace(slug).api_keys.create("ci")["apiKey"]
        north, south = (Client(install, {"X-Api-Key": keys[slug]}) for slug in keys)

        stored = north.post(TRAIL, REVIEW)

        assert stored.json["vaultPath"] == "secret/north/evidence/trail/t-1/review"
        assert call(north, READ).status == 200
        assert call(north, LIST).json["evidenceTypes"] == ["review"]
        assert (call(south, READ).status, call(south, DOWNLOAD).status) == (404, 404)
        assert call(south, LIST).json["evidenceTypes"] == []


def test_a_mount_may_be_of_several_parts(vault, clock):
    vault.mount = "teams/risk"
    with NovantraLite(
        clock=clock, vault_address=f"{vault.url}/", vault_token=TOKEN, vault_mount="teams/risk"
    ) as lite:
        stored = lite.client("factstore:write").post(TRAIL, REVIEW)

    assert (stored.status, stored.json["vaultPath"]) == (201, f"teams/risk/{KEY}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vault_address": "vault.lan"}, r"vault_address has no good URL"),
        ({"vault_address": "http://user:word@vault.lan"}, r"vault_address has no good URL"),
        ({"vault_token": ""}, r"the setting vault_token is needed"),
        ({"vault_token": "one\r\nX-Other: two"}, r"the setting vault_token is needed"),
        ({"vault_auth_method": "KUBERNETES"}, r"vault_auth_method is one of TOKEN, APPROLE"),
        ({"vault_auth_method": "APPROLE"}, r"the setting vault_role_id is needed"),
        (
            {"vault_auth_method": "APPROLE", "vault_role_id": "r"},
            r"the setting vault_secret_id is needed",
        ),
        ({"vault_mount": ""}, r"vault_mount needs a path"),
        ({"vault_mount": "../sys"}, r"vault_mount needs a path"),
        ({"vault_mount": "/secret"}, r"vault_mount needs a path"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_at_the_start(settings, message):
    values = {"vault_address": "http://vault.lan:8200", "vault_token": TOKEN} | settings

    with pytest.raises(Invalid, match=message) as refusal:
        NovantraLite(**values)

    assert "hvs." not in str(refusal.value)
    assert "X-Other" not in str(refusal.value)


def test_without_hvac_the_extra_that_brings_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hvac", None)

    with pytest.raises(Invalid) as refusal:
        NovantraLite(vault_address="http://vault.lan:8200", vault_token=TOKEN)

    assert str(refusal.value) == (
        "The setting vault_address needs hvac: pip install 'novantra-lite[vault]'."
    )


def test_hvac_is_not_loaded_where_no_vault_is_set():
    code = "import sys, novantra_lite; novantra_lite.NovantraLite().close(); print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "novantra_lite" in loaded
    assert not {"hvac", "requests"} & set(loaded)


def test_the_credentials_are_in_no_log_and_no_report(lite, factstore, vault, caplog):
    vault.tokens.clear()

    call(factstore, STORE)
    vault.sealed = True
    call(factstore, READ)

    assert "Vault answered with status 403." in caplog.text
    assert TOKEN not in caplog.text
    assert TOKEN not in str(lite.doctor())
    assert TOKEN not in repr(lite.settings)
