"""Deployment policies and the gate."""

import itertools
import json

import jsonschema
import pytest
from stored import audit, events, ledger, tables

from novantra_lite import (
    FACTSTORE_SCOPES,
    AllowlistEntry,
    Approval,
    Artifact,
    Attestation,
    AuditEvent,
    BuildProvenance,
    Client,
    Environment,
    GateResult,
    Policy,
    PolicyModule,
    Trail,
    write_transaction,
)

FLOWS = "/api/v1/flows"
POLICIES = "/api/v1/policies"
DEPLOYMENT = "/api/v1/deployment-policies"
EVALUATE = "/api/v1/gate/evaluate"
RESULTS = "/api/v1/gate/results"
NOON = "2026-06-01T12:00:00.000000Z"
LATER = "2026-06-01T12:01:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "a" * 64
SPELLINGS = (DIGEST, DIGEST.upper(), DIGEST[7:], DIGEST[7:].upper())
UNKNOWN = "sha256:" + "f" * 64


class Story:
    """What other chapters record, put straight into a workspace."""

    def __init__(self, lite, flow):
        self.lite, self.flow = lite, flow

    def make(self, model, **values):
        """Make a record of another chapter."""
        return write_transaction(
            self.lite.workspace, lambda current: model.create(**values), actor="test"
        )

    def trail(self, status="PENDING", **values):
        return self.make(
            Trail,
            flow=self.flow,
            git_commit_sha="abc",
            git_branch="main",
            git_author="ann",
            git_author_email="ann@example.org",
            status=status,
            **values,
        )

    def artifact(self, trail, digest=DIGEST):
        return self.make(
            Artifact, trail=trail.id, image_name="shop", image_tag="1.0", sha256_digest=digest
        )

    def attest(self, trail, type, status="PASSED"):
        return self.make(Attestation, trail=trail.id, type=type, status=status)

    def approve(self, trail, status="APPROVED"):
        return self.make(Approval, trail=trail.id, flow=self.flow, status=status)

    def provenance(self, artifact, status):
        return self.make(
            BuildProvenance,
            artifact=artifact.id,
            builder_id="builder",
            builder_type="GENERIC",
            provenance_status=status,
            signature_verdict=status.removeprefix("PROVENANCE_"),
        )

    def environment(self, name):
        return self.make(Environment, name=name, type="K8S").id

    def allow(self, environment, **values):
        result = {"reason": "Needed for the night shift.", "approved_by": "ann"}
        return self.make(AllowlistEntry, environment=environment, **result | values)


@pytest.fixture
def story(lite, flow_id):
    return Story(lite, flow_id)


@pytest.fixture
def environment(story):
    return story.environment("production")


@pytest.fixture
def demand(factstore, flow_id):
    """Makes a deployment policy with these demands."""

    def make(name="careful", **demands):
        return factstore.post(DEPLOYMENT, {"name": name, "flowId": flow_id} | demands).json

    return make


@pytest.fixture
def attach(factstore):
    """Makes a policy with these demands, and attaches it to an environment."""

    def make(environment, name="strict", **demands):
        policy = factstore.post(POLICIES, {"name": name} | demands).json
        pair = {"policyId": policy["id"], "environmentId": environment}
        assert factstore.post("/api/v1/policy-attachments", pair).status == 201
        return policy

    return make


@pytest.fixture
def ask(factstore):
    """Asks the gate about an artifact."""

    def evaluate(digest=DIGEST, **more):
        answer = factstore.post(EVALUATE, {"artifactSha256": digest} | more)
        assert answer.status == 200
        return answer.json

    return evaluate


# --- Deployment policies ------------------------------------------------------


def test_a_deployment_policy_needs_a_name_and_a_flow(lite, factstore, flow_id):
    created = factstore.post(DEPLOYMENT, {"name": "careful", "flowId": flow_id})

    key = created.json["id"]
    assert created.status == 200
    assert list(created.json.items()) == [
        ("id", key),
        ("name", "careful"),
        ("description", ""),
        ("flowId", flow_id),
        ("environmentId", None),
        ("enforceProvenance", False),
        ("enforceApprovals", False),
        ("requiredAttestationTypes", []),
        ("isActive", True),
        ("createdAt", NOON),
        ("updatedAt", NOON),
        ("requireSignature", False),
        ("blockOnFailedScan", False),
    ]
    assert factstore.get(f"{DEPLOYMENT}/{key}").json == created.json
    assert audit(lite)[-1][1:3] == ("deployment_policy.created", key)
    assert ledger(lite)[-1] == ("DEPLOYMENT_POLICY_CREATED", key)
    assert events(lite) == []


def test_names_are_free_and_the_environment_need_not_be_there(factstore, flow_id):
    body = {
        "name": "careful",
        "description": "Before the weekend.",
        "flowId": flow_id,
        "environmentId": NOBODY,
        "enforceProvenance": True,
        "enforceApprovals": True,
        "requiredAttestationTypes": [" junit , snyk", ""],
        "requireSignature": True,
    }

    first = factstore.post(DEPLOYMENT, body)
    second = factstore.post(DEPLOYMENT, body | {"isActive": False})

    kept = body | {"requiredAttestationTypes": ["junit", "snyk"], "isActive": True}
    assert (first.status, second.status) == (200, 200)
    assert first.json.items() >= kept.items()
    assert second.json.items() >= kept.items()
    assert factstore.get(DEPLOYMENT).json == [first.json, second.json]


