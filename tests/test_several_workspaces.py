"""Several workspaces in one install: nothing of one is of any use in another."""

import base64
import json
import random
import re
from dataclasses import dataclass

import pytest
from conftest import NOON, WHY, Clock
from records import Records, other_services
from stored import audit

from novantra_lite import (
    EMPTY,
    FACTSTORE,
    FACTSTORE_SCOPES,
    Client,
    Conflict,
    Invalid,
    NotFound,
    NovantraLite,
    every_operation,
    novantra_scopes,
)

FINDINGS = "/api/v1/governance/findings"
CLAIMS = "/api/v1/governance/evidence/claims"
GATED = {"artifactSha256": "{sha256}", "environmentId": "{environmentId}", "requestedBy": "ann"}
NEW = {"title": "A finding", "severity": "low", "reason": WHY}


class Post:
    """A transport that keeps what it is given, and succeeds."""

    def __init__(self):
        self.sent = []

    def post(self, url, body, headers):
        self.sent.append((url, json.loads(body)))
        return Sent()


@dataclass
class Sent:
    """The outcome of an attempt that arrived."""

    status: int = 204
    note: str = ""
    retry_after: float | None = None


@dataclass
class Tenant:
    """One workspace as its own people see it: their client and what they have in the register."""

    client: Client
    token: str
    control: str
    attachment: str
    claim: str
    endpoint: str
    cursor: str
    secret: str
    client_id: str


def opened(folder, slug="", **options):
    """An install with a directory of workspaces, speaking of one of them."""
    options = {"clock": Clock(), "random": random.Random(slug), "rate_limits": False} | options
    networks = options.pop("webhook_private_targets", ())
    networks += ("203.0.113.0/24", "198.51.100.0/24")
    return NovantraLite(
        workspaces=folder, workspace=slug, webhook_private_targets=networks, **options
    )


def furnish(folder, slug, address):
    """Make a workspace with something of every kind in it."""
    with opened(folder, slug) as lite:
        lite.create_workspace(slug, f"{slug.title()} Ltd")
        account = lite.accounts.create("Integration", novantra_scopes())
        client = lite.client(*novantra_scopes())
        control = lite.collection("controls").create(
            controlKey="c-1", title="A control", reason=WHY
        )
        requirement = lite.collection("evidence-requirements").create(
            requirementKey="r-1", title="A requirement", reason=WHY
        )
        content = base64.b64encode(f"Of {slug}".encode()).decode()
        attachment = {"fileName": "a", "contentType": "text/plain", "contentBase64": content}
        claim = client.post(
            CLAIMS,
            {
                "evidenceRequirementId": requirement["id"],
                "title": "A claim",
                "attachments": [attachment],
                "reason": WHY,
            },
        ).json["claim"]
        for _ in range(2):
            client.post(FINDINGS, NEW)
        cursor = client.get(FINDINGS, limit=1).json["pagination"]["nextCursor"]
        endpoint = lite.webhooks.add(f"https://{address}/hook")["id"]
    return account, control["id"], claim, cursor, endpoint


@pytest.fixture
def post():
    return Post()


@pytest.fixture
def install(tmp_path, post):
    """An install with the workspaces alpha and beta, and both as their own people see them."""
    furnished = {
        "alpha": furnish(tmp_path, "alpha", "203.0.113.7"),
        "beta": furnish(tmp_path, "beta", "198.51.100.7"),
    }
    with opened(tmp_path, transport=post) as lite:
        tenants = {}
        for slug, (account, control, claim, cursor, endpoint) in furnished.items():
            body = {
                "grant_type": "client_credentials",
                "client_id": account.client_id,
                "client_secret": account.client_secret,
            }
            token = lite.client().post("/api/v1/auth/token", body).json["access_token"]
            tenants[slug] = Tenant(
                client=Client(lite, {"Authorization": f"Bearer {token}"}),
                token=token,
                control=control,
                attachment=claim["attachments"][0]["id"],
                claim=claim["id"],
                endpoint=endpoint,
                cursor=cursor,
                secret=account.client_secret,
                client_id=account.client_id,
            )
        yield lite, tenants["alpha"], tenants["beta"]


