"""Records of every chapter, each made through the API when a test first asks for its id."""

import base64
import contextlib
import hmac
import http.server
import itertools
import json
import re
import threading

from conftest import NOON, WHY
from multipart import FORM, form, part
from peewee import ForeignKeyField

from novantra_lite import RESOURCES

DIGEST = "sha256:" + "a" * 64
#: SHA-256 of the text `abc` (FIPS 180-2, appendix B.1).
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
FILE = FORM, form(part(b"abc"))
COMMIT = {"gitCommitSha": "c0ffee", "gitBranch": "main"}
AUTHOR = {"gitAuthor": "Ann", "gitAuthorEmail": "ann@example.org"}
IMAGE = {"imageName": "shop", "imageTag": "1.0", "reportedBy": "ci", "sha256Digest": DIGEST}
ALLOWED = {"sha256": DIGEST, "reason": WHY, "approvedBy": "ann"}
REGO = "package shop\n\nimport rego.v1\n\nallow if input.artifactName\n"
DOCUMENT = {"evidenceType": "review", "data": {"result": "good"}}
#: What every caller signs with who is known by a signature.
SECRET = "signing-secret"
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
    "userId": ("/users", {"email": "{unique}@example.org", "name": "Ann"}),
    "placeId": ("/organisations/{slug}/members", {"email": "{email}", "role": "MEMBER"}),
    "serviceAccountId": ("/service-accounts", {"name": "{unique}"}),
    "keyId": ("/service-accounts/{serviceAccountId}/api-keys", {"label": "ci"}),
    "apiKeyId": (
        "/api-keys",
        {"ownerId": "{ownerId}", "ownerType": "SERVICE_ACCOUNT", "label": "ci"},
    ),
    "ssoId": (
        "/organisations/{slug}/sso",
        {"provider": "OKTA", "issuerUrl": "{issuer}", "clientId": "shop"},
    ),
    "bundleId": ("/opa/bundles", {"name": "{unique}", "version": "1", "regoContent": REGO}),
    "scanId": ("/trails/{trailId}/security-scans", {"tool": "trivy"}),
    "frameworkId": ("/frameworks", {"name": "{unique}", "version": "1"}),
    "regulatoryControlId": (
        "/frameworks/{frameworkId}/controls",
        {"controlId": "C-1", "title": "Tested", "requiredEvidenceTypes": ["junit"]},
    ),
    "mappingId": (
        "/compliance/mappings",
        {
            "regulatoryControlId": "{regulatoryControlId}",
            "flowId": "{flowId}",
            "attestationType": "junit",
        },
    ),
    "assessmentId": (
        "/compliance/assess",
        {"frameworkId": "{frameworkId}", "trailId": "{trailId}"},
    ),
    "documentId": ("/evidence/{evidenceKey}/{entityKey}", DOCUMENT),
    "ruleId": (
        "/notification-rules",
        {"name": "{unique}", "triggerEvent": "GATE_BLOCKED", "channelType": "IN_APP"},
    ),
    "webhookConfigId": (
        "/webhook-configs",
        {"source": "GENERIC", "secret": SECRET, "flowId": "{flowId}"},
    ),
    "slackId": (
        "/organisations/{slug}/slack",
        {"botToken": "xoxb-1", "signingSecret": SECRET, "channel": "#releases"}
        | {"approvers": {"UANN": "ann"}},
    ),
    "jiraId": (
        "/integrations/jira/config",
        {
            "jiraBaseUrl": "{site}",
            "jiraUsername": "robot",
            "jiraApiToken": "x",
            "defaultProjectKey": "OPS",
        },
    ),
    "confluenceId": (
        "/integrations/confluence/config",
        {
            "confluenceBaseUrl": "{site}",
            "confluenceUsername": "robot",
            "confluenceApiToken": "x",
            "defaultSpaceKey": "OPS",
        },
    ),
}
#: The member that names a record, where that is not its id.
NAMES = {"slug": "slug", "provider": "provider", "placeId": "userId", "documentId": "vaultPath"}
#: Other words for what is among the records.
ALIASES = {
    "org": "slug",
    "trail": "trailId",
    "physicalEnvironmentId": "environmentId",
    "ownerId": "serviceAccountId",
    # Whatever the ledger has proofs of.
    "recordId": "flowId",
}
#: What paths name by something else than an id.
TOLD = {
    "artifactFingerprint": DIGEST,
    "sha256": DIGEST,
    # The digest of an evidence file, and what a document of the vault is about.
    "evidenceKey": ABC,
    "entityKey": "42",
    "evidenceType": "review",
    "index": "1",
    "q": "shop",
    "template": "sox-itgc",
    "source": "generic",
}
#: What must be there besides the records that its path names, for an operation to succeed.
NEEDS = {
    "GET /flows/{flowId}/security-thresholds": "thresholdId",
    "GET /artifacts": "artifactId",
    "GET /artifacts/{artifactKey}/provenance": "provenanceId",
    "GET /trails/{trailId}/artifacts/{artifactId}/provenance": "provenanceId",
    "POST /trails/{trailId}/artifacts/{artifactId}/provenance/verify": "provenanceId",
    "POST /attestations/{org}/{flow}/{trail}/{artifactFingerprint}": "artifactId",
    "GET /trails/{trailId}/attestations": "attestationId",
    "GET /trails/{trailId}/evidence": "evidenceId",
    "GET /attestations/{attestationId}/evidence": "evidenceId",
    "GET /evidence/{evidenceKey}": "evidenceId",
    "GET /evidence/{evidenceKey}/{entityKey}": "documentId",
    "GET /evidence/{evidenceKey}/{entityKey}/list": "documentId",
    "GET /evidence/{evidenceKey}/{entityKey}/download": "documentId",
    "DELETE /evidence/{evidenceKey}/{entityKey}": "documentId",
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
    "GET /users": "userId",
    "GET /organisations/{slug}/members": "placeId",
    "GET /organisations/{slug}/members/{userId}": "placeId",
    "PUT /organisations/{slug}/members/{userId}": "placeId",
    "DELETE /organisations/{slug}/members/{userId}": "placeId",
    "GET /service-accounts/{serviceAccountId}/api-keys": "keyId",
    "GET /api-keys/owners/{ownerId}": "apiKeyId",
    "GET /organisations/{slug}/sso": "ssoId",
    "PUT /organisations/{slug}/sso": "ssoId",
    "DELETE /organisations/{slug}/sso": "ssoId",
    "POST /organisations/{slug}/sso/test": "ssoId",
    "GET /organisations/{slug}/sso/login": "ssoId",
    "GET /organisations/{slug}/sso/callback": "ssoId",
    "GET /opa/bundles": "bundleId",
    "GET /opa/decisions": "decisionId",
    "POST /opa/evaluate": "activeBundleId",
    "GET /trails/{trailId}/security-scans": "scanId",
    "GET /security-scans/summary": "scanId",
    "GET /compliance/mappings": "mappingId",
    "GET /compliance/assessments": "assessmentId",
    "GET /compliance/artifact/{sha256}": "artifactId",
    "GET /reports/regulatory/{frameworkId}": "assessmentId",
    "GET /notifications": "notificationId",
    "GET /notifications/unread-count": "notificationId",
    "POST /notifications/read-all": "notificationId",
    "GET /notification-rules": "ruleId",
    "GET /notification-rules/{ruleId}/deliveries": "notificationId",
    "GET /webhook-configs": "webhookConfigId",
    "GET /webhook-configs/{webhookConfigId}/deliveries": "deliveryId",
    "POST /webhooks/{source}": "webhookConfigId",
    "GET /organisations/{slug}/slack": "slackId",
    "DELETE /organisations/{slug}/slack": "slackId",
    "POST /organisations/{slug}/slack/notify/trail-non-compliant": "slackId",
    "POST /organisations/{slug}/slack/notify/approval-requested": "slackId",
    "POST /organisations/{slug}/slack/commands": "slackId",
    "POST /organisations/{slug}/slack/actions": "slackId",
    "GET /integrations/jira/config": "jiraId",
    "POST /integrations/jira/test": "jiraId",
    "GET /integrations/jira/tickets": "ticketId",
    "POST /integrations/jira/tickets": "jiraId",
    "POST /integrations/jira/sync": "lackingTrailId",
    "GET /audit": "auditEventId",
    "GET /search": "artifactId",
    "GET /reports/compliance": "lackingTrailId",
    "GET /ledger/entries": "recordId",
    "POST /ledger/verify-chain": "recordId",
    "GET /integrations/confluence/config": "confluenceId",
    "POST /integrations/confluence/test": "confluenceId",
}
NUMBERS = itertools.count(1)