def test_the_flow_of_a_deployment_policy_must_be_there(lite, factstore):
    before = tables(lite)

    refused = factstore.post(DEPLOYMENT, {"name": "careful", "flowId": NOBODY})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert refused.json["message"] == f"There is no flow with the id {NOBODY}."
    assert tables(lite) == before


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": "x" * 256},
        {"flowId": None},
        {"flowId": "payments"},
        {"environmentId": "production"},
        {"enforceProvenance": "yes"},
        {"enforceApprovals": 1},
        {"requiredAttestationTypes": "junit"},
        {"requireSignature": []},
        {"description": "x" * 10_001},
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, flow_id, change):
    before = tables(lite)

    refused = factstore.post(DEPLOYMENT, {"name": "careful", "flowId": flow_id} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("none", ["", None])
def test_a_deployment_policy_may_be_of_no_environment(demand, none):
    assert demand(environmentId=none)["environmentId"] is None


def test_a_change_keeps_flow_and_environment(lite, factstore, clock, demand):
    policy = demand(environmentId=NOBODY, requiredAttestationTypes=["junit"])
    path = f"{DEPLOYMENT}/{policy['id']}"
    clock.advance(60)

    changed = factstore.put(
        path,
        {
            "flowId": policy["flowId"].upper(),
            "environmentId": None,
            "isActive": False,
            "description": "Asleep.",
            "requiredAttestationTypes": [],
            "requireSignature": None,
        },
    )
    clock.advance(60)
    empty = factstore.put(path, {})

    moved = {
        "isActive": False,
        "description": "Asleep.",
        "requiredAttestationTypes": [],
        "updatedAt": LATER,
    }
    assert (changed.status, changed.json) == (200, policy | moved)
    assert empty.json == policy | moved | {"updatedAt": "2026-06-01T12:02:00.000000Z"}
    assert factstore.get(DEPLOYMENT).json == [empty.json]
    assert audit(lite)[-1][1:3] == ("deployment_policy.updated", policy["id"])


@pytest.mark.parametrize("change", [{"flowId": NOBODY}, {"environmentId": NOBODY}])
def test_a_policy_is_not_moved_to_another_flow_or_environment(lite, factstore, demand, change):
    policy = demand()
    before = tables(lite)

    refused = factstore.put(f"{DEPLOYMENT}/{policy['id']}", change)

    assert (refused.status, refused.json["message"]) == (
        422,
        "A deployment policy keeps its flow and its environment; create another one.",
    )
    assert tables(lite) == before


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ({"requireApproval": True}, {"enforceApprovals": True}),
        ({"requireApproval": True, "enforceApprovals": True}, {"enforceApprovals": True}),
        ({"requireProvenance": True}, {"enforceProvenance": True}),
        ({"requiredAttestations": ["junit"]}, {"requiredAttestationTypes": ["junit"]}),
        ({"blockOnFailedScan": True}, {"blockOnFailedScan": True}),
        ({"enabled": True, "orgSlug": "acme", "id": NOBODY}, {"isActive": True}),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_all_that_the_guide_asks_for_is_stored(factstore, flow_id, demand, asked, stored, method):
    if method == "POST":
        answer = factstore.post(DEPLOYMENT, {"name": "careful", "flowId": flow_id} | asked)
    else:
        answer = factstore.put(f"{DEPLOYMENT}/{demand()['id']}", asked)

    assert answer.status == 200
    assert answer.json.items() >= stored.items()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"blockOnCritical": True}, "blockOnCritical: Unknown; expected one of name, description"),
        ({"minApprovals": 2}, "minApprovals: Unknown"),
        ({"rules": []}, "rules: Unknown"),
        ({"enforceTrailCompliance": True}, "enforceTrailCompliance: Unknown"),
        (
            {"requireApproval": True, "enforceApprovals": False},
            "requireApproval: Contradicts enforceApprovals",
        ),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_policy_that_asks_for_more_than_is_known_is_refused(
    lite, factstore, flow_id, demand, asked, message, method
):
    path = DEPLOYMENT if method == "POST" else f"{DEPLOYMENT}/{demand()['id']}"
    before = tables(lite)

    refused = factstore.request(method, path, json={"name": "new", "flowId": flow_id} | asked)

    assert (refused.status, refused.json["error"]) == (422, "Unprocessable Entity")
    rule = "Requirements of a policy are never ignored: "
    assert refused.json["message"].startswith(rule + message)
    assert tables(lite) == before


def test_a_flow_with_a_deployment_policy_stays(lite, factstore, flow_id, demand):
    policy = demand()

    refused = factstore.delete(f"{FLOWS}/{flow_id}")
    deleted = factstore.delete(f"{DEPLOYMENT}/{policy['id']}")
    again = factstore.delete(f"{DEPLOYMENT}/{policy['id']}")
    free = factstore.delete(f"{FLOWS}/{flow_id}")

    assert [refused.status, deleted.status, again.status, free.status] == [409, 204, 404, 204]
    assert "deployment policy" in refused.json["message"]
    assert ("deployment_policy.deleted", policy["id"]) in [entry[1:3] for entry in audit(lite)]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_deployment_policy_that_is_not_there_is_not_found(factstore, method):
    missing = factstore.request(method, f"{DEPLOYMENT}/{NOBODY}", json={})
    malformed = factstore.request(method, f"{DEPLOYMENT}/nonsense", json={})

    assert (missing.status, malformed.status) == (404, 400)
    assert NOBODY in missing.json["message"]


