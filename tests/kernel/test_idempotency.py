"""Idempotency: however often a write with one key arrives, it takes effect once."""

import random
import threading

import pytest
from conftest import Clock
from rawfile import FINDING, FINDINGS, counts, rows, until

from novantra_lite import Client, IdempotencyRecord, NovantraLite, ServiceAccount, write_transaction

KEY = {"Idempotency-Key": "batch-7-item-3"}


def client_of(lite, account):
    """A client with a fresh token of an account."""
    with lite.workspace.read():
        record = ServiceAccount.find(account)
    token = lite.workspace.tokens.issue(record, record.scopes, 900)
    return Client(lite, {"Authorization": f"Bearer {token}"})


def test_a_repeat_gets_the_first_answer_and_does_nothing(lite, novantra, clock):
    first = novantra.post(FINDINGS, FINDING, headers=KEY)
    before = counts(lite)
    clock.advance(60)

    again = novantra.post(FINDINGS, FINDING, headers=KEY)

    assert before == (1, 4, 3, 1, 1)
    assert counts(lite) == before
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]


def test_the_kept_answer_is_encrypted_in_the_file(lite, novantra):
    novantra.post(FINDINGS, FINDING, headers=KEY)

    kept = rows(lite, "SELECT id, status, body FROM idempotency_record")

    assert kept[0][1] == 201
    assert kept[0][2].startswith("1.")
    assert "batch-7" not in kept[0][0]


def test_a_stored_response_refers_to_its_request_instead_of_repeating_it(lite, novantra):
    created = novantra.post(FINDINGS, FINDING | {"description": "a" + "bcd " * 400}, headers=KEY)

    again = novantra.post(FINDINGS, FINDING | {"description": "a" + "bcd " * 400}, headers=KEY)

    ((size,),) = rows(lite, "SELECT length(body) FROM idempotency_record")
    assert again.body == created.body
    assert len(created.body) > 2000
    assert size < 800


def test_a_response_that_an_older_version_stored_is_replayed(lite, novantra):
    novantra.post(FINDINGS, FINDING, headers=KEY)
    stored = '{"finding":{"id":"find_1"}}'

    def replace(current):
        IdempotencyRecord.select().get().change(body=stored)

    write_transaction(lite.workspace, replace, actor="console")
    again = novantra.post(FINDINGS, FINDING, headers=KEY)

    assert (again.status, again.body.decode()) == (201, stored)


def test_another_body_under_the_same_key_is_a_conflict(lite, novantra):
    first = novantra.post(FINDINGS, FINDING, headers=KEY)
    before = counts(lite)

    other = novantra.post(FINDINGS, FINDING | {"severity": "low"}, headers=KEY)
    again = novantra.post(FINDINGS, FINDING, headers=KEY)

    assert (other.status, other.json["error"]) == (409, "conflict")
    assert "another body" in other.json["message"]
    assert "idempotency-replayed" not in other.headers
    assert again.body == first.body
    assert counts(lite) == before


def test_the_same_members_in_other_bytes_are_another_body(novantra):
    novantra.post(FINDINGS, FINDING, headers=KEY)

    other = novantra.post(FINDINGS, dict(reversed(FINDING.items())), headers=KEY)

    assert other.status == 409


def test_a_key_belongs_to_its_principal(lite, novantra):
    novantra.post(FINDINGS, FINDING, headers=KEY)

    other = lite.client("governance.findings:write").post(FINDINGS, FINDING, headers=KEY)

    assert other.status == 201
    assert "idempotency-replayed" not in other.headers
    assert counts(lite)[0] == 2


def test_a_key_belongs_to_its_method_and_path(lite, factstore):
    flow = factstore.post("/api/v1/flows", {"name": "a"}, headers=KEY)
    body = {"name": "a", "slug": "a"}
    organisation = factstore.post("/api/v1/organisations", body, headers=KEY)
    path = f"/api/v1/flows/{flow.json['id']}"
    changed = factstore.put(path, {"name": "b"}, headers=KEY)
    removed = factstore.delete(path, headers=KEY)

    again = factstore.delete(path, headers=KEY)

    assert [flow.status, organisation.status, changed.status, removed.status] == [
        201,
        201,
        200,
        204,
    ]
    assert (again.status, again.body) == (204, b"")
    assert again.headers["idempotency-replayed"] == "true"
    assert lite.verify() == []


