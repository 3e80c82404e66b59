"""Policies and their attachments."""

import pytest
from stored import audit, events, ledger, tables

from novantra_lite import Environment, PolicyModule, write_transaction

POLICIES = "/api/v1/policies"
ATTACHMENTS = "/api/v1/policy-attachments"
NOON = "2026-06-01T12:00:00.000000Z"
LATER = "2026-06-01T12:01:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def policy(factstore):
    return factstore.post(POLICIES, {"name": "signed-only"}).json


@pytest.fixture
def environment(lite):
    return make_environment(lite, "production")


@pytest.fixture
def attachment(factstore, policy, environment):
    return factstore.post(
        ATTACHMENTS, {"policyId": policy["id"], "environmentId": environment}
    ).json


def make_environment(lite, name):
    """The id of an environment that was just made."""
    made = write_transaction(
        lite.workspace, lambda current: Environment.create(name=name, type="K8S"), actor="test"
    )
    return made.id


def test_a_policy_needs_only_a_name(lite, factstore):
    created = factstore.post(POLICIES, {"name": "signed-only"})

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("name", "signed-only"),
        ("enforceProvenance", False),
        ("enforceTrailCompliance", False),
        ("requiredAttestationTypes", []),
        ("orgSlug", None),
        ("createdAt", NOON),
        ("updatedAt", NOON),
        ("policyType", None),
        ("threshold", None),
        ("requireSignature", False),
        ("policyEvaluator", "opa"),
    ]
    assert factstore.get(f"{POLICIES}/{key.upper()}").json == created.json
    assert audit(lite)[-1][1:3] == ("policy.created", key)
    assert ledger(lite)[-1] == ("POLICY_CREATED", key)
    assert events(lite) == []


def test_everything_that_may_be_given_is_kept(factstore):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    body = {
        "name": "signed-only",
        "enforceProvenance": True,
        "enforceTrailCompliance": True,
        "requiredAttestationTypes": ["junit", "snyk"],
        "orgSlug": "acme",
        "policyType": "ATTESTATION_COUNT",
        "threshold": 3,
        "requireSignature": True,
        "policyEvaluator": "opa",
    }

    created = factstore.post(POLICIES, body | {"enabled": True, "description": "Ours"})

    assert created.status == 201
    assert created.json.items() >= body.items()
    assert "enabled" not in created.json


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"threshold": ""}, {"threshold": None}),
        ({"threshold": None}, {"threshold": None}),
        ({"threshold": 0}, {"threshold": 0}),
        ({"threshold": "80", "policyType": "ATTESTATION_COUNT"}, {"threshold": 80}),
        ({"threshold": 7.0, "policyType": "ATTESTATION_COUNT"}, {"threshold": 7}),
        ({"threshold": "", "policyType": "APPROVAL_REQUIRED"}, {"threshold": None}),
        ({"threshold": 2, "policyType": "APPROVAL_REQUIRED"}, {"threshold": 2}),
        ({"threshold": "", "policyType": "SIGNATURE_REQUIRED"}, {"threshold": None}),
        ({"requireProvenance": True}, {"enforceProvenance": True}),
        ({"requiredAttestations": ["a"]}, {"requiredAttestationTypes": ["a"]}),
        ({"requireSignature": True, "unknown": None}, {"requireSignature": True}),
        ({"requiredAttestationTypes": None}, {"requiredAttestationTypes": []}),
        ({"requiredAttestationTypes": [" a , b", ""]}, {"requiredAttestationTypes": ["a", "b"]}),
        ({"enforceProvenance": None}, {"enforceProvenance": False}),
        ({"policyType": ""}, {"policyType": ""}),
    ],
)
def test_members_are_taken_as_clients_send_them(factstore, given, kept):
    created = factstore.post(POLICIES, {"name": "signed-only"} | given)

    assert created.status == 201
    assert created.json.items() >= kept.items()
    assert factstore.get(f"{POLICIES}/{created.json['id']}").json == created.json


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": " "},
        {"name": "x" * 256},
        {"enforceProvenance": "yes"},
        {"enforceTrailCompliance": 1},
        {"requiredAttestationTypes": "junit"},
        {"requiredAttestationTypes": [["junit"]]},
        {"threshold": 1.5},
        {"threshold": True},
        {"threshold": [3]},
        {"threshold": 2**31},
        {"threshold": "x" * 256},
        {"threshold": "80 %"},
        {"threshold": "-5"},
        {"requireSignature": "true"},
        {"policyType": {}},
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, change):
    before = tables(lite)

    refused = factstore.post(POLICIES, {"name": "signed-only"} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"enforceAproval": True},
            "enforceAproval: Unknown; expected one of name, enforceProvenance",
        ),
        ({"requireApproval": True}, "requireApproval: Unknown"),
        ({"requireApproval": False}, "requireApproval: Unknown"),
        ({"yaml": "artifacts: {}"}, "yaml: Unknown"),
        ({"rules": [{"type": "APPROVAL_REQUIRED"}]}, "rules: Unknown"),
        ({"x" * 300: 1}, f"{'x' * 60}: Unknown"),
        (
            {"requireProvenance": True, "enforceProvenance": False},
            "requireProvenance: Contradicts enforceProvenance",
        ),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_policy_that_asks_for_more_than_is_known_is_refused(
    lite, factstore, policy, asked, message, method
):
    path = f"{POLICIES}/{policy['id']}" if method == "PUT" else POLICIES
    before = tables(lite)

    refused = factstore.request(method, path, json={"name": "other"} | asked)

    assert (refused.status, refused.json["error"]) == (422, "Unprocessable Entity")
    rule = "Requirements of a policy are never ignored: "
    assert refused.json["message"].startswith(rule + message)
    assert len(refused.json["message"]) < 400
    assert tables(lite) == before


