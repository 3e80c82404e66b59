"""Policy bundles: uploaded in every form, compiled, one of them active; and what they decide."""

import gzip
import io
import json
import random
import stat
import tarfile
import threading
import zipfile

import pytest
from multipart import FORM, form, part
from stored import audit, ledger, tables

from factstore.pipelines import happenings
from factstore.trails import another_trail, begin_trail
from novantra_lite import (
    Artifact,
    NovantraLite,
    PolicyBundle,
    RegoEngine,
    Settings,
    write_transaction,
)

BUNDLES, EVALUATE = "/api/v1/opa/bundles", "/api/v1/opa/evaluate"
ONE = "sha256:" + "1" * 64
DECISIONS = "/api/v1/opa/decisions"
ALLOW_QA = 'package p\ndefault allow := false\nallow if input.environment == "qa"\n'
DENY_ALL = 'package p\ndeny contains "frozen"\n'
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def engine():
    """One child for all tests, with time on a busy machine."""
    engine = RegoEngine(Settings(rego_deadline=60.0))
    yield engine
    engine.close()


@pytest.fixture
def lite(clock, engine):
    with NovantraLite(clock=clock, random=random.Random(7), rate_limits=False) as lite:
        own, lite.rego = lite.rego, engine
        yield lite
        lite.rego = own


def store(client, rego, name="gate", **members):
    """The id of a new bundle."""
    body = {"name": name, "version": "1", "regoContent": rego, **members}
    return client.post(BUNDLES, body).json["id"]


def activate(client, bundle):
    return client.put(f"{BUNDLES}/{bundle}/activate")