# --- The decision -------------------------------------------------------------


def test_without_policies_everything_may_pass(lite, factstore, ask):
    result = ask()

    assert list(result.items()) == [
        ("id", result["id"]),
        ("decision", "ALLOWED"),
        ("artifactSha256", DIGEST),
        ("environmentId", None),
        ("evaluatedAt", NOON),
        ("blockReasons", []),
        ("policiesEvaluated", 0),
        ("signatureVerified", None),
        ("reason", "No policy applies here."),
        ("policyName", ""),
        ("environment", ""),
        ("allowed", True),
    ]
    assert factstore.get(RESULTS).json == [result]


def test_every_evaluation_is_kept_audited_and_told(lite, factstore, ask, demand, environment):
    endpoint = lite.webhooks.add("https://hooks.example.com/gate", ["factstore.gate.evaluated"])
    demand(requiredAttestationTypes=["junit"])

    result = ask(environmentId=environment, requestedBy="ann")

    with lite.workspace.read():
        details = AuditEvent.select().order_by(AuditEvent.occurred_at.desc()).get()
        kept = GateResult.get()
    reason = (
        "Deployment policy 'careful' asks for a passed 'junit' attestation, "
        "but this artifact was not reported."
    )
    assert (result["decision"], result["blockReasons"]) == ("BLOCKED", [reason])
    assert (kept.id, kept.requested_by) == (result["id"], "ann")
    assert (details.event_type, details.actor) == ("GATE_BLOCKED", "ann")
    assert (details.environment_id, details.artifact_sha256, details.trail_id) == (
        environment,
        DIGEST,
        None,
    )
    assert json.loads(details.payload) == {
        "sha256Digest": DIGEST,
        "decision": "BLOCKED",
        "environmentId": environment,
        "policiesEvaluated": 1,
        "blockReasons": [reason],
    }
    assert ("GATE_RESULT_EVALUATED", result["id"]) in ledger(lite)
    assert events(lite) == [("factstore.gate.evaluated", {"gateResult": result})]
    assert endpoint["status"] == "enabled"
    assert lite.verify() == []


@pytest.mark.parametrize("asker", [{}, {"requestedBy": None}, {"requestedBy": ""}])
def test_who_asks_without_a_name_is_the_system(lite, ask, asker):
    ask(**asker)

    with lite.workspace.read():
        response = AuditEvent.get()
    assert (response.event_type, response.actor) == ("GATE_ALLOWED", "system")


@pytest.mark.parametrize(
    ("demands", "words"),
    [
        ({"requiredAttestationTypes": ["junit"]}, "a passed 'junit' attestation"),
        ({"enforceProvenance": True}, "a record of its provenance"),
        ({"enforceApprovals": True}, "an approval"),
        ({"requireSignature": True}, "a provenance signature that verifies"),
        ({"requireApproval": True}, "an approval"),
        ({"blockOnFailedScan": True}, "security scans, and none that failed"),
    ],
)
def test_a_deployment_policy_says_what_it_asks_for(ask, demand, story, demands, words):
    trail = story.trail()
    story.artifact(trail)
    demand(**demands)

    reported, unknown = ask(), ask(UNKNOWN)

    lacks = (
        f"Deployment policy 'careful' asks for {words}, which shop:1.0 of trail {trail.id} lacks."
    )
    nobody = f"Deployment policy 'careful' asks for {words}, but this artifact was not reported."
    assert (reported["decision"], reported["allowed"]) == ("BLOCKED", False)
    assert (reported["blockReasons"], reported["reason"]) == ([lacks], lacks)
    assert (reported["policyName"], reported["policiesEvaluated"]) == ("careful", 1)
    assert (unknown["decision"], unknown["blockReasons"]) == ("BLOCKED", [nobody])


@pytest.mark.parametrize(
    ("demands", "words"),
    [
        ({"requiredAttestationTypes": ["junit"]}, "a passed 'junit' attestation"),
        ({"enforceProvenance": True}, "a record of its provenance"),
        ({"enforceTrailCompliance": True}, "a compliant trail"),
        ({"requireSignature": True}, "a provenance signature that verifies"),
        ({"policyType": "SIGNATURE_REQUIRED"}, "a provenance signature that verifies"),
        ({"policyType": "APPROVAL_REQUIRED"}, "approval by 1 or more people"),
        ({"policyType": "APPROVAL_REQUIRED", "threshold": 2}, "approval by 2 or more people"),
        ({"policyType": "ATTESTATION_COUNT", "threshold": 3}, "3 or more passed attestations"),
    ],
)
def test_an_attached_policy_bites(ask, attach, story, environment, demands, words):
    trail = story.trail()
    story.artifact(trail)
    attach(environment, **demands)

    reported = ask(environmentId=environment)
    unknown = ask(UNKNOWN, environmentId=environment)

    assert reported["blockReasons"] == [
        f"Policy 'strict' asks for {words}, which shop:1.0 of trail {trail.id} lacks."
    ]
    assert unknown["blockReasons"] == [
        f"Policy 'strict' asks for {words}, but this artifact was not reported."
    ]
    assert (reported["policyName"], reported["policiesEvaluated"]) == ("strict", 1)