@pytest.mark.parametrize(("seconds", "findings"), [(86_400, 1), (86_401, 2)])
def test_a_key_is_kept_for_24_hours_by_the_clock(lite, clock, seconds, findings):
    account = lite.accounts.create("Scanner", ["governance.findings:write"])
    client_of(lite, account.client_id).post(FINDINGS, FINDING, headers=KEY)
    clock.advance(seconds)

    again = client_of(lite, account.client_id).post(FINDINGS, FINDING, headers=KEY)

    assert again.status == 201
    assert counts(lite)[0] == findings
    assert counts(lite)[4] == 1


MISSING = {
    "subjectModuleKey": "assets",
    "subjectResourceType": "asset",
    "subjectResourceId": "asset_0",
}


@pytest.mark.parametrize(
    ("body", "status"), [({"findingKey": "taken"}, 409), (MISSING, 422)], ids=["409", "422"]
)
def test_a_final_refusal_is_kept_and_given_again(lite, novantra, body, status):
    novantra.post(FINDINGS, FINDING | {"findingKey": "taken"})
    first = novantra.post(FINDINGS, FINDING | body, headers=KEY)
    before = counts(lite)

    again = novantra.post(FINDINGS, FINDING | body, headers=KEY)

    assert first.status == again.status == status
    assert again.json == first.json | {"requestId": again.headers["x-request-id"]}
    assert again.headers["idempotency-replayed"] == "true"
    assert before == counts(lite) == (1, 4, 3, 1, 1)


def test_a_kept_refusal_stands_even_when_its_cause_is_gone(lite, factstore):
    flow = factstore.post("/api/v1/flows", {"name": "a"}).json["id"]
    factstore.post("/api/v1/flows", {"name": "a"}, headers=KEY)
    factstore.delete(f"/api/v1/flows/{flow}")

    again = factstore.post("/api/v1/flows", {"name": "a"}, headers=KEY)

    assert (again.status, again.json["message"]) == (409, "Flow with name 'a' already exists")
    assert rows(lite, "SELECT count(*) FROM flow") == [(0,)]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [(FINDINGS, {"title": "a"}, 400), ("/api/v1/governance/findings/find_1", {}, 405)],
)
def test_other_refusals_are_not_kept(lite, novantra, path, body, status):
    method = "POST" if status == 400 else "PATCH"

    refused = novantra.request(method, path, json=body, headers=KEY)

    assert refused.status == status
    assert counts(lite)[4] == 0
    assert novantra.post(FINDINGS, FINDING, headers=KEY).status == 201


@pytest.mark.parametrize("key", ["", " ", "a b", "k" * 256, "caf\xe9", "a\tb", "\x7f"])
def test_a_key_that_is_none_is_refused(lite, novantra, key):
    answer = novantra.post(FINDINGS, FINDING, headers={"Idempotency-Key": key})

    assert (answer.status, answer.json["error"]) == (400, "validation")
    assert answer.json["issues"][0]["path"] == ["Idempotency-Key"]
    assert counts(lite) == (0, 3, 2, 0, 0)


@pytest.mark.parametrize("key", ["k", "k" * 255, "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"])
def test_any_visible_ascii_makes_a_key(lite, novantra, key):
    novantra.post(FINDINGS, FINDING, headers={"Idempotency-Key": key})

    again = novantra.post(FINDINGS, FINDING, headers={"Idempotency-Key": key})

    assert (again.status, counts(lite)[0]) == (201, 1)


def test_a_key_outlasts_the_process(tmp_path):
    with NovantraLite(tmp_path / "register.db", clock=Clock()) as lite:
        account = lite.accounts.create("Scanner", ["governance.findings:write"]).client_id
        first = client_of(lite, account).post(FINDINGS, FINDING, headers=KEY)

    with NovantraLite(tmp_path / "register.db", clock=Clock()) as lite:
        client = client_of(lite, account)
        again = client.post(FINDINGS, FINDING, headers=KEY)
        other = client.post(FINDINGS, FINDING | {"severity": "low"}, headers=KEY)

        assert (again.status, again.body) == (201, first.body)
        assert again.headers["idempotency-replayed"] == "true"
        assert other.status == 409
        assert counts(lite)[0] == 1


