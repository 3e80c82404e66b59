"""Notification rules and their deliveries."""

import datetime
import ipaddress
import json
import random
import ssl

import pytest
from conftest import Clock
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from stored import audit, ledger, stored_bytes, tables

from factstore.notification_servers import (
    NEAR,
    NOTIFICATIONS,
    RULES,
    add_rule,
    deliveries,
    receiver,
    shown,
)
from factstore.trails import begin_trail
from novantra_lite import FACTSTORE_SCOPES, AuditEntry, NovantraLite

NOON = "2026-06-01T12:00:00.000000Z"
LATER = "2026-06-01T12:01:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
SOMEBODY = "11111111-1111-4111-8111-111111111111"
#: An address that is public, and that nothing is sent to in these tests.
PUBLIC = "https://93.184.216.34/services/T0/B0/s3cret"
RULE = {"name": "quality", "triggerEvent": "GATE_BLOCKED", "channelType": "IN_APP"}
DRY = {"X-Dry-Run": "true"}


def config(url=PUBLIC):
    return json.dumps({"webhookUrl": url})


@pytest.fixture
def near(clock):
    """An instance that may send to servers on this machine."""
    with NovantraLite(clock=clock, random=random.Random(7), **NEAR) as lite:
        yield lite


@pytest.fixture
def client(near):
    return near.client(*FACTSTORE_SCOPES)


def fail(lite, client):
    """Record an attestation that failed; the ids of its trail and itself."""
    trail = begin_trail(lite, client)
    body = {"type": "<junit> & co", "status": "FAILED"}
    return trail, client.post(f"/api/v1/trails/{trail}/attestations", body).json["id"]


def send_test(client, rule):
    """Have a rule's test sent."""
    assert client.post(f"{RULES}/{rule}/test").status == 202


# Rules


def test_a_rule_starts_active_whatever_is_said(lite, factstore):
    made = factstore.post(RULES, RULE | {"isActive": False, "filterFlowId": NOBODY})

    key = made.json["id"]
    assert made.status == 201
    assert list(made.json.items()) == [
        ("id", key),
        ("name", "quality"),
        ("isActive", True),
        ("triggerEvent", "GATE_BLOCKED"),
        ("channelType", "IN_APP"),
        ("channelConfig", "{}"),
        ("filterFlowId", NOBODY),
        ("filterEnvironmentId", None),
        ("createdAt", NOON),
        ("updatedAt", NOON),
    ]
    assert factstore.get(f"{RULES}/{key}").json == made.json
    assert factstore.get(RULES).json == [made.json]
    assert audit(lite)[-1][1:3] == ("notification_rule.created", key)
    assert ledger(lite)[-1] == ("NOTIFICATION_RULE_CREATED", key)