def send(client, content, file_name="policy.rego", **fields):
    """Upload a file in a form with the fields."""
    fields = {"name": "gate", **fields}
    texts = [
        part(text.encode(), f'form-data; name="{field}"', "") for field, text in fields.items()
    ]
    file = part(content, f'form-data; name="file"; filename="{file_name}"', "")
    return client.request("POST", BUNDLES, body=form(*texts, file), headers=FORM)


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def tarred(files, **traits):
    """A tar.gz of files; the traits are those of every entry."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for trait, value in traits.items():
                setattr(entry, trait, value)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return data.getvalue()


def test_a_bundle_is_stored_and_decides_nothing_yet(lite, factstore):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    body = {"name": "gate", "version": "1.2", "regoContent": ALLOW_QA, "orgSlug": "acme"}

    stored = factstore.post(BUNDLES, body)

    assert stored.status == 201
    assert stored.json == {
        "id": stored.json["id"],
        "name": "gate",
        "version": "1.2",
        "regoContent": ALLOW_QA,
        "status": "INACTIVE",
        "orgSlug": "acme",
        "createdAt": "2026-06-01T12:00:00.000000Z",
        "updatedAt": "2026-06-01T12:00:00.000000Z",
        "flowId": None,
        "environmentId": None,
    }
    assert factstore.get(f"{BUNDLES}/{stored.json['id']}").json == stored.json
    assert factstore.get(BUNDLES).json == [stored.json]
    assert factstore.post(EVALUATE, {"artifactName": "svc"}).status == 404
    assert audit(lite)[-1][1:3] == ("policy_bundle.uploaded", stored.json["id"])
    assert ledger(lite)[-1] == ("POLICY_BUNDLE_UPLOADED", stored.json["id"])


def test_the_same_name_and_version_may_be_stored_twice_and_both_are_listed_in_order(factstore):
    first, second = store(factstore, ALLOW_QA), store(factstore, ALLOW_QA)

    listed = factstore.get(BUNDLES).json

    assert [bundle["id"] for bundle in listed] == [first, second]


def test_a_dry_run_compiles_and_stores_nothing(lite, factstore):
    before = tables(lite)
    good = {"name": "gate", "version": "1", "regoContent": ALLOW_QA}

    response = factstore.post(BUNDLES, good, headers={"X-Dry-Run": "true"})
    refused = factstore.post(
        BUNDLES, good | {"regoContent": "package p\nallow if"}, headers={"X-Dry-Run": "true"}
    )

    assert (response.status, response.json["wouldCreate"]["regoContent"]) == (200, ALLOW_QA)
    assert refused.status == 422
    assert tables(lite) == before


def test_what_does_not_compile_is_refused_with_the_words_of_the_compiler(lite, factstore):
    before = tables(lite)
    body = {
        "name": "gate",
        "version": "1",
        "regoContent": "package p\n\nallow if {\n  x := := 1\n}",
    }

    refused = factstore.post(BUNDLES, body)

    assert refused.status == 422
    assert refused.json["message"] == (
        "The policy does not compile: policy.rego:4:8: expecting expression"
    )
    assert tables(lite) == before


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": None}, 400),
        ({"name": " "}, 400),
        ({"name": "x" * 256}, 400),
        ({"version": None}, 400),
        ({"version": "x" * 51}, 400),
        ({"regoContent": None}, 400),
        ({"regoContent": ["package p"]}, 400),
        ({"regoContent": "package p\n\0"}, 400),
        ({"regoContent": ""}, 422),
        ({"orgSlug": "nobody"}, 404),
    ],
)
def test_a_bundle_that_is_none_is_refused(factstore, change, status):
    body = {"name": "gate", "version": "1", "regoContent": ALLOW_QA} | change

    assert factstore.post(BUNDLES, body).status == status


def test_the_version_of_rego_that_compiled_is_kept(lite, factstore):
    new, old = store(factstore, ALLOW_QA), store(factstore, "package p\nallow { true }")

    with lite.workspace.read():
        kept = {bundle.id: bundle.syntax for bundle in PolicyBundle.select()}

    assert kept == {new: "v1", old: "v0"}


def test_without_the_extra_an_upload_is_refused_and_an_evaluation_denies(
    lite, factstore, monkeypatch
):
    activate(factstore, store(factstore, ALLOW_QA))
    lite.rego.close()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    body = {"name": "gate", "version": "1", "regoContent": ALLOW_QA}

    refused = factstore.post(BUNDLES, body)
    decided = factstore.post(EVALUATE, {"artifactName": "svc", "environment": "qa"})

    assert refused.status == 503
    assert refused.json["message"] == "Rego needs an extra: pip install 'novantra-lite[rego]'."
    assert decided.json["resultAllow"] is False
    assert decided.json["denyReasons"] == [
        "The policy could not be evaluated: Rego needs an extra: pip install 'novantra-lite[rego]'."
    ]


# --- Forms --------------------------------------------------------------------


def test_one_module_comes_in_a_form_with_its_fields(factstore):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})

    stored = send(factstore, ALLOW_QA.encode(), version="2.0", orgSlug="acme")

    assert stored.status == 201
    assert stored.json["regoContent"] == ALLOW_QA
    assert (stored.json["name"], stored.json["version"]) == ("gate", "2.0")
    assert (stored.json["status"], stored.json["orgSlug"]) == ("INACTIVE", "acme")


def test_a_form_without_a_version_is_of_version_1_0_0(factstore):
    stored = send(factstore, ALLOW_QA.encode(), version="", orgSlug="")

    assert (stored.json["version"], stored.json["orgSlug"]) == ("1.0.0", None)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_of_modules_is_one_bundle_and_all_are_asked(factstore, pack):
    files = {
        "./a/gate.rego": "package a\nallow if data.lib.known",
        "README.md": "# Not a module",
        ".manifest": "{}",
        "a/._gate.rego": "what a Mac leaves behind",
        "lib/known.rego": 'package lib\nknown if input.artifactName == "svc"\n'
        'deny contains "frozen" if input.environment == "prod"',
    }

    stored = send(factstore, pack(files), "bundle")

    assert stored.status == 201
    assert stored.json["regoContent"] == (
        "# a/gate.rego\npackage a\nallow if data.lib.known\n"
        '# lib/known.rego\npackage lib\nknown if input.artifactName == "svc"\n'
        'deny contains "frozen" if input.environment == "prod"'
    )
    activate(factstore, stored.json["id"])
    requests = [{"artifactName": "svc"}, {"artifactName": "x"}]
    requests.append({"artifactName": "svc", "environment": "prod"})
    result = [factstore.post(EVALUATE, body).json["denyReasons"] for body in requests]
    assert result == [[], ["The policy does not allow this."], ["frozen"]]


def test_a_fault_in_an_archive_is_told_by_the_path(factstore):
    refused = send(factstore, zipped({"a.rego": ALLOW_QA, "b/c.rego": "package c\nx := nofn(1)"}))

    assert refused.status == 422
    assert refused.json["message"] == (
        "The policy does not compile: b/c.rego:2:6: undefined function nofn, "
        "or one that is not supported"
    )


def test_a_bundle_as_opa_builds_it_decides_with_its_data_and_without_its_tests(factstore):
    files = {
        "/data.json": '{"limits": {"prod": 1}}',
        "/policy/teams/data.json": '{"payments": ["ann"]}',
        "/policy/gate.rego": "package gate\ndefault allow := false\n"
        "allow if input.artifactName in data.policy.teams.payments\n"
        'deny contains "at its limit" if data.limits[input.environment] < 2',
        "/policy/gate_test.rego": "package gate_test\ntest_it if not data.gate.allow",
        "/.manifest": '{"revision": "", "roots": [""], "rego_version": 1}',
    }

    stored = send(factstore, tarred(files), "bundle.tar.gz")

    assert (stored.status, stored.json["regoContent"]) == (201, files["/policy/gate.rego"])
    activate(factstore, stored.json["id"])
    requests = [{"artifactName": "ann"}, {"artifactName": "bo"}]
    requests.append({"artifactName": "ann", "environment": "prod"})
    result = [factstore.post(EVALUATE, body).json["denyReasons"] for body in requests]
    assert result == [[], ["The policy does not allow this."], ["at its limit"]]


@pytest.mark.parametrize(
    ("files", "result"),
    [
        ({"data.json": '{"p": {"allow": true}}'}, "p.rego:2:9: data has allow, too"),
        ({"data.yaml": "a: ["}, "data.yaml:2:1: expected JSON, or YAML"),
        ({".manifest": '{"roots": ["q"]}'}, "p.rego:1:1: the package is not in the roots"),
        (
            {"http.rego": "package h\nx := http.send({})"},
            "http.rego:2:6: undefined function http.se",
        ),
    ],
)
def test_a_bundle_that_is_not_understood_is_refused_with_the_place(lite, factstore, files, result):
    before = tables(lite)

    refused = send(factstore, zipped({"p.rego": ALLOW_QA} | files))

    assert refused.status == 422
    assert result in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(
    "name", ["/../p.rego", "../p.rego", "a/../../p.rego", "a\\p.rego", "C:/p.rego", "p\n.rego"]
)
def test_a_path_that_leads_out_of_an_archive_is_refused(lite, factstore, pack, name):
    before = tables(lite)

    refused = send(factstore, pack({"good.rego": ALLOW_QA, name: ALLOW_QA}))

    assert refused.status == 400
    assert refused.json["message"] == "file: Expected only paths that stay inside the archive"
    assert tables(lite) == before


@pytest.mark.parametrize(
    "type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_device_in_a_tar_is_refused(factstore, type):
    refused = send(factstore, tarred({"p.rego": ""}, type=type, linkname="/etc/passwd"))

    assert refused.status == 400
    assert "no links or devices" in refused.json["message"]


def test_a_link_in_a_zip_is_refused(factstore):
    entry = zipfile.ZipInfo("p.rego")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16

    refused = send(factstore, zipped({entry: "/etc/passwd"}))

    assert refused.status == 400
    assert "no links or devices" in refused.json["message"]


def encrypted_zip():
    """A zip whose entry says that it is encrypted."""
    data = bytearray(zipped({"p.rego": ALLOW_QA}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def broken_zip():
    """A zip whose entry is not what its checksum says."""
    data = bytearray(zipped({"p.rego": ALLOW_QA}))
    data[data.index(b"PK\x01\x02") + 16] ^= 1
    return bytes(data)


def lzma_zip():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("p.rego", ALLOW_QA)
    return data.getvalue()


BAD_FILES = {
    "nothing in a zip": (zipped({}), "at least one .rego file"),
    "no module in a zip": (zipped({"a.txt": "x"}), "at least one .rego file"),
    "no module in a tar": (tarred({"a.txt": "x"}), "at least one .rego file"),
    "only a directory": (tarred({"p.rego": ""}, type=tarfile.DIRTYPE), "at least one .rego file"),
    "latin-1": ("package p # é".encode("latin-1"), "Expected text in UTF-8 without NUL"),
    "latin-1 in a zip": (zipped({"p.rego": b"package p # \xe9"}), "Expected text in UTF-8"),
    "a NUL": (b"package p\0", "Expected text in UTF-8 without NUL"),
    "a cut zip": (zipped({"p.rego": ALLOW_QA})[:-30], "a sound zip or tar.gz"),
    "a zip that does not add up": (broken_zip(), "a sound zip or tar.gz"),
    "a cut tar": (tarred({"p.rego": ALLOW_QA * 50})[:-40], "a sound zip or tar.gz"),
    "a gzip of no tar": (gzip.compress(b"x" * 5000), "a sound zip or tar.gz"),
    "an encrypted zip": (encrypted_zip(), "is encrypted, or packed in a rare way"),
    "a zip of a rare kind": (lzma_zip(), "is encrypted, or packed in a rare way"),
    "one path twice": (
        tarred({"p.rego": ALLOW_QA, "./p.rego": ALLOW_QA}),
        "Expected p.rego only once",
    ),
    "too many in a zip": (zipped({f"{n}.txt": "" for n in range(1001)}), "at most 1000 entries"),
    "too many in a tar": (tarred({f"{n}.txt": "" for n in range(1001)}), "at most 1000 entries"),
    "a bomb in a zip": (zipped({"p.rego": "#" * 50_000_000}), "at most 1000000 bytes together"),
    "many halves in a zip": (
        zipped({f"{n}.rego": "#" * 400_000 for n in range(3)}),
        "at most 1000000 bytes together",
    ),
    "a bomb in a tar": (tarred({"p.rego": "#" * 3_000_000}), "at most 1000000 bytes together"),
    "a bomb beside": (tarred({"a.txt": "#" * 50_000_000}), "at most 4000000 bytes when unpacked"),
    "a bomb in a header": (
        tarred({"p.rego": ALLOW_QA}, pax_headers={"comment": "#" * 9_000_000}),
        "at most 4000000 bytes when unpacked",
    ),
    "a long module": (b"#" * 1_000_001, "at most 1000000 bytes together"),
}


@pytest.mark.parametrize(("content", "result"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_is_no_bundle_is_refused(lite, factstore, content, result):
    before = tables(lite)

    refused = send(factstore, content)

    assert refused.status == 400
    assert result in refused.json["message"]
    assert tables(lite) == before


def test_any_damage_to_an_archive_is_refused_or_harmless(factstore):
    chance = random.Random(11)
    for pack in (zipped, tarred):
        whole = pack({"a.rego": ALLOW_QA, "b.rego": "package b"})
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)

            assert send(factstore, bytes(damaged)).status in (201, 400, 422)


def test_a_form_without_a_name_or_a_file_is_refused(factstore):
    nameless = send(factstore, ALLOW_QA.encode(), name="")
    fileless = factstore.request(
        "POST", BUNDLES, body=form(part(b"gate", 'form-data; name="name"', "")), headers=FORM
    )

    assert (nameless.status, fileless.status) == (400, 400)


# --- Activation ---------------------------------------------------------------


def test_activation_moves_the_bundle_that_was_active_too(lite, factstore, clock):
    first, second = store(factstore, ALLOW_QA), store(factstore, DENY_ALL)
    activate(factstore, first)
    clock.advance(60)

    response = activate(factstore, second)

    assert (response.status, response.json["id"], response.json["status"]) == (
        200,
        second,
        "ACTIVE",
    )
    listed = factstore.get(BUNDLES).json
    assert [bundle["status"] for bundle in listed] == ["INACTIVE", "ACTIVE"]
    assert {bundle["updatedAt"] for bundle in listed} == {"2026-06-01T12:01:00.000000Z"}
    assert {bundle["createdAt"] for bundle in listed} == {"2026-06-01T12:00:00.000000Z"}
    assert ledger(lite)[-2:] == [
        ("POLICY_BUNDLE_UPDATED", first),
        ("POLICY_BUNDLE_UPDATED", second),
    ]


def test_activating_the_active_bundle_moves_its_time(factstore, clock):
    bundle = store(factstore, ALLOW_QA)
    activate(factstore, bundle)
    clock.advance(60)

    response = activate(factstore, bundle)

    assert (response.status, response.json["status"]) == (200, "ACTIVE")
    assert response.json["updatedAt"] == "2026-06-01T12:01:00.000000Z"


def test_a_dry_run_of_an_activation_activates_nothing(lite, factstore):
    bundle = store(factstore, ALLOW_QA)
    before = tables(lite)

    response = factstore.put(f"{BUNDLES}/{bundle}/activate", headers={"X-Dry-Run": "true"})

    assert response.json["wouldUpdate"]["status"] == "ACTIVE"
    assert tables(lite) == before


def test_of_two_threads_that_activate_one_remains(lite, factstore):
    bundles = [store(factstore, ALLOW_QA) for _ in range(4)]
    threads = [
        threading.Thread(target=activate, args=(factstore, record)) for record in bundles * 2
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
        lite.workspace.reader.close_ended()

    statuses = [bundle["status"] for bundle in factstore.get(BUNDLES).json]
    assert sorted(statuses) == ["ACTIVE", "INACTIVE", "INACTIVE", "INACTIVE"]


# --- Bundles of a flow or an environment --------------------------------------

GATE = "/api/v1/gate/evaluate"


def environment(factstore, name):
    """The id of a new environment."""
    return factstore.post("/api/v1/environments", {"name": name, "type": "K8S"}).json["id"]


def test_a_bundle_of_an_environment_shuts_its_gate_and_no_other(lite, factstore):
    prod, qa = environment(factstore, "prod"), environment(factstore, "qa")
    report(lite, begin_trail(lite, factstore))
    bundle = store(factstore, DENY_ALL, name="freeze", environmentId=prod)
    body = {"artifactSha256": ONE}

    before = factstore.post(GATE, body | {"environmentId": prod}).json
    activate(factstore, bundle)
    shut = factstore.post(GATE, body | {"environmentId": prod}).json
    other = factstore.post(GATE, body | {"environmentId": qa}).json
    mistyped = factstore.post(GATE, body | {"environment": "prdo"}).json

    assert (before["decision"], before["policiesEvaluated"]) == ("ALLOWED", 0)
    assert (shut["decision"], shut["allowed"], shut["policiesEvaluated"]) == ("BLOCKED", False, 1)
    assert shut["blockReasons"] == ["Policy bundle 'freeze': frozen"]
    assert (shut["reason"], shut["policyName"]) == ("Policy bundle 'freeze': frozen", "freeze")
    assert (other["decision"], mistyped["decision"]) == ("ALLOWED", "BLOCKED")


def test_a_bundle_of_a_flow_is_asked_about_the_artifacts_of_that_flow(lite, factstore):
    trail = begin_trail(lite, factstore)
    flow = factstore.get(f"/api/v1/trails/{trail}").json["flowId"]
    second = factstore.post("/api/v1/flows", {"name": "other", "description": ""}).json["id"]
    report(lite, trail)
    policy = (
        'package p\nallow if {\n  input.artifactName == "svc"; input.artifactVersion == "1"\n'
        '  input.trail.flowName == "payments"; input.attestations[_].type == "SBOM"\n}'
    )
    activate(factstore, store(factstore, policy, name="sbom", flowId=flow))
    activate(factstore, store(factstore, DENY_ALL, name="freeze", flowId=second))
    body = {"artifactSha256": ONE}

    without = factstore.post(GATE, body).json
    factstore.post(f"/api/v1/trails/{trail}/attestations", {"type": "SBOM", "status": "PASSED"})
    allowed = factstore.post(GATE, body).json
    named = factstore.post(GATE, body | {"flowId": second}).json
    nobody = {"artifactSha256": "sha256:" + "2" * 64}
    unreported = factstore.post(GATE, nobody).json
    mistyped = factstore.post(GATE, nobody | {"flowId": "no such flow"}).json

    assert without["blockReasons"] == ["Policy bundle 'sbom': The policy does not allow this."]
    assert (allowed["decision"], allowed["reason"]) == ("ALLOWED", "Every policy is met.")
    assert named["blockReasons"] == ["Policy bundle 'freeze': frozen"]
    assert unreported["blockReasons"] == [
        "Policy bundle 'sbom': The policy does not allow this.",
        "Policy bundle 'freeze': frozen",
    ]
    assert mistyped["blockReasons"] == unreported["blockReasons"]


def test_a_bundle_is_asked_about_an_artifact_whose_digest_an_older_version_spelled(lite, factstore):
    trail = begin_trail(lite, factstore)
    (flow,) = (flow["id"] for flow in factstore.get("/api/v1/flows").json)
    report(lite, trail, digest="1" * 64)
    policy = 'package p\nallow := true\ndeny contains "old" if input.trail.status == "PENDING"\n'
    activate(factstore, store(factstore, policy, flowId=flow))

    result = factstore.post(GATE, {"artifactSha256": ONE}).json

    assert result["blockReasons"] == ["Policy bundle 'gate': old"]


def test_one_bundle_of_a_name_is_active_for_each_binding_and_one_for_none(factstore):
    prod, qa = environment(factstore, "prod"), environment(factstore, "qa")
    bindings = [{}, {"environmentId": prod}, {"environmentId": qa}, {"environmentId": prod}]
    bundles = [store(factstore, ALLOW_QA, **binding) for binding in bindings]

    for bundle in bundles:
        activate(factstore, bundle)

    listed = factstore.get(BUNDLES).json
    assert [bundle["status"] for bundle in listed] == ["ACTIVE", "INACTIVE", "ACTIVE", "ACTIVE"]
    assert [bundle["environmentId"] for bundle in listed] == [None, prod, qa, prod]
    response = factstore.post(EVALUATE, {"artifactName": "svc", "environment": "qa"})
    assert (response.status, response.json["bundleId"]) == (200, bundles[0])


def test_any_of_several_bundles_of_one_binding_shuts_the_gate(lite, factstore):
    prod = environment(factstore, "prod")
    report(lite, begin_trail(lite, factstore))
    allow = "package p\nallow := true\n"
    for name, policy in [("freeze", DENY_ALL), ("lax", allow), ("open", allow)]:
        activate(factstore, store(factstore, policy, name=name, environmentId=prod))
    body = {"artifactSha256": ONE, "environmentId": prod}

    shut = factstore.post(GATE, body).json
    replaced = activate(factstore, store(factstore, allow, name="freeze", environmentId=prod))
    opened = factstore.post(GATE, body).json

    listed = factstore.get(BUNDLES).json
    assert (shut["decision"], shut["policiesEvaluated"]) == ("BLOCKED", 3)
    assert shut["blockReasons"] == ["Policy bundle 'freeze': frozen"]
    assert replaced.status == 200
    assert (opened["decision"], opened["policiesEvaluated"]) == ("ALLOWED", 3)
    assert [bundle["status"] for bundle in listed] == ["INACTIVE", "ACTIVE", "ACTIVE", "ACTIVE"]


def test_ten_bundles_at_most_are_active_for_one_binding(factstore):
    prod = environment(factstore, "prod")
    names = [f"policy {number}" for number in range(11)]
    bundles = [store(factstore, ALLOW_QA, name=name, environmentId=prod) for name in names]
    newer = store(factstore, ALLOW_QA, name="policy 3", environmentId=prod)
    unbound = store(factstore, ALLOW_QA, name="policy 10")

    answers = [activate(factstore, bundle) for bundle in [*bundles, newer, unbound]]

    assert [answer.status for answer in answers] == [*[200] * 10, 409, 200, 200]
    assert "10 policy bundles" in answers[10].json["message"]
    listed = factstore.get(BUNDLES).json
    inactive = [number for number, record in enumerate(listed) if record["status"] == "INACTIVE"]
    assert inactive == [3, 10]


def test_the_gate_is_shut_where_it_would_have_to_ask_too_much(lite, factstore):
    trails = [begin_trail(lite, factstore, f"flow {number}") for number in range(20)]
    for trail in trails:
        report(lite, trail)
    prod = environment(factstore, "prod")
    allow = "package p\nallow := true\n"
    names = [f"policy {number}" for number in range(10)]
    for name in names:
        activate(factstore, store(factstore, allow, name=name, environmentId=prod))
    body = {"artifactSha256": ONE, "environmentId": prod}

    within = factstore.post(GATE, body).json
    (flow,) = {factstore.get(f"/api/v1/trails/{trails[0]}").json["flowId"]}
    activate(factstore, store(factstore, allow, name="more", flowId=flow))
    beyond = factstore.post(GATE, body).json

    assert within["decision"] == "ALLOWED"
    assert beyond["blockReasons"] == [
        "Policy bundle 'more': There are too many policy bundles and trails to evaluate."
    ]


def test_a_bundle_that_fails_shuts_the_gate(lite, factstore):
    prod = environment(factstore, "prod")
    policy = 'package p\nallow := true\ndeny contains "x" if to_number(input.environment) > 1'
    activate(factstore, store(factstore, policy, name="number", environmentId=prod))

    body = factstore.post(GATE, {"artifactSha256": ONE, "environmentId": prod}).json

    assert body["decision"] == "BLOCKED"
    assert body["blockReasons"] == [
        "Policy bundle 'number': The policy could not be evaluated: "
        "policy.rego:3: could not parse string as number."
    ]


@pytest.mark.parametrize("member", ["flowId", "environmentId"])
def test_a_bundle_of_what_is_not_there_is_refused(factstore, member):
    body = {"name": "gate", "version": "1", "regoContent": ALLOW_QA, member: UNKNOWN}

    refused = factstore.post(BUNDLES, body)
    mistyped = factstore.post(BUNDLES, body | {member: "x"})

    assert (refused.status, mistyped.status) == (404, 400)
    assert UNKNOWN in refused.json["message"]


def test_a_bundle_in_a_form_is_bound_by_its_fields(factstore):
    prod = environment(factstore, "prod")

    stored = send(factstore, ALLOW_QA.encode(), environmentId=prod)

    assert (stored.status, stored.json["environmentId"]) == (201, prod)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{BUNDLES}/{UNKNOWN}"),
        ("PUT", f"{BUNDLES}/{UNKNOWN}/activate"),
        ("GET", f"{DECISIONS}/{UNKNOWN}"),
    ],
)
def test_what_is_not_there_is_told(factstore, method, path):
    refused = factstore.request(method, path)
    mistyped = factstore.request(method, path.replace(UNKNOWN, "x"))

    assert refused.status == 404
    assert UNKNOWN in refused.json["message"]
    assert mistyped.status == 400


# --- Decisions ----------------------------------------------------------------


def test_without_an_active_bundle_there_is_no_decision(lite, factstore):
    store(factstore, ALLOW_QA)
    before = tables(lite)

    refused = factstore.post(EVALUATE, {"artifactName": "svc"})

    assert refused.status == 404
    assert refused.json["message"] == "There is no active policy bundle; activate one first."
    assert tables(lite) == before


def test_a_decision_is_told_kept_and_audited(lite, factstore):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    bundle = store(factstore, ALLOW_QA, orgSlug="acme")
    activate(factstore, bundle)

    response = factstore.post(EVALUATE, {"artifactName": "svc", "environment": "qa"})

    assert response.status == 200
    assert response.json == {
        "id": response.json["id"],
        "bundleId": bundle,
        "inputJson": '{"artifactName":"svc","artifactVersion":null,"environment":"qa",'
        '"attestations":[],"approvalStatus":null}',
        "resultAllow": True,
        "denyReasons": [],
        "orgSlug": "acme",
        "evaluatedAt": "2026-06-01T12:00:00.000000Z",
    }
    assert factstore.get(DECISIONS).json == [response.json]
    assert factstore.get(f"{DECISIONS}/{response.json['id']}").json == response.json
    assert ("POLICY_DECISION_MADE", response.json["id"]) in ledger(lite)
    happened = happenings(lite)[-1]
    assert happened == (
        "POLICY_EVALUATED",
        happened[1],
        {
            "decisionId": response.json["id"],
            "bundleId": bundle,
            "artifactName": "svc",
            "resultAllow": True,
            "denyReasons": [],
        },
        None,
        None,
    )
    assert happened[1] == audit(lite)[-1][0]


def test_a_denial_is_told_with_its_reasons(lite, factstore):
    activate(factstore, store(factstore, DENY_ALL))

    response = factstore.post(EVALUATE, {"artifactName": "svc"})

    assert (response.status, response.json["resultAllow"]) == (200, False)
    assert response.json["denyReasons"] == ["frozen"]
    assert happenings(lite)[-1][2]["denyReasons"] == ["frozen"]


def test_a_reason_with_bars_stays_one(factstore):
    activate(factstore, store(factstore, 'package p\ndeny contains "a||b"'))

    body = factstore.post(EVALUATE, {"artifactName": "svc"}).json

    assert factstore.get(f"{DECISIONS}/{body['id']}").json["denyReasons"] == ["a||b"]


def test_decisions_are_listed_in_the_order_in_which_they_were_made(factstore):
    activate(factstore, store(factstore, ALLOW_QA))
    made = [factstore.post(EVALUATE, {"artifactName": name}).json["id"] for name in ("a", "b", "c")]

    assert [decision["id"] for decision in factstore.get(DECISIONS).json] == made


def test_a_dry_run_decides_and_keeps_nothing(lite, factstore):
    activate(factstore, store(factstore, DENY_ALL))
    before = tables(lite)

    response = factstore.post(EVALUATE, {"artifactName": "svc"}, headers={"X-Dry-Run": "true"})

    assert response.json["dryRun"] is True
    assert response.json["result"]["denyReasons"] == ["frozen"]
    assert tables(lite) == before


def test_a_repeat_with_the_same_key_gets_the_first_decision(factstore):
    activate(factstore, store(factstore, ALLOW_QA))
    body, key = {"artifactName": "svc"}, {"Idempotency-Key": "once"}

    first, second = (factstore.post(EVALUATE, body, headers=key) for _ in range(2))

    assert first.json == second.json
    assert len(factstore.get(DECISIONS).json) == 1


ASKING = """package p
deny contains sprintf("%s", [json.marshal(input)])
"""


def test_the_input_has_the_five_members_in_order_and_nulls(factstore):
    activate(factstore, store(factstore, ALLOW_QA))
    body = {
        "approvalStatus": None,
        "attestations": [{"type": "SCAN", "status": None}, {}],
        "environment": "qa",
        "artifactVersion": 2.5,
        "artifactName": "é",
        "extra": "left out",
    }

    response = factstore.post(EVALUATE, body)

    assert response.json["inputJson"] == (
        '{"artifactName":"é","artifactVersion":"2.5","environment":"qa",'
        '"attestations":[{"type":"SCAN","status":null},{}],"approvalStatus":null}'
    )


def report(lite, trail, digest=ONE):
    """The id of an artifact that a trail reports."""
    values = {"image_name": "svc", "image_tag": "1", "sha256_digest": digest}
    return write_transaction(
        lite.workspace, lambda current: Artifact.create(trail=trail, **values).id, actor="test"
    )


def test_a_trail_and_an_artifact_that_are_named_are_part_of_the_input(lite, factstore):
    trail = begin_trail(lite, factstore)
    artifact = report(lite, trail)
    policy = (
        "package p\nallow if {\n"
        '  input.trail.status == "PENDING"; input.trail.flowName == "payments"\n'
        '  input.artifact.imageName == "svc"; input.scans == []\n}'
    )
    activate(factstore, store(factstore, policy))
    body = {"artifactName": "svc", "trailId": trail.upper(), "artifactDigest": ONE.upper()}

    response = factstore.post(EVALUATE, body)

    document = json.loads(response.json["inputJson"])
    assert response.json["resultAllow"] is True
    assert list(document)[5:] == ["trail", "artifact", "scans"]
    assert (document["trail"]["id"], document["artifact"]["id"]) == (trail, artifact)
    assert happenings(lite)[-1][3:] == (trail, ONE)


def test_an_artifact_is_the_one_first_reported_or_that_of_the_trail_or_the_one_named(
    lite, factstore
):
    first = begin_trail(lite, factstore)
    second = another_trail(lite, factstore.get(f"/api/v1/trails/{first}").json["flowId"])
    artifacts = [report(lite, trail) for trail in (first, second)]
    activate(factstore, store(factstore, ALLOW_QA))
    requests = [
        {"artifactDigest": ONE.upper()},
        {"artifactDigest": ONE.upper(), "trailId": second},
        {"artifactId": artifacts[1]},
    ]

    rows = [factstore.post(EVALUATE, {"artifactName": "svc", **ids}).json for ids in requests]

    seen = [json.loads(record["inputJson"])["artifact"]["id"] for record in rows]
    assert seen == [artifacts[0], artifacts[1], artifacts[1]]


@pytest.mark.parametrize(
    ("ids", "status"),
    [
        ({"trailId": UNKNOWN}, 404),
        ({"artifactId": UNKNOWN}, 404),
        ({"artifactDigest": "ab" * 32}, 404),
        ({"artifactDigest": "sha256:none"}, 400),
        ({"trailId": "x"}, 400),
        ({"artifactId": 7}, 400),
        ({"artifactName": None}, 400),
        ({"artifactName": ["svc"]}, 400),
        ({"attestations": {}}, 400),
        ({"attestations": ["SCAN"]}, 400),
        ({"attestations": [{"type": ["SCAN"]}]}, 400),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(lite, factstore, ids, status):
    activate(factstore, store(factstore, ALLOW_QA))
    before = tables(lite)

    refused = factstore.post(EVALUATE, {"artifactName": "svc"} | ids)

    assert refused.status == status
    assert tables(lite) == before


def test_a_policy_that_does_not_end_denies_and_the_next_one_decides(lite, factstore):
    endless = (
        "package p\nmany := numbers.range(1, 100000)\n"
        "allow if { some a in many; some b in many; a + b == -1 }"
    )
    activate(factstore, store(factstore, endless))
    lite.rego.deadline = 0.5

    response = factstore.post(EVALUATE, {"artifactName": "svc"})

    lite.rego.deadline = 60.0
    assert response.status == 200
    assert response.json["resultAllow"] is False
    assert response.json["denyReasons"] == [
        "The policy could not be evaluated: it took longer than 0.5 s."
    ]
    activate(factstore, store(factstore, ALLOW_QA))
    again = factstore.post(EVALUATE, {"artifactName": "svc", "environment": "qa"})
    assert again.json["resultAllow"] is True


def test_a_policy_that_took_too_long_is_not_evaluated_for_a_while(lite, factstore, monkeypatch):
    monkeypatch.setattr(RegoEngine, "TIMEOUTS", 1)
    endless = (
        "package p\nmany := numbers.range(1, 200000)\n"
        "allow if { some a in many; some b in many; a + b == -1 }"
    )
    activate(factstore, store(factstore, endless))
    lite.rego.deadline = 0.5

    first = factstore.post(EVALUATE, {"artifactName": "svc"}).json["denyReasons"]
    second = factstore.post(EVALUATE, {"artifactName": "svc"}).json["denyReasons"]

    lite.rego.deadline = 60.0
    assert first == ["The policy could not be evaluated: it took longer than 0.5 s."]
    assert second == [
        "The policy could not be evaluated: it took longer than 0.5 s several times, and is not "
        "evaluated again for 60 s."
    ]


def test_a_policy_that_contradicts_itself_denies(factstore):
    activate(factstore, store(factstore, "package p\nallow := true\nallow := false"))

    body = factstore.post(EVALUATE, {"artifactName": "svc"}).json

    assert body["resultAllow"] is False
    assert body["denyReasons"] == [
        "The policy could not be evaluated: policy.rego:3: rule conflicts with rule at "
        "policy.rego:2:1."
    ]


def test_several_threads_evaluate(lite, factstore):
    activate(factstore, store(factstore, ALLOW_QA))
    rows = []

    def ask(item):
        body = {"artifactName": "svc", "environment": item}
        rows.append((item, factstore.post(EVALUATE, body).json["resultAllow"]))

    threads = [threading.Thread(target=ask, args=(item,)) for item in ("qa", "prod") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lite.workspace.reader.close_ended()

    assert sorted(rows) == [("prod", False)] * 4 + [("qa", True)] * 4


def test_a_decision_can_be_neither_changed_nor_removed(lite, factstore):
    activate(factstore, store(factstore, ALLOW_QA))
    key = factstore.post(EVALUATE, {"artifactName": "svc"}).json["id"]

    def forge(current):
        sql = 'UPDATE "policy_decision" SET "result_allow" = 1 WHERE "id" = ?'
        current.database.connection().execute(sql, (key,))

    with pytest.raises(Exception, match="outside the range of its column"):
        write_transaction(lite.workspace, forge, actor="test")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", BUNDLES, {"name": "gate", "version": "1", "regoContent": ALLOW_QA}),
        ("PUT", f"{BUNDLES}/{UNKNOWN}/activate", None),
        ("POST", EVALUATE, {"artifactName": "svc"}),
    ],
)
def test_who_may_only_read_changes_and_decides_nothing(lite, method, path, body):
    reader = lite.client("factstore:read")

    refused = reader.request(method, path, json=body)

    assert refused.status == 403
