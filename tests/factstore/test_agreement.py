"""All that tells whether an artifact complies agrees, after every step of random pipelines."""

import random

import pytest
from multipart import upload

from factstore.trails import evidence_path

DIGEST = "sha256:" + "a" * 64
COMMIT = {"gitCommitSha": "f00d", "gitBranch": "main"}
AUTHOR = {"gitAuthor": "ada", "gitAuthorEmail": "ada@example.org"}
PASSING = b'<testsuite name="s" tests="1"><testcase name="t"/></testsuite>'
FAILING = (
    b'<testsuite name="s" tests="1" failures="1"><testcase name="t"><failure/></testcase>'
    b"</testsuite>"
)
TEMPLATE = 'trail: {attestations: [{name: unit}, {name: scan, if: flow.tags.tier == "1"}]}'
OWN = "trail: {attestations: [{name: unit}]}"
FLOWS = {
    "types": {"requiredAttestationTypes": ["junit", "snyk"]},
    "types and an approval": {"requiredAttestationTypes": ["junit"], "requiresApproval": True},
    "names": {"templateYaml": TEMPLATE, "tags": {"tier": "1"}},
    "names and an approval": {"templateYaml": TEMPLATE, "requiresApproval": True},
    "types, and names of the trails": {"requiredAttestationTypes": ["junit"], "ofTrails": OWN},
    "names, and more names of the trails": {"templateYaml": OWN, "ofTrails": TEMPLATE},
}