def test_each_token_sees_its_own_organization(install):
    _, alpha, beta = install

    matches = [tenant.client.get("/api/v1/organization").json for tenant in (alpha, beta)]

    assert [record["organization"]["slug"] for record in matches] == ["alpha", "beta"]
    assert [record["organization"]["name"] for record in matches] == ["Alpha Ltd", "Beta Ltd"]
    assert matches[0]["organization"]["id"] != matches[1]["organization"]["id"]


def test_an_id_of_another_workspace_is_not_there(install):
    _, alpha, beta = install
    paths = [f"/api/v1/governance/controls/{alpha.control}", f"{CLAIMS}/{alpha.claim}"]

    own = [alpha.client.get(path).status for path in paths]
    others = [beta.client.get(path) for path in paths]

    assert own == [200, 200]
    assert [(answer.status, answer.json["error"]) for answer in others] == [
        (404, "not_found"),
        (404, "not_found"),
    ]


def test_an_id_of_another_workspace_is_no_subject_and_no_requirement(install):
    _, alpha, beta = install
    subject = {
        "subjectModuleKey": "controls",
        "subjectResourceType": "control",
        "subjectResourceId": alpha.control,
    }

    own = alpha.client.post(FINDINGS, NEW | subject)
    other = beta.client.post(FINDINGS, NEW | subject)
    claim = beta.client.post(
        CLAIMS, {"evidenceRequirementId": "evreq_0", "title": "A claim", "reason": WHY}
    )

    assert (own.status, other.status, claim.status) == (201, 422, 422)


def test_a_list_holds_only_what_is_of_its_workspace(install):
    _, alpha, beta = install

    lists = [
        {record["id"] for record in tenant.client.get(FINDINGS).json["findings"]}
        for tenant in (alpha, beta)
    ]

    assert [len(ids) for ids in lists] == [2, 2]
    assert lists[0].isdisjoint(lists[1])


def test_a_cursor_of_another_workspace_is_refused(install):
    _, alpha, beta = install

    own = alpha.client.get(FINDINGS, limit=1, cursor=alpha.cursor)
    other = beta.client.get(FINDINGS, limit=1, cursor=alpha.cursor)

    assert own.status == 200
    assert (other.status, other.json["error"]) == (400, "invalid_cursor")


def test_a_token_under_another_name_is_refused(install):
    lite, alpha, _ = install
    for name in ("beta", "nobody", ""):
        moved = alpha.token.replace("alpha.", f"{name}.", 1)

        refused = Client(lite, {"Authorization": f"Bearer {moved}"}).get(FINDINGS)

        assert (refused.status, refused.json["error"]) == (401, "unauthenticated")


def test_a_secret_of_another_workspace_is_refused(install):
    lite, alpha, beta = install
    body = {"grant_type": "client_credentials", "client_id": beta.client_id}

    refused = lite.client().post("/api/v1/auth/token", body | {"client_secret": alpha.secret})

    assert (refused.status, refused.json["error"]) == (401, "unauthenticated")


def test_nothing_in_a_request_names_another_workspace(install):
    _, alpha, _ = install
    headers = {"X-Organization": "beta", "Host": "beta.example.com"}

    response = alpha.client.request(
        "GET", "/api/v1/organization", headers=headers, orgId="beta", workspace="beta"
    )

    assert response.json["organization"]["slug"] == "alpha"


def test_an_idempotency_key_of_another_workspace_is_a_new_one(install):
    _, alpha, beta = install
    headers = {"Idempotency-Key": "one"}

    first = alpha.client.post(FINDINGS, NEW, headers=headers)
    other = beta.client.post(FINDINGS, NEW | {"severity": "high"}, headers=headers)
    again = alpha.client.post(FINDINGS, NEW, headers=headers)

    assert (first.status, other.status) == (201, 201)
    assert "idempotency-replayed" not in other.headers
    assert again.body == first.body


def test_an_event_goes_to_the_endpoints_of_its_workspace(install, post):
    lite, alpha, beta = install
    lite.step(NOON)
    post.sent.clear()

    beta.client.post(FINDINGS, NEW | {"title": "Only in beta"})
    lite.step(NOON + 1)

    ((url, result),) = post.sent
    assert url == "https://198.51.100.7/hook"
    assert result["organization"]["slug"] == "beta"
    assert result["data"]["finding"]["title"] == "Only in beta"
    assert alpha.endpoint != beta.endpoint