KNOWN = "ATTESTATION_COUNT, APPROVAL_REQUIRED, SIGNATURE_REQUIRED"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"policyType": "CUSTOM_WASM"},
            f"no WASM runtime is installed; known rules are {KNOWN}, evaluated by 'opa'",
        ),
        (
            {"policyEvaluator": "wasm"},
            f"no WASM runtime is installed; known rules are {KNOWN}, evaluated by 'opa'",
        ),
        ({"policyType": "FOUR_EYES"}, f"policyType 'FOUR_EYES' is unknown; known are {KNOWN}"),
        (
            {"policyType": "approval_required"},
            f"policyType 'approval_required' is unknown; known are {KNOWN}",
        ),
        *(
            (
                {"policyType": "ATTESTATION_COUNT"} | threshold,
                "ATTESTATION_COUNT needs a whole number from 1 on as its threshold: how many "
                "attestations must have passed",
            )
            for threshold in ({}, {"threshold": ""}, {"threshold": 0}, {"threshold": -1})
        ),
        (
            {"policyType": "APPROVAL_REQUIRED", "threshold": 0},
            "APPROVAL_REQUIRED needs a whole number from 1 on as its threshold: how many people "
            "must have approved",
        ),
        (
            {"policyType": "SIGNATURE_REQUIRED", "threshold": 1},
            "a threshold belongs to ATTESTATION_COUNT and APPROVAL_REQUIRED only",
        ),
        ({"threshold": 80}, "a threshold belongs to ATTESTATION_COUNT and APPROVAL_REQUIRED only"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_rule_that_cannot_be_enforced_is_refused(lite, factstore, policy, rule, message, method):
    path = f"{POLICIES}/{policy['id']}" if method == "PUT" else POLICIES
    before = tables(lite)

    refused = factstore.request(method, path, json={"name": "other"} | rule)

    assert (refused.status, refused.json["error"]) == (422, "Unprocessable Entity")
    assert refused.json["message"] == f"This policy cannot be enforced: {message}."
    assert tables(lite) == before


def test_a_rule_can_be_changed_and_taken_away(factstore):
    rule = {"name": "counted", "policyType": "ATTESTATION_COUNT", "threshold": 3}
    path = f"{POLICIES}/{factstore.post(POLICIES, rule).json['id']}"

    changed = factstore.put(path, {"threshold": 4}).json
    half = factstore.put(path, {"policyType": "SIGNATURE_REQUIRED"})
    whole = factstore.put(path, {"policyType": "SIGNATURE_REQUIRED", "threshold": ""}).json
    none = factstore.put(path, {"policyType": ""}).json

    rows = [(record["policyType"], record["threshold"]) for record in (changed, whole, none)]
    assert half.status == 422
    assert rows == [("ATTESTATION_COUNT", 4), ("SIGNATURE_REQUIRED", None), ("", None)]


def test_a_name_is_taken_once(factstore, policy):
    other = factstore.post(POLICIES, {"name": "other"}).json

    again = factstore.post(POLICIES, {"name": "signed-only"})
    renamed = factstore.put(f"{POLICIES}/{other['id']}", {"name": "signed-only"})
    own = factstore.put(f"{POLICIES}/{other['id']}", {"name": "other"})

    assert [again.status, renamed.status, own.status] == [409, 409, 200]
    assert "signed-only" in again.json["message"]
    assert [record["name"] for record in factstore.get(POLICIES).json] == ["signed-only", "other"]


def test_an_organisation_that_is_not_there_is_not_found(factstore):
    refused = factstore.post(POLICIES, {"name": "signed-only", "orgSlug": "nobody"})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert "nobody" in refused.json["message"]
    assert factstore.get(POLICIES).json == []


def test_a_change_moves_only_what_is_given(lite, factstore, clock):
    policy = factstore.post(
        POLICIES,
        {
            "name": "a",
            "requiredAttestationTypes": ["junit"],
            "threshold": 2,
            "policyType": "APPROVAL_REQUIRED",
        },
    ).json
    clock.advance(60)

    changed = factstore.put(
        f"{POLICIES}/{policy['id']}",
        {
            "name": "b",
            "enforceTrailCompliance": True,
            "enforceProvenance": None,
            "requiredAttestationTypes": [],
            "orgSlug": "x",
            "threshold": 9,
            "requireSignature": True,
        },
    )

    moved = {
        "name": "b",
        "threshold": 9,
        "requireSignature": True,
        "enforceTrailCompliance": True,
        "requiredAttestationTypes": [],
        "updatedAt": LATER,
    }
    assert (changed.status, changed.json) == (200, policy | moved)
    assert factstore.get(f"{POLICIES}/{policy['id']}").json == policy | moved
    assert audit(lite)[-1][1:3] == ("policy.updated", policy["id"])


def test_an_empty_change_moves_the_time(factstore, clock, policy):
    clock.advance(60)

    changed = factstore.put(f"{POLICIES}/{policy['id']}", {})

    assert changed.json == policy | {"updatedAt": LATER}


def test_a_module_is_refused_since_nothing_can_evaluate_it(lite, factstore, policy):
    before = tables(lite)

    refused = factstore.put(f"{POLICIES}/{policy['id']}/wasm", {"wasmContent": "AGFzbQ=="})

    assert (refused.status, refused.json["error"]) == (422, "Unprocessable Entity")
    assert refused.json["message"].startswith("No WASM runtime is installed, ")
    assert tables(lite) == before


@pytest.mark.parametrize("body", [{}, {"wasmContent": None}, {"wasmContent": ["AGFzbQ=="]}])
def test_a_module_needs_its_text(lite, factstore, policy, body):
    before = tables(lite)

    refused = factstore.put(f"{POLICIES}/{policy['id']}/wasm", body)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "wasmContent" in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("key", [NOBODY, "nonsense"])
@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("PUT", "/wasm")]
)
def test_a_policy_that_is_not_there_is_not_found(factstore, method, below, key):
    refused = factstore.request(
        method, f"{POLICIES}/{key}{below}", json={"wasmContent": "x"} if below else {}
    )

    assert refused.status == (404 if key == NOBODY else 400)
    assert key != NOBODY or key in refused.json["message"]