def example(field):
    """A valid value of a field; the id of a record as a word in braces."""
    if isinstance(field, ForeignKeyField):
        items = {resource.model: resource.item for resource in RESOURCES if resource.verbs}
        return f"{{{items[field.rel_model]}}}"
    schema = field.describe()
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("format") in EXAMPLES:
        return EXAMPLES[schema["format"]]
    types = schema["type"]
    return EXAMPLES[types if isinstance(types, str) else types[0]]


def example_body(operation):
    """A body with every member of a standard operation's schema."""
    return {member: example(field) for member, (_, field) in operation.body.members.items()}


class Records(dict):
    """The ids of records by the names that paths and bodies have for them."""

    def __init__(self, lite, client):
        super().__init__(TOLD)
        self.lite, self.client = lite, client

    def __missing__(self, name):
        if name == "unique":
            return f"made-{next(NUMBERS)}"
        self[name] = result = self.find(name)
        return result

    def find(self, name):
        """The id for a name, of a record that is made for it."""
        if name in ALIASES:
            return self[ALIASES[name]]
        if name == "flow":
            return self.client.get(f"/api/v1/flows/{self['flowId']}").json["name"]
        if name in MADE:
            return self.post(name)
        return getattr(self, name)() if hasattr(self, name) else self.create(name)

    def create(self, name):
        """Create a record of a resource with the standard verbs."""
        (resource,) = (r for r in RESOURCES if r.item == name and "create" in r.verbs.split())
        operations = resource.surface.operations
        (create,) = (o for o in operations if o.resource is resource and o.name == "create")
        created = self.client.post(self.fill(create.path), self.fill(example_body(create)))
        assert created.status == 201, (name, created.body)
        return (created.json.get(resource.noun) or created.json)["id"]

    def prepare(self, method, path):
        """The path of an operation, with all that it needs to succeed."""
        needed = NEEDS.get(f"{method} {path[len('/api/v1') :]}")
        if needed:
            self[needed]
        if "{artifactKey}" in path:
            # A digest where provenance is asked for, or else an id.
            self["artifactKey"] = DIGEST if path.endswith("/provenance") else self["artifactId"]
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

        def named(matches):
            return json.dumps(self[matches[1]])[1:-1]

        return json.loads(re.sub(r"{(\w+)}", named, json.dumps(value)))

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

    def email(self):
        return self.client.get(f"/api/v1/users/{self['userId']}").json["email"]

    def issuer(self):
        """The identity provider that the install may ask though it is on this machine."""
        return self.lite.settings.sso_private_issuers[0]

    def site(self):
        """The server on this machine that is Slack, Jira, Confluence and what notifications go to.

        It is told to the install as Slack.
        """
        return self.lite.settings.slack_url

    def activeBundleId(self):
        key = self["bundleId"]
        assert self.client.put(f"/api/v1/opa/bundles/{key}/activate", {}).status == 200
        return key

    def decisionId(self):
        self["activeBundleId"]
        return self.client.post("/api/v1/opa/evaluate", {"artifactName": "shop"}).json["id"]

    def auditEventId(self):
        """Something that happened to a trail."""
        self["trailId"]
        self["artifactId"]
        return self.client.get("/api/v1/audit").json["events"][0]["id"]

    def notificationId(self):
        tested = self.client.post(f"/api/v1/notification-rules/{self['ruleId']}/test", {})
        assert tested.status == 202
        return self.client.get("/api/v1/notifications").json[0]["id"]

    def deliveryId(self):
        """A webhook that was taken, by the id that its sender gave it."""
        self["webhookConfigId"]
        body = b'{"eventType": "build.started"}'
        path = "/api/v1/webhooks/generic"
        taken = self.client.request("POST", path, body=body, headers=self.signed(path, body))
        assert taken.status == 200
        return taken.json["deliveryId"]

    def ticketId(self):
        self["jiraId"]
        body = {"trailId": self["trailId"], "summary": "Sign the artifact"}
        return self.client.post("/api/v1/integrations/jira/tickets", body).json["id"]

    def lackingTrailId(self):
        """A trail that is not compliant, for which Jira has no ticket yet."""
        self["jiraId"]
        path = f"/api/v1/trails/{self['trailId']}/attestations"
        assert self.client.post(path, {"type": "junit", "status": "FAILED"}).status == 201
        return self["trailId"]

    def signed(self, path, body):
        """The headers with which Slack, or a CI system, signs a body for a path."""
        if "/slack/" not in path:
            return {"X-Hub-Signature-256": f"sha256={signature(body)}"}
        at = str(int(self.lite.source.clock()))
        return {
            "X-Slack-Signature": f"v0={signature(b'v0:%b:%b' % (at.encode(), body))}",
            "X-Slack-Request-Timestamp": at,
        }

    def token(self):
        """An identity token as GitHub Actions hands it out, unused so far."""
        claims = {
            "iss": "https://token.actions.githubusercontent.com",
            "jti": self["unique"],
            "iat": int(NOON),
            "exp": int(NOON) + 100_000_000,
        }
        return f"{part_of_token({'alg': 'RS256'})}.{part_of_token(claims)}.c2ln"