def test_what_meets_every_demand_is_allowed(factstore, ask, demand, attach, story, environment):
    factstore.put(f"{FLOWS}/{story.flow}", {"requiredAttestationTypes": ["junit"]})
    trail = story.trail()
    story.provenance(story.artifact(trail), "PROVENANCE_VERIFIED")
    story.attest(trail, "junit")
    story.approve(trail)
    values = {"requiredAttestationTypes": ["junit"], "enforceProvenance": True}
    demand(**values, enforceApprovals=True, requireSignature=True)
    attach(environment, **values, enforceTrailCompliance=True, requireSignature=True)

    result = ask(environmentId=environment)

    assert (result["decision"], result["blockReasons"]) == ("ALLOWED", [])
    assert (result["policiesEvaluated"], result["signatureVerified"]) == (2, True)
    assert (result["reason"], result["policyName"]) == ("Every policy is met.", "strict")
    assert (result["environmentId"], result["environment"]) == (environment, "production")


def test_reasons_come_policy_by_policy_and_name_the_first_that_blocks(
    ask, demand, attach, story, environment
):
    trail = story.trail()
    story.artifact(trail)
    demand("easy")
    demand("hard", requiredAttestationTypes=["snyk", "junit", "snyk"], requireSignature=True)
    attach(environment, enforceTrailCompliance=True)

    result = ask(environmentId=environment)

    lacks = f"which shop:1.0 of trail {trail.id} lacks."
    assert result["blockReasons"] == [
        f"Deployment policy 'hard' asks for a passed 'snyk' attestation, {lacks}",
        f"Deployment policy 'hard' asks for a passed 'junit' attestation, {lacks}",
        f"Deployment policy 'hard' asks for a provenance signature that verifies, {lacks}",
        f"Policy 'strict' asks for a compliant trail, {lacks}",
    ]
    assert result["reason"] == " ".join(result["blockReasons"])
    assert (result["policyName"], result["policiesEvaluated"]) == ("hard", 3)


def test_of_each_flow_the_trail_that_reported_an_artifact_last_is_looked_at(
    factstore, ask, demand, story
):
    mine, other = story.flow, factstore.post(FLOWS, {"name": "other"}).json["id"]
    trails = []
    for story.flow, status in (
        (mine, "FAILED"), (mine, "PASSED"), (other, "PASSED"), (other, "FAILED"),
    ):  # fmt: skip
        trails.append(story.trail())
        story.artifact(trails[-1])
        story.attest(trails[-1], "junit", status)
    demand(requiredAttestationTypes=["junit"])

    result = ask()

    assert result["blockReasons"] == [
        "Deployment policy 'careful' asks for a passed 'junit' attestation, "
        f"which shop:1.0 of trail {trails[-1].id} lacks."
    ]


@pytest.mark.parametrize(
    ("statuses", "decision"),
    [
        (["PASSED", "FAILED"], "BLOCKED"),
        (["PASSED", "FAILED", "PASSED"], "ALLOWED"),
        (["PASSED", "PENDING"], "ALLOWED"),
    ],
)
def test_the_latest_result_of_a_type_counts(ask, demand, story, statuses, decision):
    trail = story.trail()
    story.artifact(trail)
    for status in statuses:
        story.attest(trail, "junit", status)
    demand(requiredAttestationTypes=["junit"])

    assert ask()["decision"] == decision


def test_an_approval_counts_until_another_is_rejected(ask, demand, story):
    trail = story.trail()
    story.artifact(trail)
    demand(enforceApprovals=True)
    decisions = []

    for status in ("APPROVED", "PENDING_APPROVAL", "REJECTED", "APPROVED"):
        story.approve(trail, status)
        decisions.append(ask()["decision"])

    assert decisions == ["ALLOWED", "ALLOWED", "BLOCKED", "ALLOWED"]


@pytest.mark.parametrize("status", ["PENDING_APPROVAL", "REJECTED", "EXPIRED"])
def test_only_an_approval_that_was_granted_counts(ask, demand, story, status):
    trail = story.trail()
    story.artifact(trail)
    story.approve(trail, status)
    demand(enforceApprovals=True)

    before = ask()
    story.approve(trail)
    after = ask()

    assert (before["decision"], after["decision"]) == ("BLOCKED", "ALLOWED")


@pytest.mark.parametrize("status", ["PENDING", "NON_COMPLIANT"])
def test_only_a_compliant_trail_is_compliant(ask, attach, story, environment, status):
    story.artifact(story.trail(status))
    attach(environment, enforceTrailCompliance=True)

    result = ask(environmentId=environment)

    assert result["decision"] == "BLOCKED"


def test_a_signature_counts_only_when_it_was_verified_for_every_report(ask, demand, story):
    first = story.artifact(story.trail())
    story.provenance(first, "PROVENANCE_VERIFIED")
    demand(enforceProvenance=True)
    silent = ask()
    demand("signed", requireSignature=True)

    verified = ask()
    story.provenance(story.artifact(story.trail()), "PROVENANCE_UNVERIFIED")
    unverified = ask()

    assert (silent["decision"], silent["signatureVerified"]) == ("ALLOWED", None)
    assert (verified["decision"], verified["signatureVerified"]) == ("ALLOWED", True)
    assert (unverified["decision"], unverified["signatureVerified"]) == ("BLOCKED", False)
    assert [reason.split(" asks")[0] for reason in unverified["blockReasons"]] == [
        "Deployment policy 'signed'"
    ]
    assert ask(UNKNOWN)["signatureVerified"] is False