def test_a_deleted_policy_takes_its_module_and_attachments_along(
    lite, factstore, policy, attachment
):
    module = {"policy": policy["id"], "wasm_content": "AGFzbQ=="}
    write_transaction(lite.workspace, lambda current: PolicyModule.create(**module), actor="test")

    deleted = factstore.delete(f"{POLICIES}/{policy['id']}")
    again = factstore.delete(f"{POLICIES}/{policy['id']}")

    gone = {entry[1] for entry in audit(lite)}
    assert (deleted.status, deleted.body, again.status) == (204, b"", 404)
    assert factstore.get(ATTACHMENTS).json == []
    assert gone >= {"policy.deleted", "policy_module.deleted", "policy_attachment.deleted"}
    assert lite.verify() == []


# --- Attachments --------------------------------------------------------------


def test_a_policy_is_attached_to_an_environment(lite, factstore, policy, environment):
    created = factstore.post(
        ATTACHMENTS, {"policyId": policy["id"].upper(), "environmentId": environment}
    )

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("policyId", policy["id"]),
        ("environmentId", environment),
        ("createdAt", NOON),
    ]
    assert factstore.get(f"{ATTACHMENTS}/{key}").json == created.json
    assert audit(lite)[-1][1:3] == ("policy_attachment.attached", key)
    assert ledger(lite)[-1] == ("POLICY_ATTACHMENT_ATTACHED", key)
    assert events(lite) == []