@pytest.mark.parametrize("channel", ["SLACK", "WEBHOOK"])
@pytest.mark.parametrize(
    "result",
    [
        None,
        "",
        "not JSON",
        "[]",
        '"https://93.184.216.34/"',
        "{}",
        '{"webhookUrl": null}',
        '{"webhookUrl": 7}',
        '{"webhookUrl": " "}',
        "[" * 50,
    ],
)
def test_a_channel_needs_a_url(factstore, channel, result):
    refused = factstore.post(RULES, RULE | {"channelType": channel, "channelConfig": result})

    assert refused.status == 400
    assert "webhookUrl" in refused.json["message"]
    assert factstore.get(RULES).json == []


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("http://93.184.216.34/hook", "must start with https://."),
        ("ftp://93.184.216.34/hook", "must start with https://."),
        ("https://127.0.0.1/s3cret", "not public"),
        ("https://[::1]/s3cret", "not public"),
        ("https://169.254.169.254/s3cret", "not public"),
        ("https://me:s3cret@93.184.216.34/", "user name or password"),
        ("https://", "must name a host"),
    ],
)
def test_a_url_that_nothing_may_be_sent_to_is_refused_without_telling_it(factstore, url, result):
    kept = add_rule(factstore, channel="WEBHOOK", url=PUBLIC)
    new = {"channelType": "WEBHOOK", "channelConfig": config(url)}

    for refused in (factstore.post(RULES, RULE | new), factstore.put(f"{RULES}/{kept}", new)):
        assert refused.status == 400
        assert result in refused.json["message"]
        assert "s3cret" not in refused.json["message"]
    assert factstore.get(f"{RULES}/{kept}").json["channelConfig"] == config()


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://127.0.0.1:9/hook", 201),
        ("https://127.0.0.1:9/hook", 201),
        ("http://10.0.0.1/hook", 400),
        ("http://93.184.216.34/hook", 400),
    ],
)
def test_only_the_networks_that_are_listed_are_reached_without_tls(client, url, status):
    new = {"channelType": "WEBHOOK", "channelConfig": config(url)}

    assert client.post(RULES, RULE | new).status == status


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None},
        {"name": " "},
        {"name": "x" * 256},
        {"triggerEvent": None},
        {"triggerEvent": "gate_blocked"},
        {"triggerEvent": "BUILD_FAILED"},
        {"channelType": "EMAIL"},
        {"channelType": None},
        {"filterFlowId": "payments"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(factstore, wrong):
    assert factstore.post(RULES, RULE | wrong).status == 400


def test_a_secret_url_is_for_admins_and_nowhere_in_the_clear(lite, factstore):
    reader = lite.client("factstore:read", "factstore:write")
    rule = add_rule(factstore, channel="SLACK", url=PUBLIC)

    factstore.put(f"{RULES}/{rule}", {"channelConfig": config(PUBLIC + "2")})

    assert factstore.get(f"{RULES}/{rule}").json["channelConfig"] == config(PUBLIC + "2")
    for path in (RULES, f"{RULES}/{rule}", f"{RULES}/{rule}/deliveries"):
        assert reader.get(path).status == 403
    assert reader.post(RULES, RULE).status == 403
    assert reader.put(f"{RULES}/{rule}", {}).status == 403
    assert reader.request("DELETE", f"{RULES}/{rule}").status == 403
    assert reader.post(f"{RULES}/{rule}/test").status == 403
    assert b"s3cret" not in stored_bytes(lite)
    with lite.workspace.read():
        entry = AuditEntry.get(AuditEntry.action == "notification_rule.updated")
        assert entry.detail == '{"before":{}}'
    assert lite.verify() == []


def test_selected_members_change_and_the_time_moves(lite, factstore, clock):
    rule = add_rule(factstore, filterFlowId=NOBODY, filterEnvironmentId=NOBODY)
    before = factstore.get(f"{RULES}/{rule}").json
    clock.advance(60)

    body = {"name": "builds", "isActive": False, "filterFlowId": SOMEBODY, "triggerEvent": None}
    changed = factstore.put(f"{RULES}/{rule}", body)
    clock.advance(60)
    touched = factstore.put(f"{RULES}/{rule}", {})

    assert changed.status == 200
    assert changed.json == before | {
        "name": "builds", "isActive": False, "filterFlowId": SOMEBODY, "updatedAt": LATER,
    }  # fmt: skip
    assert touched.json == changed.json | {"updatedAt": "2026-06-01T12:02:00.000000Z"}
    assert audit(lite)[-1][1:3] == ("notification_rule.updated", rule)


def test_a_flag_that_clears_a_filter_beats_a_value_for_it(factstore):
    rule = add_rule(factstore, filterFlowId=NOBODY, filterEnvironmentId=NOBODY)

    body = {"filterFlowId": SOMEBODY, "clearFilterFlowId": True, "clearFilterEnvironmentId": False}
    changed = factstore.put(f"{RULES}/{rule}", body).json

    assert (changed["filterFlowId"], changed["filterEnvironmentId"]) == (None, NOBODY)
    assert factstore.put(f"{RULES}/{rule}", {"clearFilterEnvironmentId": True}).json[
        "filterEnvironmentId"
    ] is None  # fmt: skip


def test_a_change_leaves_a_channel_that_leads_somewhere(factstore):
    shown_inside = add_rule(factstore)
    sent = add_rule(factstore, channel="WEBHOOK", url=PUBLIC)

    def put(rule, **body):
        return factstore.put(f"{RULES}/{rule}", body).status

    assert put(shown_inside, channelType="SLACK") == 400
    assert put(sent, channelConfig="{}") == 400
    assert put(sent, channelType="IN_APP", channelConfig="no URL") == 200
    assert put(sent, channelType="SLACK") == 400
    assert put(shown_inside, channelType="SLACK", channelConfig=config()) == 200
    assert put(shown_inside, channelType="WEBHOOK") == 200


def test_a_rule_goes_with_its_deliveries_and_what_was_shown_stays(lite, factstore, clock):
    rule, other = add_rule(factstore), add_rule(factstore, channel="WEBHOOK", url=PUBLIC)
    fail(lite, factstore)

    for key in (rule, other):
        assert factstore.request("DELETE", f"{RULES}/{key}").status == 204
        assert factstore.get(f"{RULES}/{key}").status == 404
        assert factstore.get(f"{RULES}/{key}/deliveries").status == 404

    assert audit(lite)[-1][1:3] == ("notification_rule.deleted", other)
    assert len(factstore.get(NOTIFICATIONS).json) == 1
    left = tables(lite)
    assert left["notification_delivery"] == left["notification_errand"] == []
    assert lite.step() == 0


def test_a_dry_run_changes_nothing(lite, factstore):
    rule = add_rule(factstore)
    before = tables(lite)

    made = factstore.post(RULES, RULE, headers=DRY)
    changed = factstore.put(f"{RULES}/{rule}", {"name": "builds"}, headers=DRY)
    removed = factstore.request("DELETE", f"{RULES}/{rule}", headers=DRY)
    tested = factstore.post(f"{RULES}/{rule}/test", headers=DRY)

    assert made.json["wouldCreate"]["isActive"] is True
    assert changed.json["wouldUpdate"]["name"] == "builds"
    assert removed.json["wouldDelete"]["id"] == rule
    assert (tested.status, tested.json) == (200, {"dryRun": True, "result": None})
    assert tables(lite) == before


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("one", 400)])
def test_a_rule_that_is_not_there_cannot_be_reached(factstore, key, status):
    path = f"{RULES}/{key}"

    answers = [
        factstore.get(path),
        factstore.put(path, {"name": "builds"}),
        factstore.request("DELETE", path),
        factstore.post(f"{path}/test"),
        factstore.get(f"{path}/deliveries"),
    ]

    assert [answer.status for answer in answers] == [status] * 5