def test_a_digest_is_one_in_every_spelling(ask, demand, story):
    trail = story.trail()
    story.artifact(trail)
    story.attest(trail, "junit")
    demand(requiredAttestationTypes=["junit"])

    decisions = [ask(digest)["decision"] for digest in SPELLINGS]

    assert decisions == ["ALLOWED"] * 4
    assert ask(UNKNOWN)["decision"] == "BLOCKED"


# --- Rules --------------------------------------------------------------------


@pytest.fixture
def scan(factstore):
    """Records a scan of a trail through the API."""

    def record(trail, tool="trivy", **counts):
        body = {"tool": tool, "criticalVulnerabilities": 0} | counts
        answer = factstore.post(f"/api/v1/trails/{trail.id}/security-scans", body)
        assert answer.status == 201

    return record


def test_what_is_approved_and_scanned_is_let_through(factstore, ask, demand, story, scan):
    trail = story.trail()
    story.artifact(trail)
    demand(requireApproval=True, blockOnFailedScan=True)
    decisions = [ask()["blockReasons"]]
    story.approve(trail)
    decisions.append(ask()["blockReasons"])
    scan(trail)

    result = ask()

    asks, lacks = (
        "Deployment policy 'careful' asks for",
        f"which shop:1.0 of trail {trail.id} lacks.",
    )
    scans = f"{asks} security scans, and none that failed, {lacks}"
    assert decisions == [[f"{asks} an approval, {lacks}", scans], [scans]]
    assert (result["decision"], result["reason"]) == ("ALLOWED", "Every policy is met.")


@pytest.mark.parametrize(
    ("scans", "thresholds", "decision"),
    [
        ([("trivy", {})], None, "ALLOWED"),
        ([("trivy", {"mediumVulnerabilities": 3, "lowVulnerabilities": 9})], None, "ALLOWED"),
        ([("trivy", {"criticalVulnerabilities": 1})], None, "BLOCKED"),
        ([("trivy", {"highVulnerabilities": 1})], None, "BLOCKED"),
        ([("trivy", {"highVulnerabilities": 1})], {"maxHigh": 1}, "ALLOWED"),
        ([("trivy", {"mediumVulnerabilities": 3})], {"maxMedium": 2}, "BLOCKED"),
        ([("trivy", {"highVulnerabilities": 1}), ("grype", {})], None, "BLOCKED"),
        ([("grype", {}), ("trivy", {"highVulnerabilities": 1})], None, "BLOCKED"),
        ([("trivy", {"highVulnerabilities": 1}), ("trivy", {})], None, "ALLOWED"),
        ([("trivy", {}), ("trivy", {"highVulnerabilities": 1})], None, "BLOCKED"),
    ],
)
def test_the_latest_scan_of_every_tool_must_not_have_failed(
    factstore, flow_id, ask, demand, story, scan, scans, thresholds, decision
):
    if thresholds:
        factstore.post(f"{FLOWS}/{flow_id}/security-thresholds", thresholds)
    trail = story.trail()
    story.artifact(trail)
    demand(blockOnFailedScan=True)
    for tool, counts in scans:
        scan(trail, tool, **counts)

    result = ask()

    assert result["decision"] == decision


@pytest.mark.parametrize(
    ("type", "statuses", "decision"),
    [
        ("snyk", "PASSED", "ALLOWED"),
        ("Snyk", "PASSED", "ALLOWED"),
        ("trivy", "FAILED", "BLOCKED"),
        ("sarif", "FAILED PASSED", "ALLOWED"),
        ("cyclonedx", "PASSED FAILED", "BLOCKED"),
        ("grype", "PENDING", "BLOCKED"),
        ("junit", "PASSED", "BLOCKED"),
    ],
)
def test_evidence_of_a_scanner_is_a_scan_too(ask, demand, story, type, statuses, decision):
    trail = story.trail()
    story.artifact(trail)
    demand(blockOnFailedScan=True)
    for status in statuses.split():
        story.attest(trail, type, status)

    result = ask()

    assert result["decision"] == decision


@pytest.mark.parametrize(
    ("attestations", "decision"),
    [
        ("junit:PASSED snyk:PASSED", "BLOCKED"),
        ("junit:PASSED snyk:PASSED lint:PASSED", "ALLOWED"),
        ("junit:PASSED junit:PASSED junit:PASSED", "BLOCKED"),
        ("junit:PASSED snyk:PASSED lint:FAILED", "BLOCKED"),
        ("junit:PASSED snyk:PASSED lint:PENDING", "BLOCKED"),
        ("junit:PASSED snyk:PASSED lint:PASSED lint:FAILED", "BLOCKED"),
        ("junit:PASSED snyk:PASSED lint:FAILED lint:PASSED", "ALLOWED"),
    ],
)
def test_attestations_are_counted_by_their_latest_results(
    ask, attach, story, environment, attestations, decision
):
    trail = story.trail()
    story.artifact(trail)
    attach(environment, policyType="ATTESTATION_COUNT", threshold=3)
    for attestation in attestations.split():
        story.attest(trail, *attestation.split(":"))

    result = ask(environmentId=environment)

    assert result["decision"] == decision


