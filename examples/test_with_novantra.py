"""Test your own integration against a real register that lives as long as one test.

    pip install pytest
    pytest examples/test_with_novantra.py

`close_out_report` stands for the code under test: it knows a URL and a token, as in production.
Clock and random source are handed in, so that ids, times and retries are the same at every run; the
transport is a list, so that webhooks are asserted on without a socket.
"""

import json
import random
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest

from novantra_lite import NovantraLite, verify_webhook

NOON = 1_780_315_200.0  # 2026-06-01T12:00:00Z
#: An address instead of a name, so that nothing is looked up; nothing is sent to it.
HOOK = "https://93.184.215.14/hook"


def close_out_report(url, token):
    """The code under test: the titles of the open findings, the gravest first."""
    headers = {"Authorization": f"Bearer {token}"}
    with urlopen(Request(f"{url}/api/v1/governance/findings?status=open", headers=headers)) as page:
        findings = json.load(page)["findings"]
    gravity = ["critical", "high", "medium", "low"]
    findings.sort(key=lambda finding: gravity.index(finding["severity"]))
    return [finding["title"] for finding in findings]


class Postbox:
    """A transport that keeps what would be sent, and answers as the test says."""

    def __init__(self):
        self.sent, self.status = [], 204

    def post(self, url, body, headers):
        self.sent.append((url, body, headers))
        return SimpleNamespace(status=self.status, retry_after=None, note="Kept by the test.")


@pytest.fixture
def postbox():
    return Postbox()


@pytest.fixture
def register(postbox):
    seeded = random.Random(7)
    with NovantraLite(clock=lambda: NOON, random=seeded, transport=postbox) as lite:
        yield lite


def add_finding(register, **members):
    return register.collection("findings").create(**members, reason="Arranged by a test.")


def test_the_report_names_open_findings_the_gravest_first(register):
    add_finding(register, findingKey="a", title="Label is worn", severity="low")
    add_finding(register, findingKey="b", title="Torque wrench overdue", severity="critical")
    add_finding(register, findingKey="c", title="Settled", severity="high", status="accepted")

    with register.listening() as url:
        titles = close_out_report(url, register.token("governance.findings:read"))

    assert titles == ["Torque wrench overdue", "Label is worn"]


def test_a_new_finding_is_told_to_the_webhook_signed(register, postbox):
    endpoint = register.webhooks.add(HOOK, ["finding.created"])
    finding = add_finding(register, findingKey="a", title="Label is worn", severity="low")

    arrived = register.step()

    [(url, body, headers)] = postbox.sent
    event = verify_webhook(body, headers, endpoint["secret"], clock=lambda: NOON)
    assert arrived == 1
    assert url == HOOK
    assert event["type"] == "finding.created"
    assert event["data"]["finding"]["id"] == finding["id"]


def test_a_receiver_that_is_down_gets_the_same_event_later(register, postbox):
    register.webhooks.add(HOOK)
    add_finding(register, findingKey="a", title="Label is worn", severity="low")

    postbox.status = 500
    missed = register.step(NOON)
    postbox.status = 204
    arrived = register.step(NOON + 10)

    [first, second] = postbox.sent
    assert (missed, arrived) == (0, 1)
    assert first[1] == second[1]
    assert first[2]["webhook-id"] == second[2]["webhook-id"]
