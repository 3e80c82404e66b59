"""Push the results of a scanner (a SARIF 2.1.0 file) into the register as findings.

    export NOVANTRA_URL=http://127.0.0.1:8080 NOVANTRA_CLIENT_ID=svc_… NOVANTRA_CLIENT_SECRET=nvs_…
    python examples/push_sarif.py scan.sarif

Each result has an identity made of what it says and where. It goes along as the Idempotency-Key and
as the key of the finding, so that a second run, a retry and tomorrow's scan add nothing twice.
Suppressed results, results that passed and results that are gone are left out. The service account
needs the scope governance.findings:write.
"""

import hashlib
import json
import os
import random
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ATTEMPTS = 5
LEVELS = {"error": "high", "warning": "medium", "note": "low", "none": "low"}


def post(path, body, headers=None):
    """POST a JSON body; the status and the answer. Waits and tries again while the API is busy."""
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
        asked = time.monotonic()
        status, _, answer = post("/api/v1/auth/token", credentials)
        if status != 200:
            sys.exit(f"No token: {answer['message']}")
        while time.monotonic() < asked + 480:
            yield answer["access_token"]


def is_open(result):
    """Whether a result is a fault, and no suppression of it is in force."""
    suppressions = result.get("suppressions", [])
    return (
        result.get("kind", "fail") in ("fail", "open", "review")
        and result.get("baselineState") != "absent"
        and not any(each.get("status", "accepted") == "accepted" for each in suppressions)
    )


def severity_of(result, rule):
    """The severity: by the CVSS score that many scanners give, else by the level."""
    properties = rule.get("properties", {}) | result.get("properties", {})
    if "security-severity" in properties:
        score = float(properties["security-severity"])
        steps = ((9, "critical"), (7, "high"), (4, "medium"))
        return next((word for least, word in steps if score >= least), "low")
    default = rule.get("defaultConfiguration", {}).get("level", "warning")
    return LEVELS[result.get("level", default)]


def text_of(result, rule):
    """The message of a result, from the result itself or from its rule."""
    message = result["message"]
    known = rule.get("messageStrings", {}).get(message.get("id"), {})
    text = message.get("text") or known.get("text") or result.get("ruleId", "Result")
    for number, argument in enumerate(message.get("arguments", [])):
        text = text.replace(f"{{{number}}}", argument)
    return text


def place_of(result):
    """Where a result is, as file:line, as far as it says."""
    for location in result.get("locations", []):
        physical = location.get("physicalLocation", {})
        uri = physical.get("artifactLocation", {}).get("uri", "")
        line = physical.get("region", {}).get("startLine", "")
        return f"{uri}:{line}".strip(":")
    return ""


def findings(log):
    """The key and the members of a finding for each open result."""
    for run in log["runs"]:
        driver = run["tool"]["driver"]
        rules = {rule["id"]: rule for rule in driver.get("rules", [])}
        for result in filter(is_open, run.get("results") or []):
            name = result.get("ruleId") or result.get("rule", {}).get("id", "")
            rule = rules.get(name, {})
            text, place = text_of(result, rule), place_of(result)
            prints = result.get("fingerprints") or result.get("partialFingerprints")
            identity = json.dumps([driver["name"], name, prints or [place, text]], sort_keys=True)
            key = f"sarif-{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
            yield {
                "findingKey": key,
                "title": f"{name}: {text}".strip(": ").splitlines()[0][:300],
                "description": "\n\n".join(filter(None, (text, place, rule.get("helpUri"))))[
                    :10_000
                ],
                "severity": severity_of(result, rule),
                "sourceKind": "module_signal",
                "sourceModuleKey": driver["name"][:200],
                "sourceResourceType": "sarif-result",
                "sourceResourceId": name[:200] or None,
                "reason": f"Reported by {driver['name'][:200]} in a SARIF file.",
            }


def main():
    with open(sys.argv[1], encoding="utf-8-sig") as stream:
        log = json.load(stream)
    if log.get("version") != "2.1.0":
        sys.exit(f"{sys.argv[1]} is not SARIF 2.1.0.")
    counts = {"added": 0, "known": 0, "refused": 0}
    for finding, token in zip(findings(log), tokens(), strict=False):
        key = finding["findingKey"]
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        status, told, answer = post("/api/v1/governance/findings", finding, headers)
        if status == 201:
            outcome = "known" if told.get("Idempotency-Replayed") else "added"
        else:
            outcome = "known" if status == 409 else "refused"
        counts[outcome] += 1
        if outcome == "refused":
            print(f"{finding['title']}: {answer['message']}", file=sys.stderr)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 1 if counts["refused"] else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main())