def test_a_policy_is_attached_to_an_environment_only_once(
    lite, factstore, policy, attachment, environment
):
    staging = make_environment(lite, "staging")

    again = factstore.post(ATTACHMENTS, {"policyId": policy["id"], "environmentId": environment})
    other = factstore.post(ATTACHMENTS, {"policyId": policy["id"], "environmentId": staging})

    assert (again.status, again.json["error"]) == (409, "Conflict")
    assert "signed-only" in again.json["message"] and "production" in again.json["message"]
    assert factstore.get(ATTACHMENTS).json == [attachment, other.json]


def test_the_policy_is_looked_for_first_then_the_environment(factstore, policy, environment):
    neither = factstore.post(ATTACHMENTS, {"policyId": NOBODY, "environmentId": NOBODY})
    no_environment = factstore.post(
        ATTACHMENTS, {"policyId": policy["id"], "environmentId": NOBODY}
    )
    no_policy = factstore.post(ATTACHMENTS, {"policyId": NOBODY, "environmentId": environment})

    assert [neither.status, no_environment.status, no_policy.status] == [404, 404, 404]
    assert neither.json["message"].startswith("There is no policy ")
    assert no_environment.json["message"].startswith("There is no environment ")
    assert factstore.get(ATTACHMENTS).json == []


@pytest.mark.parametrize(
    "change", [{"policyId": None}, {"environmentId": None}, {"policyId": "x"}, {"policyId": 5}]
)
def test_an_attachment_needs_two_ids(factstore, policy, environment, change):
    body = {"policyId": policy["id"], "environmentId": environment}

    refused = factstore.post(ATTACHMENTS, body | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]


@pytest.mark.parametrize("more", [{}, {"environmentId": None}, {"environmentId": "environment"}])
def test_a_policy_is_not_attached_to_a_flow(lite, factstore, policy, environment, more):
    flow = factstore.post("/api/v1/flows", {"name": "payments"}).json["id"]
    more = {name: value and environment for name, value in more.items()}

    refused = factstore.post(ATTACHMENTS, {"policyId": policy["id"], "flowId": flow} | more)

    assert (refused.status, refused.json["error"]) == (422, "Unprocessable Entity")
    assert "requiredAttestationTypes" in refused.json["message"]
    assert factstore.get(ATTACHMENTS).json == []


def test_the_yaml_of_a_policy_is_refused_with_the_other_ways(factstore):
    refused = factstore.post(POLICIES, {"name": "sbom", "yaml": "artifacts: {}"})

    assert refused.status == 422
    assert refused.json["message"].endswith(
        "Write the requirements of its YAML as members, as a template, or in Rego."
    )


def test_a_policy_can_be_detached(lite, factstore, attachment):
    path = f"{ATTACHMENTS}/{attachment['id']}"

    deleted = factstore.delete(path)
    again = factstore.delete(path)
    read = factstore.get(path)

    assert (deleted.status, deleted.body) == (204, b"")
    assert [again.status, read.status] == [404, 404]
    assert audit(lite)[-1][1:3] == ("policy_attachment.deleted", attachment["id"])


def test_a_deleted_environment_takes_its_attachments_along(
    lite, factstore, policy, attachment, environment
):
    write_transaction(
        lite.workspace, lambda current: Environment.find(environment).remove(), actor="test"
    )

    assert factstore.get(ATTACHMENTS).json == []
    assert factstore.get(POLICIES).json == [policy]
    assert "policy_attachment.deleted" in {entry[1] for entry in audit(lite)}
    assert lite.verify() == []


def test_a_dry_run_stores_nothing(lite, factstore, policy, attachment, environment):
    before, path = tables(lite), f"{POLICIES}/{policy['id']}"

    create = factstore.post(POLICIES, {"name": "other"}, dryRun="true")
    taken = factstore.post(POLICIES, {"name": "signed-only"}, dryRun="true")
    module = factstore.put(f"{path}/wasm", {"wasmContent": "AGFzbQ=="}, dryRun="true")
    unknown = factstore.post(POLICIES, {"name": "third", "rules": []}, dryRun="true")
    delete = factstore.delete(path, dryRun="true")
    again = factstore.post(
        ATTACHMENTS, {"policyId": policy["id"], "environmentId": environment}, dryRun="true"
    )
    detach = factstore.delete(f"{ATTACHMENTS}/{attachment['id']}", dryRun="true")

    assert [create.status, taken.status, again.status] == [200, 409, 409]
    assert (create.json["dryRun"], create.json["wouldCreate"]["name"]) == (True, "other")
    assert [module.status, unknown.status] == [422, 422]
    assert delete.json == {"dryRun": True, "wouldDelete": policy}
    assert detach.json == {"dryRun": True, "wouldDelete": attachment}
    assert tables(lite) == before