class Pipeline:
    """What a pipeline records, and beside it the plainest account of what must follow."""

    def __init__(self, client, clock, chance, flow):
        self.client, self.clock, self.chance = client, clock, chance
        flow = dict(flow)
        self.template, self.wants_approval = flow.pop("ofTrails", None), "requiresApproval" in flow
        self.types = set(flow.get("requiredAttestationTypes", []))
        self.names = {"unit"} if self.template or not self.types else set()
        if flow.get("tags"):
            self.names.add("scan")
        self.flow = self.make("/api/v1/flows", {"name": "payments"} | flow)
        self.environment = self.make("/api/v1/environments", {"name": "production", "type": "K8S"})
        policy = self.make("/api/v1/policies", {"name": "strict", "enforceTrailCompliance": True})
        attached = {"policyId": policy, "environmentId": self.environment}
        self.make("/api/v1/policy-attachments", attached)
        running = {"artifactSha256": DIGEST, "artifactName": "api", "artifactTag": "1"}
        snapshot = {"recordedBy": "agent", "artifacts": [running]}
        self.make(f"/api/v1/environments/{self.environment}/snapshots", snapshot)
        #: By trail: results in the order of their decision, and whether the last decision approves.
        self.results, self.approved, self.trail = {}, {}, None
        #: Attestations to upload to: id, trail, name, and whether they were declared to have
        #: failed; what each file of theirs says.
        self.open, self.files = [], {}
        self.begin()

    def make(self, path, body):
        """Create something; return its id."""
        created = self.client.post(path, body)
        assert created.status in (200, 201), created.json
        return created.json["id"]

    def begin(self):
        """Begin a trail and report the artifact on it."""
        body = {"flowId": self.flow, "templateYaml": self.template} | COMMIT | AUTHOR
        self.results[trail := self.make("/api/v1/trails", body)] = []
        self.report(trail)

    def report(self, trail):
        """Report the artifact, on a new trail or again on an older one."""
        artifact = {"imageName": "api", "imageTag": "1", "sha256Digest": DIGEST}
        self.make(f"/api/v1/trails/{trail}/artifacts", artifact)
        self.trail = trail

    def attest(self, trail):
        """Record a result, or an attestation that waits for one."""
        type = self.chance.choice(["junit", "snyk"])
        name = self.chance.choice(["unit", "scan", None])
        status = self.chance.choice(["PASSED", "PASSED", "FAILED", "PENDING"])
        body = {"type": type, "name": name, "status": status}
        key = self.make(f"/api/v1/trails/{trail}/attestations", body)
        if status != "PENDING":
            self.results[trail].append((type, name, status))
        if type == "junit":
            self.open.append((key, trail, name, status == "FAILED"))

    def evidence(self, trail):
        """Upload one of three files to any attestation, of any age and trail."""
        if not self.open:
            return
        key, trail, name, has_failed = self.chance.choice(self.open[-3:])
        file, passes = self.chance.choice(["a.xml", "b.xml", "c.xml"]), self.chance.random() < 0.7
        content = PASSING if passes else FAILING
        assert upload(self.client, evidence_path(trail, key), content, name=file).status == 201
        files = self.files.setdefault(key, {})
        files[file] = passes
        status = "PASSED" if all(files.values()) else "FAILED"
        # A declared failure stays where it was.
        if status == "FAILED" or not has_failed:
            self.results[trail].append(("junit", name, status))

    def approve(self, trail):
        """Ask for an approval, and decide it."""
        self.clock.advance(1)
        key = self.make(f"/api/v1/trails/{trail}/approvals", {"trailId": trail})
        decision = self.chance.choice(["approve", "approve", "reject"])
        path = f"/api/v1/approvals/{key}/{decision}"
        assert self.client.post(path, {"approverIdentity": "grace"}).status == 200
        self.approved[trail] = decision == "approve"

    def step(self):
        """Do anything that a pipeline does."""
        trail = self.chance.choice([self.trail, self.trail, *self.results])
        steps = (self.attest, self.attest, self.attest, self.evidence, self.evidence, self.approve)
        if self.chance.random() < 0.06:
            self.begin()
        elif self.chance.random() < 0.06:
            self.report(trail)
        else:
            self.chance.choice(steps)(trail)

    def expected(self, trail):
        """The status that a trail must have: the newest result of everything counts."""
        types, names, suites, either = {}, {}, {}, {}
        for type, name, status in self.results[trail]:
            types[type] = names[name] = suites[type, name] = status
            either[name or (type, "without a name")] = status
        last = [*(suites.values() if self.types else ()), *(either.values() if self.names else ())]
        if "FAILED" in last:
            return "NON_COMPLIANT"
        met = all(types.get(type) == "PASSED" for type in self.types)
        met &= all(names.get(name) == "PASSED" for name in self.names)
        met &= self.approved.get(trail, False) or not self.wants_approval
        return "COMPLIANT" if met else "PENDING"

    def told(self):
        """What each of those who tell of compliance says of the artifact."""
        get, post = self.client.get, self.client.post
        about = {"artifactSha256": DIGEST, "environmentId": self.environment}
        matches = post("/api/v1/assert", {"sha256Digest": DIGEST, "flowId": self.flow}).json
        custody = get(f"/api/v1/compliance/artifact/{DIGEST}").json
        reported = get(f"/api/v1/trails/{self.trail}/artifacts").json
        assert isinstance(reported, list), reported
        artifact = reported[-1]
        snapshot = get(f"/api/v1/environments/{self.environment}/snapshots/latest").json
        gate = post("/api/v1/gate/evaluate", about).json
        environment = get(f"/api/v1/environments/{self.environment}").json
        assert custody["trail"]["id"] == self.trail
        assert custody["artifact"] == artifact
        return {
            "assert": matches["status"],
            "custody": custody["complianceStatus"],
            "artifact": artifact["complianceState"],
            "snapshot": snapshot["artifacts"][0]["complianceState"],
            "environment": environment["complianceState"],
            "gate": "COMPLIANT" if gate["allowed"] else "NON_COMPLIANT",
        }


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_all_that_tells_of_compliance_agrees_after_every_step(factstore, clock, flow):
    pipeline = Pipeline(factstore, clock, random.Random(38), flow)
    seen = set()

    for _ in range(60):
        pipeline.step()
        clock.advance(10)

        statuses = {trail: pipeline.expected(trail) for trail in pipeline.results}
        status = statuses[pipeline.trail]
        state = "COMPLIANT" if status == "COMPLIANT" else "NON_COMPLIANT"
        listed = factstore.get("/api/v1/trails").json
        report = factstore.get("/api/v1/reports/compliance").json
        assert set(pipeline.told().values()) == {state}, pipeline.told()
        assert {record["id"]: record["status"] for record in listed} == statuses
        assert {record["id"] for record in report["nonCompliantTrailList"]} == {
            trail for trail, status in statuses.items() if status == "NON_COMPLIANT"
        }
        seen.add(status)

    assert seen == {"COMPLIANT", "NON_COMPLIANT", "PENDING"}
