"""The second version's operations on flows: short answers to writes, over the same rows."""

import threading

import pytest
from stored import audit, events, ledger, tables

FLOWS, FLOWS_V2 = "/api/v1/flows", "/api/v2/flows"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


def test_what_is_created_is_answered_in_short_and_is_a_flow_like_any_other(lite, factstore):
    created = factstore.post(FLOWS_V2, {"name": "payments", "requiredAttestations": ["junit"]})

    key = created.json["id"]
    assert created.status == 201
    assert created.json == {"id": key, "status": "created", "timestamp": NOON}
    assert factstore.get(f"{FLOWS_V2}/{key}").json["requiredAttestationTypes"] == ["junit"]
    assert factstore.get(f"{FLOWS_V2}/{key}").json == factstore.get(f"{FLOWS}/{key}").json
    assert audit(lite)[-1][1:3] == ("flow.created", key)
    assert ledger(lite)[-1] == ("FLOW_CREATED", key)
    assert events(lite) == []


def test_both_versions_list_the_same_flows(factstore, flow):
    second = factstore.post(FLOWS_V2, {"name": "billing"}).json

    listed = factstore.get(FLOWS_V2)

    assert [record["id"] for record in listed.json] == [flow["id"], second["id"]]
    assert listed.json == factstore.get(FLOWS).json


def test_a_change_is_answered_in_short(lite, factstore, clock, flow):
    clock.advance(60)

    changed = factstore.put(f"{FLOWS_V2}/{flow['id']}", {"description": "New"})

    later = "2026-06-01T12:01:00.000000Z"
    assert changed.status == 200
    assert changed.json == {"id": flow["id"], "status": "updated", "timestamp": later}
    assert factstore.get(f"{FLOWS}/{flow['id']}").json == flow | {
        "description": "New",
        "updatedAt": later,
    }
    assert audit(lite)[-1][1:3] == ("flow.updated", flow["id"])


def test_a_flow_deleted_in_one_version_is_gone_from_both(lite, factstore, flow):
    deleted = factstore.delete(f"{FLOWS_V2}/{flow['id']}")

    assert (deleted.status, deleted.body) == (204, b"")
    assert factstore.get(f"{FLOWS_V2}/{flow['id']}").status == 404
    assert factstore.get(f"{FLOWS}/{flow['id']}").status == 404
    assert audit(lite)[-1][1:3] == ("flow.deleted", flow["id"])


@pytest.mark.parametrize(("text", "parsed"), [("version: 2", {"version": 2}), (None, None)])
def test_a_template_is_given_as_text_and_as_json(factstore, text, parsed):
    key = factstore.post(FLOWS_V2, {"name": "payments", "templateYaml": text}).json["id"]

    response = factstore.get(f"{FLOWS_V2}/{key}/template")

    assert response.status == 200
    assert response.json == {"flowId": key, "templateYaml": text, "effectiveTemplate": parsed}


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("POST", {}, 400),
        ("POST", {"name": " "}, 400),
        ("POST", {"name": "billing", "orgSlug": "nobody"}, 404),
        ("POST", {"name": "payments"}, 409),
        ("PUT", {"visibility": "public"}, 400),
        ("PUT", {"name": "other"}, 409),
    ],
)
def test_a_refusal_is_that_of_the_first_version(lite, factstore, flow, method, body, status):
    factstore.post(FLOWS, {"name": "other"})
    paths = (f"{FLOWS}/{flow['id']}", f"{FLOWS_V2}/{flow['id']}")
    before = tables(lite)

    first, second = (
        factstore.request(method, path if method == "PUT" else path.rpartition("/")[0], json=body)
        for path in paths
    )

    assert (first.status, second.status) == (status, status)
    assert second.json == first.json
    assert tables(lite) == before


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("nonsense", 400)])
@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/template")]
)
def test_a_flow_that_is_not_there_is_refused(factstore, method, below, key, status):
    refused = factstore.request(method, f"{FLOWS_V2}/{key}{below}", json={})

    assert refused.status == status


def test_a_dry_run_tells_the_whole_flow_and_stores_nothing(lite, factstore, flow):
    path, dry = f"{FLOWS_V2}/{flow['id']}", {"dryRun": "true"}
    before = tables(lite)

    create = factstore.post(FLOWS_V2, {"name": "billing"}, **dry)
    change = factstore.put(path, {"name": "billing"}, **dry)
    delete = factstore.delete(path, **dry)

    assert [create.status, change.status, delete.status] == [200, 200, 200]
    assert create.json["wouldCreate"].items() >= {"name": "billing", "createdAt": NOON}.items()
    assert change.json == {"dryRun": True, "wouldUpdate": flow | {"name": "billing"}}
    assert delete.json == {"dryRun": True, "wouldDelete": flow}
    assert tables(lite) == before


def test_of_two_threads_that_create_one_name_one_is_refused(lite, factstore):
    start, answers = threading.Barrier(2), []

    def create(path):
        client = lite.client("factstore:write")
        start.wait()
        answers.append(client.post(path, {"name": "payments"}).status)

    threads = [threading.Thread(target=create, args=(path,)) for path in (FLOWS, FLOWS_V2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [201, 409]
    assert [flow["name"] for flow in factstore.get(FLOWS).json] == ["payments"]