def test_the_limits_of_one_workspace_are_not_used_up_by_another(tmp_path):
    for slug in ("alpha", "beta"):
        with opened(tmp_path, slug) as lite:
            lite.create_workspace(slug)
    tokens = {}
    for slug in ("alpha", "beta"):
        with opened(tmp_path, slug) as lite:
            tokens[slug] = lite.token("organization:read")

    with opened(tmp_path, rate_limits=True, rate_organization=2) as lite:
        statuses = [
            Client(lite, {"Authorization": f"Bearer {tokens[slug]}"})
            .get("/api/v1/organization")
            .status
            for slug in ("alpha", "alpha", "alpha", "beta")
        ]

    assert statuses == [200, 200, 429, 200]


@pytest.fixture
def delivering(tmp_path):
    """An install with two empty workspaces, and a client of Factstore for each."""
    tokens = {}
    for slug in ("alpha", "beta"):
        with opened(tmp_path, slug) as lite:
            lite.create_workspace(slug)
            tokens[slug] = lite.token(*FACTSTORE_SCOPES)
    with other_services() as others, opened(tmp_path, **others) as lite:
        alpha, beta = (
            Client(lite, {"Authorization": f"Bearer {token}"}) for token in tokens.values()
        )
        yield lite, alpha, beta


def test_no_record_of_delivery_is_there_for_another_workspace(delivering):
    lite, alpha, beta = delivering
    about_one = [
        operation
        for operation in every_operation()
        if operation.surface is FACTSTORE and "{" in operation.path
        if operation.body is EMPTY and not operation.public
        # What lies in a vault has tests of its own.
        if "{entityKey}" not in operation.path
        # The templates of the hub are part of the product.
        if "{template}" not in operation.path
    ]
    records = Records(lite, alpha)
    own, others = {}, {}

    for operation in about_one:
        method, path = operation.method, records.prepare(operation.method, operation.path)
        query = dict.fromkeys(operation.query.required, "1")
        others[method, path] = beta.request(method, path, **query)
        if method == "GET":
            own[path] = alpha.get(path, **query).status

    rows = [(record, answer.body) for record, answer in others.items() if answer.status != 404]
    assert {path: status for path, status in own.items() if status != 200} == {}
    # Whoever asks for a proof is told that there is none.
    assert [
        record for record in rows if record[1] != b"[]" and b'"verified":false' not in record[1]
    ] == []
    assert len(others) > 50


def test_what_one_workspace_keeps_changes_no_answer_to_another(delivering):
    lite, alpha, beta = delivering
    reads = [
        operation
        for operation in every_operation()
        if operation.surface is FACTSTORE and operation.method == "GET"
        if "{" not in operation.path and not operation.public
    ]

    records = Records(lite, alpha)

    def answers(client):
        values = {}
        for operation in reads:
            query = {name: records[name] for name in operation.query.required}
            body = client.get(operation.path, **query).body
            # What the process itself needs is the same process's for everybody.
            values[operation.path] = re.sub(rb"(?m)^.*process_.*\n", b"", body)
        return values

    before = answers(beta)
    for operation in every_operation():
        if operation.surface is FACTSTORE:
            records.prepare(operation.method, operation.path)
    alpha.post("/api/v1/gate/evaluate", records.fill(GATED))
    lacking = {"requiredAttestationTypes": ["signature"]}
    alpha.put(f"/api/v1/flows/{records['flowId']}", lacking)
    own, after = answers(alpha), answers(beta)

    assert after == before
    # What is part of the product, or of the whole install, is the same everywhere.
    same = {path for path, answer in own.items() if answer == before[path]}
    assert same == {"/api/v1/hub/templates", "/api/v1/evidence/health"}