def part_of_token(value):
    """One part of an identity token (RFC 7515, section 3.1)."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signature(data):
    """HMAC-SHA-256 in hexadecimal."""
    return hmac.digest(SECRET.encode(), data, "sha256").hex()


#: What Slack, Jira, Confluence and the receiver of notifications answer, by path.
ANSWERS = {
    "/chat.postMessage": b'{"ok": true}',
    "/hook": b"{}",
    "/rest/api/2/issue": b'{"key": "OPS-1"}',
    "/rest/api/2/myself": b"{}",
    "/rest/api/2/search": b'{"issues": []}',
    "/wiki/rest/api/space/OPS": b"{}",
}


#: Values of fields without a table of their own, by format or type.
EXAMPLES = {
    "date-time": "2026-01-01T00:00:00Z",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "string": WHY + " {unique}",
    "integer": 1,
    "number": 1,
    "boolean": True,
    "array": [],
    "object": {},
}


class Others(http.server.BaseHTTPRequestHandler):
    """All that is asked for something: a source host without a single pull request, an identity
    provider without people, Slack, Jira and Confluence."""

    def respond(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        url = f"http://{self.headers['Host']}"
        response = ANSWERS.get(self.path.partition("?")[0], b"")
        if self.path == "/.well-known/openid-configuration":
            endpoints = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            document = {"issuer": url} | {name: f"{url}/{name}" for name in endpoints}
            response = json.dumps(document).encode()
        self.send_response(200 if response else 404)
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    do_GET = do_POST = respond

    def log_message(self, *body):
        """Keep quiet."""


@contextlib.contextmanager
def other_services():
    """Settings by which every service that is asked for something is a server here."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Others) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        hosts = tuple(f"{p}={url}" for p in ("GITHUB", "GITLAB", "BITBUCKET", "AZURE_DEVOPS"))
        yield {
            "scm_hosts": hosts,
            "slack_url": url,
            "sso_private_issuers": (url,),
            "webhook_private_targets": ("127.0.0.1/32",),
        }
        server.shutdown()
        thread.join()