# Tests of a rule


def test_a_test_reaches_every_active_rule_with_the_trigger_and_the_filters(factstore):
    rule = add_rule(factstore, filterFlowId=NOBODY)
    open_one, elsewhere = add_rule(factstore), add_rule(factstore, filterFlowId=SOMEBODY)
    narrower = add_rule(factstore, filterFlowId=NOBODY, filterEnvironmentId=NOBODY)

    answer = factstore.post(f"{RULES}/{rule}/test")

    assert (answer.status, answer.body) == (202, b"")
    reached = [deliveries(factstore, key) for key in (rule, open_one, elsewhere, narrower)]
    assert reached == [[("SENT", 1, None)], [("SENT", 1, None)], [], []]
    assert shown(factstore) == [("Test notification", "INFO", "notification_rule", rule)] * 2


def test_the_audit_log_tells_who_sent_a_test(lite, factstore):
    rule = add_rule(factstore)

    send_test(factstore, rule)

    actor, action, subject, _ = audit(lite)[-1]
    assert (action, subject) == ("notification.tested", rule)
    assert actor.startswith("svc_")
    assert lite.verify() == []


def test_an_inactive_rule_gets_no_test(factstore):
    rule, other = add_rule(factstore), add_rule(factstore)
    factstore.put(f"{RULES}/{rule}", {"isActive": False})

    send_test(factstore, rule)

    assert (deliveries(factstore, rule), len(deliveries(factstore, other))) == ([], 1)