def test_as_many_people_must_have_approved_as_the_threshold_says(
    lite, factstore, ask, attach, story, environment
):
    people = {
        name: Client(lite, {"X-Api-Key": lite.api_keys.create(name, FACTSTORE_SCOPES)["apiKey"]})
        for name in ("ann", "bob")
    }
    trail = story.trail()
    story.artifact(trail)
    attach(environment, policyType="APPROVAL_REQUIRED", threshold=2)
    decisions = []

    for person in ("ann", "ann", "bob"):
        path = f"/api/v1/trails/{trail.id}/approvals"
        approval = factstore.post(path, {"requiredApprovers": []}).json["id"]
        # Under which name somebody approves makes nobody two people.
        name = {"approverIdentity": f"approver {len(decisions)}"}
        assert people[person].post(f"/api/v1/approvals/{approval}/approve", name).status == 200
        decisions.append(ask(environmentId=environment)["decision"])

    assert decisions == ["BLOCKED", "BLOCKED", "ALLOWED"]


def test_a_signature_rule_asks_for_a_signature_that_verifies(ask, attach, story, environment):
    artifact = story.artifact(story.trail())
    attach(environment, policyType="SIGNATURE_REQUIRED")
    before = ask(environmentId=environment)
    story.provenance(artifact, "PROVENANCE_VERIFIED")

    after = ask(environmentId=environment)

    assert (before["decision"], before["signatureVerified"]) == ("BLOCKED", False)
    assert (after["decision"], after["signatureVerified"]) == ("ALLOWED", True)


@pytest.mark.parametrize(
    ("stored", "fault"),
    [
        ({"policy_type": "CUSTOM_WASM"}, "no WASM runtime is installed; known rules are "),
        ({"policy_evaluator": "wasm"}, "no WASM runtime is installed; known rules are "),
        ({"policy_type": "coverage", "threshold": 80}, "policyType 'coverage' is unknown; known"),
        ({"policy_type": "ATTESTATION_COUNT"}, "ATTESTATION_COUNT needs a whole number from 1 "),
        (
            {"policy_type": "ATTESTATION_COUNT", "threshold": "80 %"},
            "ATTESTATION_COUNT needs a whole number from 1 ",
        ),
        ({"threshold": "80 %"}, "a threshold belongs to ATTESTATION_COUNT and APPROVAL_REQUIRED"),
    ],
)
def test_a_policy_of_an_older_version_that_is_not_understood_stops_everything(
    ask, attach, story, environment, stored, fault
):
    policy = attach(environment)
    story.artifact(story.trail())
    rewrite_policy(story, policy["id"], stored)

    result = ask(environmentId=environment)

    [reason] = result["blockReasons"]
    rule = "Policy 'strict' cannot be enforced, so it stops everything: "
    assert (result["decision"], result["policyName"]) == ("BLOCKED", "strict")
    assert reason.startswith(rule + fault)


def rewrite_policy(story, key, values):
    """Store a policy as an older version did, which looked at nothing."""
    change = super(Policy, Policy).change
    write_transaction(
        story.lite.workspace, lambda current: change(Policy.find(key), **values), actor="test"
    )


def test_a_module_of_an_older_version_stops_everything(ask, attach, story, environment):
    policy = attach(environment)
    story.artifact(story.trail())
    story.make(PolicyModule, policy=policy["id"], wasm_content="AGFzbQ==")

    result = ask(environmentId=environment)

    assert result["blockReasons"] == [
        "Policy 'strict' cannot be enforced, so it stops everything: it has a WASM module, and no "
        "WASM runtime is installed."
    ]


def test_a_template_that_cannot_be_read_is_told_as_the_reason(ask, attach, story, environment):
    trail = story.trail(template_yaml="trial: {}")
    story.artifact(trail)
    attach(environment, enforceTrailCompliance=True)

    result = ask(environmentId=environment)

    [reason] = result["blockReasons"]
    assert reason.startswith(
        f"Policy 'strict' asks for a compliant trail, which shop:1.0 of trail {trail.id} lacks. "
        "Its template cannot be read: Line 1, column 1: a template has no member 'trial'; it has "
    )


def test_the_gate_takes_the_names_of_the_guide(factstore, demand, environment):
    demand(environmentId=environment, requiredAttestationTypes=["junit"])

    answer = factstore.post(EVALUATE, {"artifactDigest": DIGEST, "targetEnvironment": "production"})

    rows = (answer.json["artifactSha256"], answer.json["environment"], answer.json["allowed"])
    assert (answer.status, rows) == (200, (DIGEST, "production", False))


# --- Which policies hold ------------------------------------------------------


def test_an_environment_with_policies_of_its_own_asks_only_these(ask, demand, story, environment):
    staging = story.environment("staging")
    demand("everywhere", requiredAttestationTypes=["junit"])
    demand("production", environmentId=environment, enforceProvenance=True)
    demand("asleep", environmentId=environment, requireSignature=True)

    own, other, none = ask(environmentId=environment), ask(environmentId=staging), ask()

    assert own["policiesEvaluated"] == 3
    assert other["policiesEvaluated"] == none["policiesEvaluated"] == 3


