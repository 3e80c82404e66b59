"""Flows and their security thresholds."""

import random

import pytest
from stored import audit, events, ledger, tables

from novantra_lite import NovantraLite

FLOWS = "/api/v1/flows"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


def test_a_flow_needs_only_a_name(lite, factstore):
    created = factstore.post(FLOWS, {"name": "payments"})

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("name", "payments"),
        ("description", ""),
        ("requiredAttestationTypes", []),
        ("tags", {}),
        ("orgSlug", None),
        ("templateYaml", None),
        ("createdAt", NOON),
        ("updatedAt", NOON),
        ("requiresApproval", False),
        ("requiredApproverRoles", []),
        ("visibility", "PRIVATE"),
    ]
    assert factstore.get(f"{FLOWS}/{key}").json == created.json
    assert factstore.get(f"{FLOWS}/{key.upper()}").json == created.json
    assert audit(lite)[-1][1:3] == ("flow.created", key)
    assert ledger(lite)[-1] == ("FLOW_CREATED", key)
    assert events(lite) == []


def test_everything_that_may_be_given_is_kept(factstore, acme):
    body = {
        "name": "payments",
        "description": "From commit to cash.",
        "requiredAttestationTypes": ["junit", "snyk"],
        "tags": {"team": "money", "tier": ""},
        "orgSlug": "acme",
        "templateYaml": "version: 1",
        "requiresApproval": True,
        "requiredApproverRoles": ["release-manager"],
        "visibility": "PUBLIC",
    }

    created = factstore.post(FLOWS, body | {"policyType": "x"})

    assert created.status == 201
    assert created.json.items() >= body.items()
    assert "policyType" not in created.json


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"requiredAttestationTypes": None}, []),
        ({"requiredAttestations": ["junit"]}, ["junit"]),
        ({"requiredAttestationTypes": [" junit , snyk", "", "junit"]}, ["junit", "snyk", "junit"]),
    ],
)
def test_attestation_types_are_taken_as_clients_send_them(factstore, given, kept):
    created = factstore.post(FLOWS, {"name": "payments"} | given)

    read = factstore.get(f"{FLOWS}/{created.json['id']}").json
    assert created.status == 201
    assert created.json["requiredAttestationTypes"] == kept
    assert read == created.json