def test_deliveries_come_newest_first_and_in_pages_on_request(factstore, clock):
    rule = add_rule(factstore)
    for _ in range(3):
        send_test(factstore, rule)
        clock.advance(60)

    matches = factstore.get(f"{RULES}/{rule}/deliveries").json
    page = factstore.get(f"{RULES}/{rule}/deliveries?size=2").json

    assert [record["sentAt"][14:16] for record in matches] == ["02", "01", "00"]
    assert (page["items"], page["totalItems"]) == (matches[:2], 3)
    assert matches[0].items() >= {
        "ruleId": rule, "eventType": "ATTESTATION_FAILED", "status": "SENT", "attemptCount": 1,
        "error": None,
    }.items()  # fmt: skip


# What is sent


def test_a_webhook_gets_the_facts_and_the_delivery_keeps_them(near, client):
    with receiver() as hook:
        rule = add_rule(client, channel="WEBHOOK", url=hook.url)
        trail, attestation = fail(near, client)
        flow = client.get(f"/api/v1/trails/{trail}").json["flowId"]
        assert client.get(f"{RULES}/{rule}/deliveries").json == []

        assert near.step() == 1

    ((path, media, body),) = hook.posted
    assert (path, media) == ("/hook/s3cret", "application/json")
    assert body == {
        "triggerEvent": "ATTESTATION_FAILED",
        "title": "The attestation '<junit> & co' failed",
        "message": f"It was recorded on the trail {trail} (commit c0ffee on main by Ada).",
        "severity": "WARNING",
        "entityType": "attestation",
        "entityId": attestation,
        "filterFlowId": flow,
        "extraPayload": {
            "trailId": trail,
            "type": "<junit> & co",
            "name": None,
            "environmentId": None,
        },
    }
    (delivery,) = client.get(f"{RULES}/{rule}/deliveries").json
    assert list(delivery.items()) == [
        ("id", delivery["id"]),
        ("ruleId", rule),
        ("eventType", "ATTESTATION_FAILED"),
        ("payload", delivery["payload"]),
        ("status", "SENT"),
        ("sentAt", NOON),
        ("error", None),
        ("attemptCount", 1),
    ]
    assert json.loads(delivery["payload"]) == body
    assert near.step() == 0
    assert near.verify() == []


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """The context of a server whose certificate for this machine everybody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "chat")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, private, serialization.NoEncryption())
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    return context


def test_slack_gets_the_facts_in_words_over_tls(near, client, tls):
    with receiver(tls=tls) as slack:
        rule = add_rule(client, channel="SLACK", url=slack.url)
        trail, attestation = fail(near, client)
        flow = client.get(f"/api/v1/trails/{trail}").json["flowId"]

        near.step()

    ((_, _, body),) = slack.posted
    assert body.keys() == {"text"}
    assert body["text"].splitlines() == [
        ":rotating_light: *The attestation '&lt;junit&gt; &amp; co' failed*",
        f"It was recorded on the trail {trail} (commit c0ffee on main by Ada).",
        "• Severity: WARNING",
        "• Event: ATTESTATION_FAILED",
        f"• Concerns: attestation {attestation}",
        f"• flowId: {flow}",
        f"• trailId: {trail}",
        "• type: &lt;junit&gt; &amp; co",
    ]
    assert deliveries(client, rule) == [("SENT", 1, None)]


def test_a_receiver_that_fails_twice_gets_it_at_the_third_attempt(near, client, clock):
    with receiver(500, 302) as hook:
        rule = add_rule(client, channel="WEBHOOK", url=hook.url)
        fail(near, client)

        arrived = []
        for seconds in (0, 1.9, 0.1, 3.9, 0.1, 60):
            clock.advance(seconds)
            arrived.append((near.step(), len(hook.posted), deliveries(client, rule)))

    done = [("SENT", 3, None)]
    assert arrived == [(0, 1, []), (0, 1, []), (0, 2, []), (0, 2, []), (1, 3, done), (0, 3, done)]
    assert hook.posted[0] == hook.posted[1] == hook.posted[2]


def test_three_failures_are_the_end(near, client, clock):
    with receiver(500, 500, 503) as hook:
        rule = add_rule(client, channel="SLACK", url=hook.url)
        fail(near, client)

        for _ in range(5):
            near.step()
            clock.advance(60)

    assert len(hook.posted) == 3
    assert deliveries(client, rule) == [("FAILED", 3, "Answered with status 503.")]


def test_a_rule_that_fails_does_not_hold_up_the_others(near, client):
    with receiver(*[500] * 9) as broken, receiver() as fine:
        for url in (broken.url, fine.url):
            add_rule(client, channel="WEBHOOK", url=url)
        rule = client.get(RULES).json[0]["id"]
        for _ in range(3):
            send_test(client, rule)

        assert near.step() == 3

    assert (len(broken.posted), len(fine.posted)) == (1, 3)


@pytest.mark.parametrize(
    "result", [{"isActive": False}, {"channelType": "IN_APP"}], ids=["off", "inside"]
)
def test_what_waits_for_a_rule_that_sends_no_more_is_skipped(near, client, clock, result):
    with receiver(500) as hook:
        rule = add_rule(client, channel="WEBHOOK", url=hook.url)
        fail(near, client)
        near.step()

        client.put(f"{RULES}/{rule}", result)
        clock.advance(60)
        near.step()

    why = "The rule was switched off, or has another channel now."
    assert deliveries(client, rule) == [("SKIPPED", 0, why)]
    assert len(hook.posted) == 1


def test_what_waits_goes_where_the_rule_sends_now(near, client, clock):
    with receiver(500) as first, receiver() as second:
        rule = add_rule(client, channel="WEBHOOK", url=first.url)
        fail(near, client)
        near.step()

        client.put(f"{RULES}/{rule}", {"channelType": "SLACK", "channelConfig": config(second.url)})
        clock.advance(60)
        near.step()

    assert second.posted[0][2].keys() == {"text"}
    assert deliveries(client, rule) == [("SENT", 2, None)]


def begun(file, url):
    """A file in which an attestation has failed and a notification to a URL waits; its rule."""
    with NovantraLite(file, clock=Clock(), **NEAR) as lite:
        client = lite.client(*FACTSTORE_SCOPES)
        rule = add_rule(client, channel="WEBHOOK", url=url)
        fail(lite, client)
        return rule


def test_what_waits_is_delivered_by_the_next_process(tmp_path):
    with receiver() as hook:
        rule = begun(tmp_path / "register.db", hook.url)
        assert hook.posted == []

        with NovantraLite(tmp_path / "register.db", clock=Clock(), **NEAR) as lite:
            assert lite.step() == 1

            assert deliveries(lite.client(*FACTSTORE_SCOPES), rule) == [("SENT", 1, None)]
    assert len(hook.posted) == 1


@pytest.mark.parametrize(
    ("scheme", "error"),
    [
        ("http", "The URL must start with https://."),
        (
            "https",
            "The host 127.0.0.1 has an address that is not public; list its network "
            "in webhook_private_targets to permit it.",
        ),
    ],
)
def test_a_target_that_is_permitted_no_more_is_refused_at_sending(tmp_path, clock, scheme, error):
    with receiver() as hook:
        rule = begun(tmp_path / "register.db", hook.url.replace("http", scheme, 1))

        with NovantraLite(tmp_path / "register.db", clock=clock) as lite:
            for _ in range(3):
                lite.step()
                clock.advance(60)

            result = deliveries(lite.client(*FACTSTORE_SCOPES), rule)
    assert result == [("FAILED", 3, error)]
    assert hook.posted == []