def test_a_policy_of_no_environment_holds_beside_those_of_one(factstore, ask, demand, environment):
    demand("everywhere", requiredAttestationTypes=["junit"])
    before = ask(environmentId=environment)
    demand("empty", environmentId=environment)
    demand("elsewhere", environmentId=NOBODY, requireSignature=True)

    after = ask(environmentId=environment)

    reasons = [
        "Deployment policy 'everywhere' asks for a passed 'junit' attestation, "
        "but this artifact was not reported."
    ]
    assert (before["decision"], before["blockReasons"]) == ("BLOCKED", reasons)
    assert (after["decision"], after["blockReasons"]) == ("BLOCKED", reasons)
    assert after["policiesEvaluated"] == 2


def test_a_policy_that_is_attached_nowhere_is_a_draft(factstore, ask, environment):
    made = factstore.post(POLICIES, {"name": "draft", "policyType": "APPROVAL_REQUIRED"})

    result = ask(environmentId=environment)

    assert made.status == 201
    assert (result["decision"], result["policiesEvaluated"]) == ("ALLOWED", 0)


def test_an_inactive_policy_asks_nothing(factstore, ask, demand):
    policy = demand(requiredAttestationTypes=["junit"])
    factstore.put(f"{DEPLOYMENT}/{policy['id']}", {"isActive": False})

    result = ask()

    assert (result["decision"], result["policiesEvaluated"]) == ("ALLOWED", 0)


def test_attached_policies_hold_only_where_they_are_attached(ask, attach, story, environment):
    staging = story.environment("staging")
    attach(environment, enforceProvenance=True)

    here, there = ask(environmentId=environment), ask(environmentId=staging)

    assert (here["decision"], here["policiesEvaluated"]) == ("BLOCKED", 1)
    assert (there["decision"], there["policiesEvaluated"]) == ("ALLOWED", 0)


def test_a_mistyped_environment_does_not_get_around_attached_policies(
    ask, attach, story, environment
):
    attach(environment, enforceProvenance=True)
    attach(story.environment("staging"), "other", requiredAttestationTypes=["junit"])

    mistyped, without = ask(environment="prodction"), ask()
    gone = ask(environmentId=NOBODY)

    assert [record["policiesEvaluated"] for record in (mistyped, without, gone)] == [2, 2, 2]
    assert (mistyped["environmentId"], mistyped["environment"]) == (None, "")
    assert (gone["environmentId"], gone["environment"]) == (NOBODY, "")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"environment": "production"}, "production"),
        ({"environment": "production", "environmentId": ""}, "production"),
        ({"environment": "production", "environmentId": None}, "production"),
        ({"environment": "Production"}, ""),
        ({"environment": "", "environmentId": "", "flowId": "", "requestedBy": ""}, ""),
        ({"environment": None, "environmentId": None, "flowId": None}, ""),
        ({"environment": "production", "flowId": "no such flow"}, "production"),
    ],
)
def test_an_environment_is_known_by_name_too(ask, environment, given, meant):
    result = ask(**given)

    assert result["environment"] == meant
    assert result["environmentId"] == (environment if meant else None)


def test_an_id_and_a_name_must_be_of_one_environment(factstore, ask, story, environment):
    staging = story.environment("staging")

    result = ask(environmentId=staging.upper(), environment="staging")
    body = {"artifactSha256": DIGEST, "environmentId": staging, "environment": "production"}
    refused = factstore.post(EVALUATE, body)

    assert (result["environmentId"], result["environment"]) == (staging, "staging")
    assert (refused.status, "'production'" in refused.json["message"]) == (422, True)