def test_explicit_nulls_mean_the_defaults(factstore):
    nulls = dict.fromkeys(
        ("description", "tags", "orgSlug", "templateYaml", "requiresApproval", "visibility")
    )

    created = factstore.post(FLOWS, {"name": "payments", "requiredApproverRoles": None} | nulls)

    assert created.status == 201
    assert (created.json["description"], created.json["tags"]) == ("", {})
    assert (created.json["requiresApproval"], created.json["visibility"]) == (False, "PRIVATE")


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": " "},
        {"name": "x" * 256},
        {"description": "x" * 2049},
        {"requiredAttestationTypes": "junit"},
        {"requiredAttestationTypes": [["junit"]]},
        {"tags": ["team"]},
        {"tags": {"": "x"}},
        {"tags": {" ": "x"}},
        {"tags": {"x" * 65: "x"}},
        {"tags": {"team": "x" * 257}},
        {"tags": {f"tag-{number}": "x" for number in range(51)}},
        {"requiresApproval": "yes"},
        {"visibility": "public"},
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, change):
    before = tables(lite)

    refused = factstore.post(FLOWS, {"name": "payments"} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


def test_tags_reach_their_limits(factstore):
    tags = {f"{number:064}": "x" * 256 for number in range(50)}

    created = factstore.post(FLOWS, {"name": "payments", "tags": tags})

    assert (created.status, created.json["tags"]) == (201, tags)


def test_scalars_become_text_where_text_is_expected(factstore):
    created = factstore.post(
        FLOWS, {"name": 5, "tags": {"tier": 1, "live": True}, "requiredAttestationTypes": [7]}
    )

    assert created.status == 201
    assert created.json["name"] == "5"
    assert created.json["tags"] == {"tier": "1", "live": "true"}
    assert created.json["requiredAttestationTypes"] == ["7"]


def test_a_name_is_taken_once_also_across_organisations(factstore, acme, flow):
    refused = factstore.post(FLOWS, {"name": "payments", "orgSlug": "acme"})
    case = factstore.post(FLOWS, {"name": "Payments"})

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert "payments" in refused.json["message"]
    assert case.status == 201


def test_an_organisation_that_is_not_there_is_not_found(factstore):
    refused = factstore.post(FLOWS, {"name": "payments", "orgSlug": "nobody"})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert factstore.get(FLOWS).json == []


def test_the_list_is_a_bare_array_in_the_order_of_creation(factstore):
    names = [f"flow-{number}" for number in range(8)]
    for name in names:
        factstore.post(FLOWS, {"name": name})

    listed = factstore.get(FLOWS, page=0, size=1)

    assert [record["name"] for record in listed.json] == names


def test_an_organisation_lists_the_flows_of_its_slug(factstore, acme, flow):
    own = factstore.post(FLOWS, {"name": "own", "orgSlug": "acme"}).json

    response = factstore.get("/api/v1/organisations/acme/flows")
    none = factstore.get("/api/v1/organisations/nobody/flows")

    assert (response.status, response.json) == (200, [own])
    assert (none.status, none.json) == (200, [])


def test_a_change_moves_only_what_is_given_and_replaces_lists_and_maps(lite, factstore, clock):
    flow = factstore.post(
        FLOWS,
        {
            "name": "payments",
            "description": "Old",
            "tags": {"a": "1", "b": "2"},
            "requiredAttestationTypes": ["junit", "snyk"],
            "templateYaml": "version: 1",
        },
    ).json
    clock.advance(60)

    changed = factstore.put(
        f"{FLOWS}/{flow['id']}",
        {"tags": {}, "requiredAttestationTypes": ["zap"], "description": None, "orgSlug": "x"},
    )

    moved = {
        "tags": {},
        "requiredAttestationTypes": ["zap"],
        "updatedAt": "2026-06-01T12:01:00.000000Z",
    }
    assert (changed.status, changed.json) == (200, flow | moved)
    assert factstore.get(f"{FLOWS}/{flow['id']}").json == flow | moved
    assert audit(lite)[-1][1:3] == ("flow.updated", flow["id"])
    assert lite.verify() == []


def test_an_empty_change_moves_the_time(factstore, clock, flow):
    clock.advance(60)

    changed = factstore.put(f"{FLOWS}/{flow['id']}", {})

    assert changed.json == flow | {"updatedAt": "2026-06-01T12:01:00.000000Z"}


def test_a_flow_may_be_renamed_to_what_no_other_is_called(factstore, flow):
    other = factstore.post(FLOWS, {"name": "other"}).json
    path = f"{FLOWS}/{flow['id']}"

    own = factstore.put(path, {"name": "payments"})
    free = factstore.put(path, {"name": "billing"})
    taken = factstore.put(path, {"name": other["name"]})

    assert [own.status, free.status, taken.status] == [200, 200, 409]
    assert factstore.get(path).json["name"] == "billing"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [(None, None), ("version: 1\ntags: {team: [junit, {since: 2026-01-01}]}", ...)],
)
def test_a_template_is_given_as_text_and_as_json(factstore, text, parsed):
    flow = factstore.post(FLOWS, {"name": "payments", "templateYaml": text}).json

    response = factstore.get(f"{FLOWS}/{flow['id']}/template")

    if parsed is ...:
        parsed = {"version": 1, "tags": {"team": ["junit", {"since": "2026-01-01"}]}}
    assert response.status == 200
    assert list(response.json.items()) == [
        ("flowId", flow["id"]),
        ("templateYaml", text),
        ("effectiveTemplate", parsed),
    ]


def test_a_deleted_flow_is_gone_with_its_thresholds(lite, factstore, flow):
    factstore.post(f"{FLOWS}/{flow['id']}/security-thresholds", {})

    deleted = factstore.delete(f"{FLOWS}/{flow['id']}")
    again = factstore.delete(f"{FLOWS}/{flow['id']}")

    assert (deleted.status, deleted.body, again.status) == (204, b"", 404)
    assert factstore.get(f"{FLOWS}/{flow['id']}/security-thresholds").status == 404
    assert factstore.get(FLOWS).json == []
    assert ("flow.deleted", flow["id"]) in [entry[1:3] for entry in audit(lite)]
    assert lite.verify() == []


@pytest.mark.parametrize("key", [NOBODY, "nonsense", "x" * 300])
@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/template")]
)
def test_a_flow_that_is_not_there_is_not_found(factstore, method, below, key):
    refused = factstore.request(method, f"{FLOWS}/{key}{below}", json={})

    assert (refused.status, refused.json["error"]) in [(404, "Not Found"), (400, "Bad Request")]
    assert key != NOBODY or refused.status == 404


