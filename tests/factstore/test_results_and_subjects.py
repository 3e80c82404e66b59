"""Results, approvals and names count for what they are about: an artifact, a flow, a scanner."""

import pytest

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
STRICT = {"requiredAttestationTypes": ["junit"]}
BACKEND = "artifacts: [{name: backend, attestations: [{name: sbom}]}]"


class Pipeline:
    """A pipeline that reports to a flow."""

    def __init__(self, client, name="payments", **flow):
        self.client = client
        self.flow = self.make("/api/v1/flows", {"name": name} | flow)["id"]

    def make(self, path, body):
        answer = self.client.post(path, body)
        assert answer.status in (200, 201), answer.json
        return answer.json

    def trail(self, *digests, name="api"):
        body = {"flowId": self.flow, "gitCommitSha": "c0ffee", "gitBranch": "main"}
        body |= {"gitAuthor": "Ada", "gitAuthorEmail": "ada@example.org"}
        trail = f"/api/v1/trails/{self.make('/api/v1/trails', body)['id']}"
        for digest in digests:
            self.report(trail, digest, name)
        return trail

    def report(self, trail, digest, name="api"):
        self.make(
            f"{trail}/artifacts", {"imageName": name, "imageTag": "1", "sha256Digest": digest}
        )

    def attest(self, trail, type, status="PASSED", digest=None, **values):
        body = {"type": type, "status": status, "artifactFingerprint": digest} | values
        self.make(f"{trail.replace('v1', 'v2')}/attestations", body)

    def approve(self, trail):
        approval = self.make(f"{trail}/approvals", {"trailId": trail[-36:]})["id"]
        self.make(f"/api/v1/approvals/{approval}/approve", {"approverIdentity": "grace"})

    def told(self, digest, trail):
        """What assert, the artifact, its trail and the gate say."""
        asserted = self.make("/api/v1/assert", {"sha256Digest": digest, "flowId": self.flow})
        listed = self.client.get(f"{trail}/artifacts").json
        artifact = next(record for record in listed if record["sha256Digest"] == digest)
        gate = self.make("/api/v1/gate/evaluate", {"artifactSha256": digest})
        status = self.client.get(trail).json["status"]
        return asserted["status"], artifact["complianceState"], status, gate["decision"]

    def demand(self, **demands):
        self.make("/api/v1/deployment-policies", {"name": "careful", "flowId": self.flow} | demands)


GOOD = ("COMPLIANT", "COMPLIANT", "COMPLIANT", "ALLOWED")
BAD = ("NON_COMPLIANT", "NON_COMPLIANT", "PENDING", "BLOCKED")


def test_an_approval_covers_what_was_reported_before_it_was_decided(factstore, clock):
    pipeline = Pipeline(factstore, requiresApproval=True, **STRICT)
    pipeline.demand(requireApproval=True)
    trail = pipeline.trail(DIGEST)
    pipeline.attest(trail, "junit")
    pipeline.approve(trail)
    approved = pipeline.told(DIGEST, trail)

    clock.advance(60)
    pipeline.report(trail, OTHER)
    smuggled = pipeline.told(OTHER, trail)
    clock.advance(60)
    pipeline.approve(trail)

    assert (approved, smuggled) == (GOOD, BAD)
    assert pipeline.told(OTHER, trail) == GOOD


def test_reporting_an_approved_artifact_again_keeps_its_approval(factstore, clock):
    pipeline = Pipeline(factstore, requiresApproval=True, **STRICT)
    trail = pipeline.trail(DIGEST)
    pipeline.attest(trail, "junit")
    pipeline.approve(trail)

    clock.advance(60)
    pipeline.report(trail, DIGEST)

    assert pipeline.told(DIGEST, trail) == GOOD


def test_an_approval_for_another_flow_is_none(factstore):
    lax = Pipeline(factstore, "lax", requiresApproval=True, **STRICT)
    strict = Pipeline(factstore, "strict", requiresApproval=True, **STRICT)
    trail = lax.trail(DIGEST)
    lax.attest(trail, "junit")
    lax.approve(trail)

    asserted = [lax.told(DIGEST, trail)[0], strict.told(DIGEST, trail)[0]]

    assert asserted == ["COMPLIANT", "NON_COMPLIANT"]


@pytest.mark.parametrize("spelling", [DIGEST, DIGEST[7:].upper()])
def test_a_result_about_another_artifact_does_not_count(factstore, spelling):
    pipeline = Pipeline(factstore, **STRICT)
    pipeline.demand(requiredAttestationTypes=["junit"], blockOnFailedScan=True)
    trail = pipeline.trail(DIGEST, OTHER)
    pipeline.attest(trail, "trivy", "PASSED", spelling)
    pipeline.attest(trail, "junit", "PASSED", spelling)
    pipeline.attest(trail, "trivy", "FAILED", OTHER)
    pipeline.attest(trail, "junit", "FAILED", OTHER)
    pipeline.attest(trail, "trivy", "PASSED", spelling)
    pipeline.attest(trail, "junit", "PASSED", spelling)

    good, bad = pipeline.told(DIGEST, trail), pipeline.told(OTHER, trail)

    failing = "NON_COMPLIANT"
    assert good == ("COMPLIANT", "COMPLIANT", failing, "ALLOWED")
    assert bad == (failing, failing, failing, "BLOCKED")