def test_a_signature_speaks_for_the_workspace_that_keeps_its_secret(delivering):
    lite, alpha, beta = delivering
    records = Records(lite, alpha)
    values = {
        "/api/v1/webhooks/generic": b'{"eventType": "test.passed"}',
        f"/api/v1/organisations/{records['slug']}/slack/commands": b"text=env+production",
    }
    kept = records["webhookConfigId"], records["slackId"]
    alpha.post("/api/v1/environments", {"name": "production", "type": "K8S"})

    def send(path, body):
        result = (
            "application/json" if body.startswith(b"{") else "application/x-www-form-urlencoded"
        )
        headers = {"Content-Type": result} | records.signed(path, body)
        return lite.client().request("POST", path, body=body, headers=headers)

    taken = [send(path, body) for path, body in values.items()]
    # Elsewhere, the same is kept with the same secret: now it does not show who is meant.
    twin = Records(lite, beta)
    beta.post("/api/v1/organisations", {"slug": records["slug"], "name": "Acme"})
    twin["slug"] = records["slug"]
    assert {*kept}.isdisjoint([twin["webhookConfigId"], twin["slackId"]])
    refused = [send(path, body + b" ") for path, body in values.items()]

    assert [answer.status for answer in taken] == [200, 200]
    assert "Environment production (K8S)" in taken[1].json["text"]
    assert len(alpha.get("/api/v1/trails").json) == 1
    assert beta.get("/api/v1/trails").json == []
    assert [answer.status for answer in refused] == [400, 400]


def test_attachments_and_endpoints_of_another_workspace_are_not_there(install, tmp_path):
    lite, alpha, beta = install
    lite.close()

    with opened(tmp_path, "beta") as own:
        content = own.attachment(beta.attachment)[1]
        endpoints = [endpoint["id"] for endpoint in own.webhooks.list()]
        with pytest.raises(NotFound):
            own.attachment(alpha.attachment)
        with pytest.raises(NotFound):
            own.webhooks.rotate(alpha.endpoint)
        with pytest.raises(NotFound):
            own.accounts.rotate(alpha.client_id)

    assert content == b"Of beta"
    assert endpoints == [beta.endpoint]


def test_a_ciphertext_moved_to_another_workspace_stays_closed(install, tmp_path):
    lite, *_ = install
    lite.close()
    with opened(tmp_path, "alpha") as own:
        sealed = own.workspace.ring.seal_bytes(b"secret", "a place")

    with opened(tmp_path, "beta") as other, pytest.raises(Exception, match="cannot be opened"):
        other.workspace.ring.open_bytes(sealed, "a place")


def test_each_workspace_has_a_file_a_key_and_an_audit_log_of_its_own(install, tmp_path):
    lite, *_ = install
    lite.close()
    files = {path.name for path in tmp_path.iterdir() if path.suffix in (".db", ".key")}

    actors = []
    for slug in ("alpha", "beta"):
        with opened(tmp_path, slug) as own:
            actors.append({actor for actor, *_ in audit(own) if actor.startswith("svc_")})
            assert own.verify() == []

    assert files == {"alpha.db", "alpha.db.key", "beta.db", "beta.db.key"}
    keys = [(tmp_path / f"{slug}.db.key").read_bytes() for slug in ("alpha", "beta")]
    assert keys[0] != keys[1]
    assert actors[0].isdisjoint(actors[1])


def test_a_workspace_is_named_where_there_are_several(install):
    lite, *_ = install

    with pytest.raises(Invalid, match="Name one of the workspaces: alpha, beta"):
        lite.collection("controls")


def test_a_slug_is_taken_once_and_is_a_plain_name(install):
    lite, *_ = install

    with pytest.raises(Conflict):
        lite.create_workspace("alpha")
    for slug in ("", "Alpha", "../alpha", "a/b", "a.b", "x" * 64, "-a"):
        with pytest.raises(Invalid):
            lite.create_workspace(slug)


def test_an_install_that_names_no_workspace_answers_as_a_whole(install):
    lite, *_ = install

    live = lite.client().get("/api/health/live")
    ready = lite.client().get("/api/health/ready")
    refused = lite.client().get("/api/v1/flows")
    unknown = lite.client().get("/nothing")

    assert (live.status, live.json, ready.status) == (200, {"status": "ok"}, 200)
    assert (refused.status, unknown.status) == (401, 404)


def test_an_open_factstore_needs_to_know_its_workspace(tmp_path):
    for slug in ("alpha", "beta"):
        with opened(tmp_path, slug) as lite:
            lite.create_workspace(slug)

    with opened(tmp_path, factstore_auth="open") as lite:
        refused = lite.client().get("/api/v1/flows")

    assert (refused.status, refused.json["error"]) == (401, "Unauthorized")
