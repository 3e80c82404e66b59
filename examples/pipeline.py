"""Take a build from commit to gate: flow, trail, artifact, attestations, approval, gate, drift.

    export FACTSTORE_URL=http://127.0.0.1:8080 FACTSTORE_API_KEY=fss_… FACTSTORE_MANAGER_KEY=fss_…
    python examples/pipeline.py payments.tar.gz junit.xml scan.sarif

The three files are what a pipeline has at its end: what was built, the report of its tests, and the
report of a scanner. Flow, environment and policy are made at the first run and found at the next.
The key of the release manager has the scope factstore:govern, which no pipeline should have: it
writes the policy and decides the approval. Elsewhere a person does that.
Exit status 0: the gate lets the build through; 1: it does not, and says why.
"""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from urllib.error import HTTPError
from urllib.request import Request, urlopen

FLOW = {
    "name": "payments",
    "description": "From commit to cash.",
    "requiredAttestationTypes": ["junit", "sarif"],
    "requiresApproval": True,
}


MANAGER = "FACTSTORE_MANAGER_KEY"


def call(method, path, body=None, data=None, kind="application/json", key="FACTSTORE_API_KEY"):
    """The answer of an operation as JSON; a refusal ends the pipeline with its message."""
    headers = {"X-Api-Key": os.environ[key], "Content-Type": kind}
    data = json.dumps(body).encode() if body is not None else data
    request = Request(os.environ["FACTSTORE_URL"] + path, data, headers, method=method)
    try:
        with urlopen(request, timeout=30) as response:
            return json.load(response)
    except HTTPError as refusal:
        with refusal:
            sys.exit(f"{method} {path}: {json.load(refusal)['message']}")


def ensure(path, wanted, **options):
    """The record of this name in a list; made when it is not there."""
    known = (record for record in call("GET", path) if record["name"] == wanted["name"])
    return next(known, None) or call("POST", path, wanted, **options)


def upload(path, file_name):
    """Send a file as the evidence of an attestation."""
    boundary = uuid.uuid4().hex
    with open(file_name, "rb") as stream:
        content = stream.read()
    name = os.path.basename(file_name).replace('"', "")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    data = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode()
    data += content + f"\r\n--{boundary}--\r\n".encode()
    return call("POST", path, data=data, kind=f"multipart/form-data; boundary={boundary}")


def git(*words, default):
    """What git says of the commit that is checked out; the default outside of a checkout."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() or default


def record(flow, built, junit, sarif):
    """Open a trail for the commit and put the artifact and its attestations on it."""
    trail = {
        "flowId": flow["id"],
        "gitCommitSha": git("rev-parse", "HEAD", default="0" * 40),
        "gitBranch": git("rev-parse", "--abbrev-ref", "HEAD", default="main"),
        "gitAuthor": git("log", "-1", "--format=%an", default="Nobody"),
        "gitAuthorEmail": git("log", "-1", "--format=%ae", default=""),
    }
    trail = call("POST", "/api/v1/trails", trail)
    place = f"/api/v1/trails/{trail['id']}"
    with open(built, "rb") as stream:
        digest = "sha256:" + hashlib.sha256(stream.read()).hexdigest()
    artifact = {"imageName": "payments", "imageTag": "1.0.0", "sha256Digest": digest}
    call("POST", f"{place}/artifacts", artifact | {"reportedBy": "pipeline.py"})
    for kind, file_name in (("junit", junit), ("sarif", sarif)):
        attestation = call("POST", f"{place}/attestations", {"type": kind, "name": kind})
        upload(f"{place}/attestations/{attestation['id']}/evidence", file_name)
    for attestation in call("GET", f"{place}/attestations"):
        print(f"{attestation['type']}: {attestation['status']} {attestation['details']}")
    return trail, digest


def approve(trail):
    """Ask for the release of a trail, and grant it, as a release manager would elsewhere."""
    path = f"/api/v1/trails/{trail['id']}/approvals"
    approval = call("POST", path, {"requiredApprovers": ["release-manager"]})
    decision = {"approverIdentity": "release-manager", "comments": "Looks good."}
    return call("POST", f"/api/v1/approvals/{approval['id']}/approve", decision, key=MANAGER)


def deploy(environment, digest):
    """Report what runs now; the first time, that is what shall run: the baseline."""
    place = f"/api/v1/environments/{environment['id']}"
    running = {"artifactSha256": digest, "artifactName": "payments", "artifactTag": "1.0.0"}
    before = call("GET", f"{place}/snapshots")
    call("POST", f"{place}/snapshots", {"recordedBy": "pipeline.py", "artifacts": [running]})
    if not before:
        call("POST", f"{place}/baselines", {"approvedBy": "release-manager"})
    return call("GET", f"{place}/drift")


def main(built, junit, sarif):
    flow = ensure("/api/v1/flows", FLOW)
    production = ensure("/api/v1/environments", {"name": "production", "type": "K8S"})
    policy = {"name": "payments to production", "flowId": flow["id"], "enforceApprovals": True}
    policy |= {"environmentId": production["id"], "requiredAttestationTypes": ["junit", "sarif"]}
    ensure("/api/v1/deployment-policies", policy, key=MANAGER)

    trail, digest = record(flow, built, junit, sarif)
    asked = {"sha256Digest": digest, "flowId": flow["id"]}
    print(f"Before the approval: {call('POST', '/api/v1/assert', asked)['message']}")
    print(f"Approval: {approve(trail)['status']}")
    print(f"After it: {call('POST', '/api/v1/assert', asked)['message']}")

    gate = {"artifactSha256": digest, "environment": "production", "requestedBy": "pipeline.py"}
    verdict = call("POST", "/api/v1/gate/evaluate", gate)
    print(f"Gate: {verdict['decision']}. {verdict['reason']}")
    if verdict["allowed"]:
        print(f"Drift from the baseline: {deploy(production, digest)['hasDrift']}")
    return 0 if verdict["allowed"] else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