@pytest.mark.parametrize(
    "change",
    [
        {"artifactSha256": None},
        {"artifactSha256": "x" * 64},
        {"artifactSha256": ""},
        {"artifactSha256": [DIGEST]},
        {"environmentId": "production"},
        {"environmentId": 5},
        {"requestedBy": "x" * 256},
        {"environment": {}},
    ],
)
def test_a_question_that_cannot_be_read_is_refused(lite, factstore, change):
    before = tables(lite)

    refused = factstore.post(EVALUATE, {"artifactSha256": DIGEST} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


# --- Allow-list ---------------------------------------------------------------


def test_an_artifact_on_the_allow_list_passes_at_once(
    lite, ask, demand, attach, story, environment
):
    story.allow(environment, sha256=DIGEST, expires_at=LATER)
    demand(requireSignature=True)
    attach(environment, enforceProvenance=True)

    by_id, by_name = ask(environmentId=environment), ask(environment="production")

    with lite.workspace.read():
        rows = [event.event_type for event in AuditEvent.select()]
    for result in (by_id, by_name):
        assert (result["decision"], result["blockReasons"]) == ("ALLOWED", [])
        assert (result["policiesEvaluated"], result["signatureVerified"]) == (0, None)
        assert result["reason"] == "The allow-list of environment 'production' has this artifact."
        assert result["policyName"] == ""
    assert rows == ["ENVIRONMENT_CREATED", "GATE_ALLOWED", "GATE_ALLOWED"]


@pytest.mark.parametrize(
    "entry",
    [
        {"sha256": DIGEST, "status": "REMOVED"},
        {"sha256": DIGEST, "expires_at": NOON},
        {"sha256": UNKNOWN},
        {"name_pattern": "shop"},
    ],
)
def test_an_entry_that_is_not_in_force_or_not_exact_lets_nothing_through(
    ask, demand, story, environment, entry
):
    story.artifact(story.trail())
    story.allow(environment, **entry)
    demand(requireSignature=True)

    result = ask(environmentId=environment)

    assert result["decision"] == "BLOCKED"


@pytest.mark.parametrize("position", range(4))
def test_an_entry_lets_a_digest_through_in_every_spelling(
    ask, demand, story, environment, position
):
    story.artifact(story.trail())
    # An older version stored what it was told.
    story.allow(environment, sha256=SPELLINGS[position])
    demand(requireSignature=True)

    decisions = [ask(digest, environmentId=environment)["decision"] for digest in SPELLINGS]

    assert decisions == ["ALLOWED"] * 4


def test_an_allow_list_is_of_one_environment(ask, demand, story, environment):
    story.allow(story.environment("staging"), sha256=DIGEST)
    demand(requireSignature=True)

    decisions = [ask(environmentId=environment)["decision"], ask()["decision"]]

    assert decisions == ["BLOCKED", "BLOCKED"]


# --- Results ------------------------------------------------------------------


def test_results_are_of_one_environment_and_the_newest_in_order(factstore, ask, story, environment):
    staging = story.environment("staging")
    requests = [ask(environmentId=key) for key in (environment, staging, environment, None)]
    requests.append(ask(environment="production"))
    first, other, third, nowhere, last = requests

    def results(**query):
        return factstore.get(RESULTS, **query).json

    assert results() == results(environment="", limit="") == requests
    assert results(limit=2) == [nowhere, last]
    assert results(limit=9) == requests
    assert results(environment="production") == [first, third, last]
    assert results(environment=environment.upper()) == [first, third, last]
    assert results(environment="production", limit=2) == [third, last]
    assert results(environment="staging", limit=20) == [other]
    assert results(environment="nowhere") == []


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5", "9" * 30])
def test_a_limit_is_a_number_from_1_on(factstore, limit):
    refused = factstore.get(RESULTS, limit=limit)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "limit" in refused.json["message"]


def test_results_outlive_what_they_are_about(lite, factstore, ask, demand, attach, environment):
    deployment = demand(requiredAttestationTypes=["junit"])
    policy = attach(environment, enforceProvenance=True)
    result = ask(environmentId=environment)

    factstore.delete(f"{DEPLOYMENT}/{deployment['id']}")
    factstore.delete(f"{POLICIES}/{policy['id']}")
    write_transaction(
        lite.workspace, lambda current: Environment.find(environment).remove(), actor="test"
    )

    assert result["policiesEvaluated"] == 2
    assert factstore.get(RESULTS).json == [result]
    assert factstore.get(RESULTS, environment=environment).json == [result]
    assert lite.verify() == []


def test_a_dry_run_tells_the_decision_and_keeps_nothing(lite, factstore, flow_id, demand):
    demand(requiredAttestationTypes=["junit"])
    before = tables(lite)

    evaluate = factstore.post(EVALUATE, {"artifactSha256": DIGEST}, dryRun="true")
    create = factstore.post(DEPLOYMENT, {"name": "x", "flowId": flow_id}, dryRun="true")
    missing = factstore.post(DEPLOYMENT, {"name": "x", "flowId": NOBODY}, dryRun="true")

    assert (evaluate.status, evaluate.json["dryRun"]) == (200, True)
    assert evaluate.json["result"]["decision"] == "BLOCKED"
    assert create.json["wouldCreate"]["name"] == "x"
    assert missing.status == 404
    assert tables(lite) == before


def test_the_number_of_queries_does_not_grow(lite, ask, demand, attach, story, environment):
    connection = lite.workspace.writer.database.connection()

    def queries():
        seen = []
        connection.set_trace_callback(seen.append)
        assert ask(environmentId=environment)["decision"] == "BLOCKED"
        connection.set_trace_callback(None)
        # What a trigger does is traced as the statement that set it off. The search index is
        # brought up to date before a commit, however much that holds.
        return [sql for sql, _ in itertools.groupby(seen) if "search" not in sql]

    values = {"requiredAttestationTypes": ["junit", "snyk"], "enforceProvenance": True}
    demand("deployment-0", **values, enforceApprovals=True)
    attach(environment, "policy-0", **values)
    story.artifact(story.trail())
    few = queries()
    for number in range(1, 11):
        demand(f"deployment-{number}", **values, enforceApprovals=True)
        attach(environment, f"policy-{number}", **values, requireSignature=True)
    for _ in range(10):
        trail = story.trail()
        story.provenance(story.artifact(trail), "PROVENANCE_UNVERIFIED")
        for type in ("junit", "snyk", "zap"):
            story.attest(trail, type)
        story.approve(trail)
    many = queries()

    assert len(few) == len(many) < 25


def test_an_answer_with_many_reasons_keeps_to_its_own_schema(lite, factstore, story):
    trail = story.trail()
    for _ in range(11):
        story.artifact(trail)
    types = [f"type-{number}" for number in range(100)]
    body = {"name": "all", "flowId": story.flow, "requiredAttestationTypes": types}
    factstore.post(DEPLOYMENT, body)
    schemas = factstore.get("/api/v1/openapi.json").json["components"]["schemas"]

    answer = factstore.post(EVALUATE, {"artifactSha256": DIGEST})

    assert (answer.status, len(answer.json["blockReasons"])) == (200, 101)
    assert answer.json["blockReasons"][100] == "1000 further reasons are not listed."
    jsonschema.validate(answer.json, schemas["GateEvaluateResponse"])
    with lite.workspace.read():
        payload = AuditEvent.get().payload
    jsonschema.validate(payload, schemas["AuditEventResponse"]["properties"]["payload"])
