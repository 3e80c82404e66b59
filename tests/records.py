"""Records of every chapter, each made through the API when a test first asks for its id."""

import base64
import contextlib
import http.server
import itertools
import json
import re
import threading

from conftest import NOON, WHY
from forms import FORM, form, part

DIGEST = "sha256:" + "a" * 64
#: SHA-256 of the text `abc` (FIPS 180-2, appendix B.1).
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
FILE = FORM, form(part(b"abc"))
COMMIT = {"gitCommitSha": "c0ffee", "gitBranch": "main"}
AUTHOR = {"gitAuthor": "Ann", "gitAuthorEmail": "ann@example.org"}
IMAGE = {"imageName": "shop", "imageTag": "1.0", "reportedBy": "ci", "sha256Digest": DIGEST}
ALLOWED = {"sha256": DIGEST, "reason": WHY, "approvedBy": "ann"}
CLAIMED = {"artifactSha256": DIGEST, "artifactName": "shop", "artifactTag": "1.0"}

#: By the name of its id: where a record is made, and with what. Words in braces are other ids;
#: {unique} is a text that was not there before.
MADE = {
    "slug": ("/organisations", {"slug": "{unique}", "name": "Acme"}),
    "provider": ("/organisations/{slug}/scm-integrations", {"provider": "GITHUB", "token": "x"}),
    "flowId": ("/flows", {"name": "{unique}", "orgSlug": "{slug}"}),
    "thresholdId": ("/flows/{flowId}/security-thresholds", {}),
    "trailId": ("/trails", COMMIT | AUTHOR | {"flowId": "{flowId}"}),
    "artifactId": ("/trails/{trailId}/artifacts", IMAGE),
    "provenanceId": (
        "/trails/{trailId}/artifacts/{artifactId}/provenance",
        {"builderId": "ci", "builderType": "GENERIC"},
    ),
    "attestationId": ("/trails/{trailId}/attestations", {"type": "junit", "status": "PASSED"}),
    "evidenceId": ("/trails/{trailId}/attestations/{attestationId}/evidence", FILE),
    "coverageId": ("/trails/{trailId}/coverage", {"tool": "jacoco", "lineCoverage": 80}),
    "approvalId": ("/trails/{trailId}/approvals", {"requiredApprovers": ["ann"]}),
    "environmentId": ("/environments", {"name": "{unique}", "type": "K8S"}),
    "snapshotId": (
        "/environments/{environmentId}/snapshots",
        {"recordedBy": "agent", "artifacts": [CLAIMED]},
    ),
    "baselineId": (
        "/environments/{environmentId}/baselines",
        {"snapshotId": "{snapshotId}", "approvedBy": "ann"},
    ),
    "entryId": ("/environments/{environmentId}/allowlist", ALLOWED),
    "logicalEnvironmentId": ("/logical-environments", {"name": "{unique}"}),
    "memberId": ("/logical-environments/{logicalEnvironmentId}/members/{environmentId}", {}),
    "policyId": ("/policies", {"name": "{unique}"}),
    "policyAttachmentId": (
        "/policy-attachments",
        {"policyId": "{policyId}", "environmentId": "{environmentId}"},
    ),
    "deploymentPolicyId": (
        "/deployment-policies",
        {"name": "{unique}", "flowId": "{flowId}", "environmentId": "{environmentId}"},
    ),
}
#: The member that names a record, where that is not its id.
NAMES = {"slug": "slug", "provider": "provider"}
#: Other words for what is among the records.
ALIASES = {"org": "slug", "trail": "trailId", "physicalEnvironmentId": "environmentId"}
#: What paths name by something else than an id.
TOLD = {"artifactFingerprint": DIGEST, "sha256": DIGEST, "sha256Hash": ABC, "index": "1"}
#: What must be there besides the records that its path names, for an operation to succeed.
NEEDS = {
    "GET /flows/{flowId}/security-thresholds": "thresholdId",
    "GET /artifacts": "artifactId",
    "GET /artifacts/{sha256}/provenance": "provenanceId",
    "GET /trails/{trailId}/artifacts/{artifactId}/provenance": "provenanceId",
    "POST /trails/{trailId}/artifacts/{artifactId}/provenance/verify": "provenanceId",
    "POST /attestations/{org}/{flow}/{trail}/{artifactFingerprint}": "artifactId",
    "GET /trails/{trailId}/attestations": "attestationId",
    "GET /trails/{trailId}/evidence": "evidenceId",
    "GET /attestations/{attestationId}/evidence": "evidenceId",
    "GET /evidence/{sha256Hash}": "evidenceId",
    "POST /trails/{trailId}/attestations/pull-request": "provider",
    "GET /trails/{trailId}/coverage": "coverageId",
    "GET /trails/{trailId}/approvals": "approvalId",
    "GET /environments/{environmentId}/snapshots": "snapshotId",
    "GET /environments/{environmentId}/snapshots/latest": "snapshotId",
    "GET /environments/{environmentId}/snapshots/{index}": "snapshotId",
    "GET /environments/{environmentId}/diff": "snapshotId",
    "GET /environments/{environmentId}/drift": "baselineId",
    "GET /environments/{environmentId}/allowlist": "entryId",
    "GET /environments/{environmentId}/baselines/current": "baselineId",
    "GET /logical-environments/{logicalEnvironmentId}/snapshots/latest": "memberId",
    "DELETE /logical-environments/{logicalEnvironmentId}/members/{physicalEnvironmentId}": (
        "memberId"
    ),
}
NUMBERS = itertools.count(1)


