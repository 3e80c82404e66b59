"""Push the results of a scanner (a SARIF 2.1.0 file) into the register as findings.

    export NOVANTRA_URL=http://127.0.0.1:8080 NOVANTRA_CLIENT_ID=svc_… NOVANTRA_CLIENT_SECRET=nvs_…
    python examples/push_sarif.py scan.sarif

The file is read as novantra-lite itself reads evidence. Each result has an identity made of its
tool, rule, location and fingerprint. It goes along as the Idempotency-Key and as the key of the
finding, so that a second run, a retry and tomorrow's scan add nothing twice. Suppressed results,
results that passed and results that are gone are left out. The service account needs the scope
governance.findings:write. Exit status 1: the scan itself failed, or findings were refused.
"""

import hashlib
import json
import os
import random
import sys
import time
from contextlib import closing
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from novantra_lite import Problem, ReportError, load_report, read_file, sarif_failure, sarif_results

VARIABLES = ("NOVANTRA_URL", "NOVANTRA_CLIENT_ID", "NOVANTRA_CLIENT_SECRET")
ATTEMPTS, SIZE_LIMIT = 5, 1 << 28
#: What is no severity of a finding.
SEVERITIES = {"informational": "low", "unknown": "high"}


def post(path, body, headers=None):
    """POST a JSON body; the status, headers and answer. Waits and retries while the API is busy."""
    url, data = os.environ["NOVANTRA_URL"] + path, json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | (headers or {})
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urlopen(Request(url, data, headers), timeout=30) as response:
                return response.status, response.headers, json.load(response)
        except HTTPError as refusal:
            with refusal:
                wait = refusal.headers.get("Retry-After")
                if wait is None or attempt == ATTEMPTS:
                    return refusal.code, refusal.headers, json.load(refusal)
        time.sleep(max(int(wait), random.uniform(0, 2**attempt)))


def tokens():
    """Bearer tokens of the service account: a new one every 8 minutes, as each is good for 15."""
    credentials = {
        "grant_type": "client_credentials",
        "client_id": os.environ["NOVANTRA_CLIENT_ID"],
        "client_secret": os.environ["NOVANTRA_CLIENT_SECRET"],
    }
    while True:
        issued = time.monotonic()
        status, _, answer = post("/api/v1/auth/token", credentials)
        if status != 200:
            sys.exit(f"No token: {answer['message']}")
        while time.monotonic() < issued + 480:
            yield answer["access_token"]


def text_of(result, rule):
    """The message of a result, from the result itself or from its rule."""
    message, templates = result.get("message"), rule.get("messageStrings").members()
    template = (templates.get(message.text("id") or "default") or {}).get("text")
    text = message.text("text") or template or result.text("ruleId") or "Result"
    for number, argument in enumerate(message.texts("arguments")):
        text = text.replace(f"{{{number}}}", argument)
    return text


def location_of(result, run):
    """Where a result is, as file:line:column or as the name of a thing, as far as it says."""
    for location in result.items("locations"):
        artifact = location.get("physicalLocation.artifactLocation")
        region = location.get("physicalLocation.region")
        uri, index, artifacts = artifact.text("uri"), artifact.text("index"), run.items("artifacts")
        if not uri and index.isdecimal() and int(index) < len(artifacts):
            uri = artifacts[int(index)].text("location.uri")
        if uri:
            return ":".join(
                filter(None, (uri, region.text("startLine"), region.text("startColumn")))
            )
        for logical in location.items("logicalLocations"):
            return logical.text("fullyQualifiedName") or logical.text("name")
    return ""


def findings(report):
    """The members of a finding for each result that counts."""
    for severity, result, rule, run in sarif_results(report):
        tool = run.text("tool.driver.name")
        name = result.text("ruleId") or result.text("rule.id") or rule.text("id")
        text, location = text_of(result, rule), location_of(result, run)
        prints = result.get("fingerprints").members() or result.get("partialFingerprints").members()
        # A fingerprint is often that of a line's text, which many files have.
        identity = json.dumps([tool, name, location, prints or text], sort_keys=True)
        key = f"sarif-{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
        title = f"{name}: {text}".strip(": \r\n") or "Result"
        yield {
            "findingKey": key,
            "title": title.splitlines()[0][:300],
            "description": "\n\n".join(filter(None, (text, location, rule.text("helpUri"))))[
                :10_000
            ],
            "severity": SEVERITIES.get(severity, severity),
            "sourceKind": "module_signal",
            "sourceModuleKey": tool[:200],
            "sourceResourceType": "sarif-result",
            "sourceResourceId": name[:200] or None,
            "reason": f"Reported by {tool[:200]} in a SARIF file.",
        }


def main(path):
    """Push a file; the exit status. Nothing is pushed of a file that cannot be read."""
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        sys.exit(f"Set {', '.join(missing)} in the environment.")
    with open(path, "rb") as stream, closing(read_file(stream, path, SIZE_LIMIT)) as upload:
        report = load_report(upload)
    rows, failure = list(findings(report)), sarif_failure(report)
    counts = {"added": 0, "known": 0, "refused": 0}
    for finding, token in zip(rows, tokens(), strict=False):
        key = finding["findingKey"]
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        status, answered, answer = post("/api/v1/governance/findings", finding, headers)
        if status == 201:
            outcome = "known" if answered.get("Idempotency-Replayed") else "added"
        else:
            outcome = "known" if status == 409 else "refused"
        counts[outcome] += 1
        if outcome == "refused":
            print(f"{finding['title']}: {answer['message']}", file=sys.stderr)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if failure:
        print(f"{path}: {failure}", file=sys.stderr)
    return 1 if counts["refused"] or failure else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(main(sys.argv[1]))
    except (Problem, ReportError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    except (OSError, HTTPException, ValueError) as error:
        sys.exit(f"Nothing more was pushed: {error}.")