def test_twins_at_the_same_moment_have_one_effect(lite, novantra):
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(novantra.post(FINDINGS, FINDING, headers=KEY))
        )
        for _ in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    result = {(answer.status, answer.headers.get("retry-after")) for answer in answers}
    assert result <= {(201, None), (409, "1")}
    assert len({answer.body for answer in answers if answer.status == 201}) == 1
    assert sum("idempotency-replayed" not in a.headers for a in answers if a.status == 201) == 1
    assert counts(lite) == (1, 4, 3, 1, 1)


def test_while_the_first_is_running_a_twin_is_told_to_come_back(lite, novantra):
    gate, answers = threading.Event(), []

    def hold():
        write_transaction(lite.workspace, lambda current: gate.wait(10), actor="console")

    def post():
        answers.append(novantra.post(FINDINGS, FINDING, headers=KEY))

    threads = [threading.Thread(target=hold), threading.Thread(target=post)]
    for thread in threads:
        thread.start()
    until(lambda: lite.workspace.running)
    twin = novantra.post(FINDINGS, FINDING, headers=KEY)
    gate.set()
    for thread in threads:
        thread.join()
    later = novantra.post(FINDINGS, FINDING, headers=KEY)

    assert (twin.status, twin.headers["retry-after"]) == (409, "1")
    assert "still running" in twin.json["message"]
    assert answers[0].status == 201
    assert later.body == answers[0].body
    assert lite.workspace.running == set()
    assert counts(lite)[0] == 1


def test_old_keys_are_dropped_in_time(lite, novantra, clock):
    novantra.post(FINDINGS, FINDING, headers=KEY)
    clock.advance(86_401)

    lite.step()

    assert counts(lite)[4] == 0


def test_the_token_endpoint_keeps_nothing(lite):
    account = lite.accounts.create("Scanner", ["assets:read"])
    body = {
        "grant_type": "client_credentials",
        "client_id": account.client_id,
        "client_secret": account.client_secret,
    }
    client = lite.client()

    answers = [client.post("/api/v1/auth/token", body, headers=KEY) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    assert all("idempotency-replayed" not in answer.headers for answer in answers)
    assert counts(lite)[4] == 0


def test_a_write_that_fails_inside_leaves_its_key_free(lite, novantra):
    connection = lite.workspace.writer.database.connection()
    connection.execute("ALTER TABLE event RENAME TO elsewhere")
    failed = novantra.post(FINDINGS, FINDING, headers=KEY)
    connection.execute("ALTER TABLE elsewhere RENAME TO event")

    again = novantra.post(FINDINGS, FINDING, headers=KEY)

    assert (failed.status, failed.json["error"]) == (503, "internal")
    assert again.status == 201
    assert "idempotency-replayed" not in again.headers
    assert counts(lite) == (1, 4, 3, 1, 1)
    assert lite.verify() == []


def test_two_instances_give_the_same_answer_for_the_same_chance():
    def post():
        with NovantraLite(clock=Clock(), random=random.Random(5)) as lite:
            client = lite.client("governance.findings:write")
            return client.post(FINDINGS, FINDING, headers=KEY).body

    assert post() == post()


def test_a_refusal_after_the_window_of_the_first_is_kept_anew(lite, clock):
    account = lite.accounts.create("Scanner", ["governance.findings:write"])
    gone = FINDING | {
        "subjectModuleKey": "assets",
        "subjectResourceType": "asset",
        "subjectResourceId": "asset_01J00000000000000000000000",
    }
    first = client_of(lite, account.client_id).post(FINDINGS, gone, headers=KEY)
    clock.advance(24 * 3600 + 900)
    client = client_of(lite, account.client_id)

    again, replayed = (client.post(FINDINGS, gone, headers=KEY) for _ in range(2))
    other = client.post(FINDINGS, gone | {"severity": "low"}, headers=KEY)

    assert (first.status, again.status, replayed.status) == (422, 422, 422)
    assert "idempotency-replayed" not in again.headers
    assert replayed.headers["idempotency-replayed"] == "true"
    assert other.status == 409