def test_a_result_about_what_nobody_reported_makes_no_trail_compliant(factstore):
    pipeline = Pipeline(factstore, **STRICT)
    trail = pipeline.trail(DIGEST)

    pipeline.attest(trail, "junit", "PASSED", OTHER)
    foreign = factstore.get(trail).json["status"]
    pipeline.report(trail, OTHER)

    assert foreign == "PENDING"
    assert factstore.get(trail).json["status"] == "COMPLIANT"


def test_another_name_does_not_free_a_digest_of_what_its_first_name_needs(factstore):
    pipeline = Pipeline(factstore, templateYaml=BACKEND)
    pipeline.trail(DIGEST, name="backend")

    trail = pipeline.trail(DIGEST, name="anything")

    assert pipeline.told(DIGEST, trail)[:2] == ("NON_COMPLIANT", "NON_COMPLIANT")


def test_the_clean_result_of_another_scanner_does_not_undo_a_failure(factstore):
    pipeline = Pipeline(factstore, requiredAttestationTypes=["SECURITY_SCAN"])
    pipeline.demand(blockOnFailedScan=True)
    trail = pipeline.trail(DIGEST)

    for tool, critical in (("trivy", 3), ("zap", 0)):
        body = {"tool": tool, "criticalVulnerabilities": critical}
        pipeline.make(f"{trail}/security-scans", body)
    undone = pipeline.told(DIGEST, trail)
    pipeline.make(f"{trail}/security-scans", {"tool": "trivy", "criticalVulnerabilities": 0})

    assert undone == ("NON_COMPLIANT", "NON_COMPLIANT", "NON_COMPLIANT", "BLOCKED")
    assert pipeline.told(DIGEST, trail) == GOOD


def test_a_failure_without_a_name_is_not_undone_by_a_name_that_equals_its_type(factstore):
    pipeline = Pipeline(factstore, templateYaml="trail: {attestations: [{name: trivy}]}")
    trail = pipeline.trail(DIGEST)

    pipeline.attest(trail, "trivy", "FAILED")
    pipeline.attest(trail, "note", "PASSED", name="trivy")

    assert pipeline.told(DIGEST, trail)[:3] == ("NON_COMPLIANT",) * 3


@pytest.mark.parametrize("name", ["Production", "PRODUCTION", "ｐroduction"])
def test_an_environment_does_not_take_another_spelling_of_a_name(factstore, name):
    environments = "/api/v1/environments"
    factstore.post(environments, {"name": "production", "type": "K8S"})
    other = factstore.post(environments, {"name": "staging", "type": "K8S"}).json["id"]

    made = factstore.post(environments, {"name": name, "type": "K8S"})
    renamed = factstore.put(f"{environments}/{other}", {"name": name})
    kept = factstore.put(f"{environments}/{other}", {"name": "Staging", "type": "K8S"})

    assert (made.status, renamed.status, kept.status) == (409, 409, 200)
    assert "'production'" in made.json["message"]


@pytest.mark.parametrize(
    ("path", "body", "member"),
    [
        ("/api/v1/flows", {"name": "x"}, "requireApproval"),
        ("/api/v1/flows", {"name": "x"}, "enforceProvenance"),
        ("/api/v1/flows", {"name": "x"}, "templateYAML"),
        ("/api/v2/flows", {"name": "x"}, "required_attestation_types"),
        ("/api/v1/flows/{flow}/security-thresholds", {"maxHigh": 1}, "maxUnknown"),
        ("/api/v1/flows/{flow}/security-thresholds", {"maxHigh": 1}, "failOnUnknown"),
        ("{trail}/attestations", {"type": "junit"}, "minimumTests"),
        ("{trail}/approvals", {"trailId": DIGEST}, "minApprovals"),
    ],
)
def test_a_wish_that_is_not_known_is_refused(factstore, path, body, member):
    pipeline = Pipeline(factstore)
    trail = pipeline.trail()
    path = path.format(flow=pipeline.flow, trail=trail)
    body |= {"trailId": trail[-36:]} if "trailId" in body else {}

    refused = factstore.post(path, body | {member: True})
    described = factstore.post(path, body | {member: None, "color": "blue"})

    assert (refused.status, member in refused.json["message"]) == (422, True)
    assert described.status in (200, 201)