class Records(dict):
    """The ids of records by the names that paths and bodies have for them."""

    def __init__(self, lite, client):
        super().__init__(TOLD)
        self.lite, self.client = lite, client

    def __missing__(self, name):
        if name == "unique":
            return f"made-{next(NUMBERS)}"
        self[name] = found = self.find(name)
        return found

    def find(self, name):
        """The id for a name, of a record that is made for it."""
        if name in ALIASES:
            return self[ALIASES[name]]
        if name == "flow":
            return self.client.get(f"/api/v1/flows/{self['flowId']}").json["name"]
        return self.post(name) if name in MADE else getattr(self, name)()

    def prepare(self, method, path):
        """The path of an operation, with all that it needs to succeed."""
        needed = NEEDS.get(f"{method} {path[len('/api/v1') :]}")
        if needed:
            self[needed]
        return self.fill(path)

    def post(self, name):
        """Make a record through the API."""
        path, body = MADE[name]
        path = "/api/v1" + self.fill(path)
        if body is FILE:
            headers, content = FILE
            made = self.client.request("POST", path, body=content, headers=headers)
        else:
            made = self.client.post(path, self.fill(body))
        assert made.status in (200, 201), (name, made.body)
        return made.json[NAMES.get(name, "id")]

    def fill(self, value):
        """A path or a body with ids for the words in braces."""
        text = re.sub(r"{(\w+)}", lambda found: str(self[found[1]]), json.dumps(value))
        return json.loads(text)

    def make(self, collection, **members):
        """Make a record through the Python API; the API has no operation that does."""
        return self.lite.collection(collection).create(reason=WHY, **members)["id"]

    def findingId(self):
        return self.make("findings", findingKey=self["unique"], title="F", severity="low")

    def evidenceRequirementId(self):
        return self.make("evidence-requirements", requirementKey=self["unique"], title="R")

    def submissionRequirementId(self):
        return self.make(
            "submission-requirements",
            requirementKey=self["unique"],
            title="S",
            submissionKind="report",
        )

    def packageId(self):
        requirement = self["submissionRequirementId"]
        return self.make(
            "submission-packages",
            submissionRequirementId=requirement,
            packageKey=f"{self['unique']}-package",
            title="P",
        )

    def token(self):
        """An identity token as GitHub Actions hands it out, unused so far."""
        claims = {
            "iss": "https://token.actions.githubusercontent.com",
            "jti": self["unique"],
            "iat": int(NOON),
        }
        return f"{part_of_token({'alg': 'RS256'})}.{part_of_token(claims)}.c2ln"


def part_of_token(value):
    """One part of an identity token (RFC 7515, section 3.1)."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class Nothing(http.server.BaseHTTPRequestHandler):
    """What a source host without a single pull request says."""

    def do_GET(self):
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *told):
        """Keep quiet."""


@contextlib.contextmanager
def empty_source_hosts():
    """Entries of the setting `scm_hosts`: every provider is a server here that has nothing."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield tuple(f"{p}={url}" for p in ("GITHUB", "GITLAB", "BITBUCKET", "AZURE_DEVOPS"))
        server.shutdown()
        thread.join()