@pytest.mark.parametrize(
    "ask",
    [
        {"headers": {"X-Dry-Run": "true"}},
        {"headers": {"X-Factstore-Dry-Run": "TRUE"}},
        {"dryRun": "true"},
    ],
)
def test_a_dry_run_is_asked_for_in_any_of_three_ways(lite, factstore, flow, ask):
    before = tables(lite)

    create = factstore.post(FLOWS, {"name": "other"}, **ask)
    change = factstore.put(f"{FLOWS}/{flow['id']}", {"name": "other"}, **ask)
    delete = factstore.delete(f"{FLOWS}/{flow['id']}", **ask)
    taken = factstore.post(FLOWS, {"name": "payments"}, **ask)

    assert [create.status, change.status, delete.status, taken.status] == [200, 200, 200, 409]
    assert (create.json["dryRun"], create.json["wouldCreate"]["name"]) == (True, "other")
    assert (change.json["dryRun"], change.json["wouldUpdate"]["name"]) == (True, "other")
    assert delete.json == {"dryRun": True, "wouldDelete": flow}
    assert tables(lite) == before


def test_an_open_install_lets_loopback_callers_through_as_anonymous(clock):
    with NovantraLite(clock=clock, random=random.Random(7), factstore_auth="open") as lite:
        created = lite.client().post(FLOWS, {"name": "payments"})
        governed = lite.client().get("/api/v1/governance/controls")

        assert (created.status, governed.status) == (201, 401)
        assert audit(lite)[-1][:2] == ("anonymous", "flow.created")


# --- Security thresholds ------------------------------------------------------


def test_thresholds_are_not_there_until_they_are_set(factstore, flow):
    refused = factstore.get(f"{FLOWS}/{flow['id']}/security-thresholds")

    assert (refused.status, refused.json["error"]) == (404, "Not Found")


def test_thresholds_that_are_left_out_get_their_defaults(lite, factstore, flow):
    path = f"{FLOWS}/{flow['id']}/security-thresholds"

    created = factstore.post(path, {"maxHigh": 3})

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("flowId", flow["id"]),
        ("maxCritical", 0),
        ("maxHigh", 3),
        ("maxMedium", 10),
        ("maxLow", 2147483647),
        ("createdAt", NOON),
        ("updatedAt", NOON),
    ]
    assert factstore.get(path).json == created.json
    assert audit(lite)[-1][1:3] == ("security_threshold.created", key)
    assert ledger(lite)[-1] == ("SECURITY_THRESHOLD_CREATED", key)


def test_overwriting_thresholds_sets_what_is_left_out_back(lite, factstore, clock, flow):
    path = f"{FLOWS}/{flow['id']}/security-thresholds"
    first = factstore.post(path, {"maxHigh": 3, "maxLow": 5}).json
    clock.advance(60)

    second = factstore.post(path, {"maxCritical": 1})

    assert second.status == 201
    assert second.json == first | {
        "maxCritical": 1,
        "maxHigh": 0,
        "maxLow": 2147483647,
        "updatedAt": "2026-06-01T12:01:00.000000Z",
    }
    assert audit(lite)[-1][1:3] == ("security_threshold.updated", first["id"])


@pytest.mark.parametrize("value", ["3.0", "three", 1.5, 2**31, -(2**31) - 1, [], True])
def test_a_threshold_is_a_number_of_32_bits(factstore, flow, value):
    refused = factstore.post(f"{FLOWS}/{flow['id']}/security-thresholds", {"maxHigh": value})

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "maxHigh" in refused.json["message"]


def test_a_number_may_be_sent_as_text(factstore, flow):
    """As clients of the Factstore surface do."""
    path = f"{FLOWS}/{flow['id']}/security-thresholds"

    made = factstore.post(path, {"maxHigh": "3", "maxLow": 4})

    assert (made.status, made.json["maxHigh"], made.json["maxLow"]) == (201, 3, 4)


def test_the_flows_of_an_organisation_are_listed_under_its_slug_and_its_uuid(factstore):
    made = factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"}).json
    factstore.post("/api/v1/flows", {"name": "shop", "orgSlug": "acme"})

    rows = [
        [flow["name"] for flow in factstore.get(f"/api/v1/organisations/{key}/flows").json]
        for key in ("acme", made["id"], made["id"].upper(), "nobody")
    ]

    assert rows == [["shop"], ["shop"], ["shop"], []]


@pytest.mark.parametrize(("header", "parameter"), [("false", "true"), ("true", "false")])
def test_a_dry_run_is_asked_for_by_the_header_or_the_parameter(factstore, header, parameter):
    headers = {"X-Factstore-Dry-Run": header}

    response = factstore.post(
        f"/api/v1/flows?dryRun={parameter}", {"name": "rehearsed"}, headers=headers
    )

    assert response.status == 200
    assert factstore.get("/api/v1/flows").json == []
