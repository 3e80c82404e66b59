"""Search, and what it finds beyond trails and artifacts."""

import json
import random
import re
import urllib.parse

import pytest
from conftest import WHY

import novantra_lite
from factstore.trails import make, make_trail
from novantra_lite import (
    RESOURCES,
    Artifact,
    Asset,
    Attestation,
    Control,
    Flow,
    NovantraLite,
    Organisation,
    Policy,
    Trail,
    searched_types,
)

NOON = "2026-06-01T12:00:00.000000Z"
DIGEST = "sha256:0011223344556677"


@pytest.fixture
def everything(lite):
    """A client that may read whatever there is."""
    return lite.client("factstore:read", *novantra_lite.novantra_scopes())


def search(client, text, **more):
    """The answer to a search."""
    answer = client.get("/api/v1/search?" + urllib.parse.urlencode({"q": text, **more}))
    assert answer.status == 200
    return answer.json


def titles(client, text, **more):
    """The titles of what a search finds, the best first."""
    return [result["title"] for result in search(client, text, **more)["results"]]


def an_asset(name, **values):
    """An asset of this name, made in the session at hand."""
    values = {"asset_key": name, "asset_kind": "tool", **values}
    return Asset.create(display_name=name, **values)


def test_a_trail_is_told_as_its_clients_read_it(lite, factstore):
    trail = make_trail(lite)

    matches = search(factstore, "c0ffee")

    assert matches == {
        "results": [
            {
                "type": "trail",
                "id": trail,
                "title": "c0ffee — main",
                "description": "Ada <ada@example.com>",
                "metadata": {"status": "PENDING", "gitBranch": "main", "createdAt": NOON},
            }
        ],
        "total": 1,
        "query": "c0ffee",
        "type": None,
    }


def test_an_artifact_is_told_as_its_clients_read_it(lite, factstore):
    trail = make_trail(lite)
    values = {"image_name": "shop", "image_tag": "1.2", "sha256_digest": DIGEST}
    artifact = make(lite, lambda: Artifact.create(trail=trail, **values))

    matches = search(factstore, "shop", type="Artifact")

    assert matches["type"] == "Artifact"
    assert matches["results"] == [
        {
            "type": "artifact",
            "id": artifact.id,
            "title": "shop:1.2",
            "description": "sha256:001122334",
            "metadata": {"sha256Digest": DIGEST, "registry": None, "reportedAt": NOON},
        }
    ]


@pytest.mark.parametrize(
    ("type", "text"),
    [
        *[("trail", text) for text in ("F00D", "hotfix/9", "Ada Lovelace", "ADA@example.org")],
        *[("artifact", text) for text in ("shop/backend", "2026.6", "445566", "robot@ci")],
    ],
)
def test_the_columns_of_the_contract_are_searched(lite, factstore, type, text):
    def work():
        trail = Trail.create(
            flow=Flow.create(name="payments").id,
            git_commit_sha="f00d" * 10,
            git_branch="hotfix/9",
            git_author="Ada Lovelace",
            git_author_email="ada@example.org",
        )
        values = {"image_tag": "2026.6", "sha256_digest": DIGEST, "reported_by": "robot@ci"}
        Artifact.create(trail=trail.id, image_name="shop/backend", **values)

    make(lite, work)

    matches = search(factstore, text)

    assert [result["type"] for result in matches["results"]] == [type]


def test_every_kind_that_is_asked_for_is_found(lite, everything):
    lite.load_demo()
    make(lite, lambda: [Organisation.create(slug="a", name="a"), Policy.create(name="a")])
    make(lite, lambda: novantra_lite.LogicalEnvironment.create(name="a"))

    expected = {
        record_type: search(everything, "a", type=record_type)["results"]
        for record_type in searched_types()
    }

    assert [record_type for record_type, results in expected.items() if not results] == []
    for record_type, results in expected.items():
        assert {result["type"] for result in results} == {record_type}
        assert all(result["title"] for result in results)
        for value in (value for result in results for value in result["metadata"].values()):
            assert value is None or isinstance(value, str)


@pytest.mark.parametrize("query", ["q=", "q=%20%09", "q=%20&type=spaceship"])
def test_a_blank_text_finds_nothing(lite, factstore, query):
    make_trail(lite)

    answer = factstore.get(f"/api/v1/search?{query}")

    assert answer.status == 200
    assert (answer.json["results"], answer.json["total"], answer.json["query"]) == ([], 0, "")


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("", "q: Required"),
        ("type=trail", "q: Required"),
        ("q=a&type=spaceship", "type: Expected one of: attestation, artifact, trail"),
        ("q=a&limit=0", "limit: Expected a number from 1 to 1000"),
        ("q=a&limit=1001", "limit: Expected a number from 1 to 1000"),
        ("q=a%00b", "q: Expected text without NUL"),
        ("q=" + "a" * 1001, "q: Expected at most 1000 characters"),
    ],
)
def test_what_is_no_search_is_refused(factstore, query, result):
    answer = factstore.get(f"/api/v1/search?{query}")

    assert answer.status == 400
    assert answer.json["message"].startswith(result)


def test_blanks_around_the_text_do_not_count(lite, factstore):
    make_trail(lite, name="late payments")

    matches = search(factstore, "  e pay ")

    assert matches["query"] == "e pay"
    assert [result["title"] for result in matches["results"]] == ["late payments"]


def test_a_text_is_found_as_a_whole(lite, factstore):
    make_trail(lite, name="late payments")

    assert titles(factstore, "payments late") == []


@pytest.mark.parametrize("text", ["torque", "TORQUE", "que wre", "7", "rq", "wrench-7", "-7"])
def test_a_text_is_found_wherever_it_stands(lite, everything, text):
    make(lite, lambda: an_asset("Torque wrench", asset_key="torque-wrench-7"))

    assert titles(everything, text) == ["Torque wrench"]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("Αθήνα, ΟΔΟΣ Ερμού", ["αθήνα", "ΑΘΉΝΑ", "οδός ερμού", "Σ ε", "ΥΎ", "οσ", "ος"]),
        ("Москва, склад Б", ["москва", "МОСКВА", "КЛАД", "ск", "Б", "б"]),
        ("東京第一格納庫", ["東京", "格納庫", "第", "庫", "東京第一格納庫"]),
        ("Große Straße", ["STRAẞE", "große", "GROẞE S", "ß", "ẞ"]),
        ("تفتيش الطائرة", ["الطائرة", "تفتيش", "ئر"]),
        ("Ელენე", ["Ელენე", "Ე", "Ელ"]),
        ("🛠️ tools", ["🛠️", "🛠️ T", "️ t"]),
    ],
)
def test_every_script_is_searched(lite, everything, name, texts):
    make(lite, lambda: [an_asset(name), an_asset("none of these")])

    expected = {text: titles(everything, text) for text in texts}

    # Greek accents count: they are letters of their own.
    absent = {"οδός ερμού", "ΥΎ"}
    assert expected == {text: [] if text in absent else [name] for text in texts}


@pytest.mark.parametrize(
    "text",
    [
        *("%", "_", "%%%", "a%b", "*", "tor*", "^tor", "'", '"', '"torque', "(", "-", "tor\\"),
        *("torque OR x", "torque AND wrench", "NOT x", "NEAR(torque)", "text:torque", "{text}: t"),
    ],
)
def test_nothing_in_a_text_means_anything_but_itself(lite, everything, text):
    make(lite, lambda: [an_asset("torque wrench"), an_asset(f"see {text} there")])

    assert titles(everything, text) == [f"see {text} there"]


def test_names_come_first_then_their_beginnings_then_the_newest(lite, everything):
    names = ["a pump", "pumps", "one pump", "pump", "pumpkin", "my pump"]
    make(lite, lambda: [an_asset(name) for name in names])
    make(lite, lambda: Control.create(control_key="c", title="Every pump is looked at"))

    matches = titles(everything, "PUMP")

    assert matches[:3] == ["pump", "pumpkin", "pumps"]
    assert matches[3:] == ["Every pump is looked at", "my pump", "one pump", "a pump"]


def test_a_key_and_a_digest_are_names_too(lite, everything):
    make(lite, lambda: [an_asset("Wrench", asset_key="w-7"), an_asset("Not w-7")])
    trail = make_trail(lite)
    values = {"image_name": "shop", "image_tag": "1.2", "sha256_digest": DIGEST}
    make(lite, lambda: Artifact.create(trail=trail, **values))

    assert titles(everything, "W-7") == ["Wrench", "Not w-7"]
    assert titles(everything, DIGEST) == ["shop:1.2"]


def test_so_many_are_told_as_are_asked_for_and_all_are_counted(lite, everything):
    make(lite, lambda: [an_asset(f"wrench {number}") for number in range(103)])

    assert len(titles(everything, "wrench")) == 100
    assert titles(everything, "wrench", limit=2) == ["wrench 102", "wrench 101"]
    assert search(everything, "wrench", limit=2)["total"] == 103
    assert len(titles(everything, "wrench", limit=1000)) == 103


def test_no_more_than_a_bounded_number_is_counted(lite, everything, monkeypatch):
    monkeypatch.setattr(novantra_lite, "MATCHES", 5)
    make(lite, lambda: [an_asset("wrench"), *(an_asset(f"a wrench {n}") for n in range(9))])

    matches = search(everything, "wrench")

    assert matches["total"] == 5
    assert matches["results"][0]["title"] == "wrench"


def test_a_type_narrows_the_search(lite, everything):
    make_trail(lite, name="wrench")
    make(lite, lambda: [an_asset("wrench"), Control.create(control_key="wrench", title="Wrench")])

    expected = {
        item: titles(everything, "wrench", type=item) for item in ("flow", "ASSET", "trail")
    }

    assert expected == {"flow": ["wrench"], "ASSET": ["wrench"], "trail": []}


def test_each_collection_of_novantra_is_searched_with_its_own_scope(lite):
    make_trail(lite, name="wrench")
    make(lite, lambda: [an_asset("wrench"), Control.create(control_key="wrench", title="Wrench")])
    scopes = [(), ("assets:read",), ("governance.controls:read",), ("factstore:write",)]

    matches = [
        [result["type"] for result in search(client, "wrench")["results"]]
        for client in (lite.client("factstore:read", *more) for more in scopes)
    ]

    assert matches == [["flow"], ["asset", "flow"], ["control", "flow"], ["flow"]]
    without = lite.client("factstore:read")
    assert search(without, "wrench")["total"] == 1
    assert search(without, "wrench", type="asset")["results"] == []


@pytest.mark.parametrize(
    ("scopes", "status"),
    [(("assets:read",), 403), (("factstore:write",), 403), (("factstore:read",), 200)],
)
def test_searching_takes_the_scope_that_reads_factstore(lite, scopes, status):
    answer = lite.client(*scopes).get("/api/v1/search?q=wrench")

    assert answer.status == status


def test_one_scope_reads_each_kind():
    scopes = {}
    for resource in RESOURCES:
        if resource.model and resource.model.searched:
            scopes.setdefault(resource.model.searched.type, set()).add(f"{resource.scope}:read")

    assert scopes == {record_type: {scope} for record_type, (_, scope) in searched_types().items()}


def test_what_is_encrypted_is_neither_found_nor_told(lite, everything):
    values = {"asset_key": "w", "asset_kind": "tool", "description": "Kept in the vault"}
    make(lite, lambda: Asset.create(display_name="Wrench", **values))

    matches = search(everything, "Wrench")

    assert titles(everything, "vault") == []
    assert "vault" not in json.dumps(matches)


def test_nothing_that_is_searched_or_told_is_encrypted_or_hidden():
    for model, _ in searched_types().values():
        searched = model.searched
        named = f"{searched.names} {searched.text} {searched.details}".split()
        named += re.findall(r"{(\w+)", searched.title + searched.description)
        fields = [model._meta.fields[name] for name in named]
        assert [field.name for field in fields if field.sealed or field.hidden] == []


def test_what_is_written_through_the_api_is_found_until_it_is_deleted(factstore):
    made = factstore.post("/api/v1/flows", {"name": "payments"}).json
    path = f"/api/v1/flows/{made['id']}"

    matches = [titles(factstore, "payments")]
    factstore.put(path, {"name": "settlements"})
    matches += [titles(factstore, "payments"), titles(factstore, "settle")]
    factstore.delete(path)
    matches += [titles(factstore, "settle")]

    assert matches == [["payments"], [], ["settlements"], []]


def test_a_deleted_flow_takes_its_trails_out_of_the_search(lite, factstore):
    make_trail(lite)
    flow = search(factstore, "payments")["results"][0]["id"]

    factstore.delete(f"/api/v1/flows/{flow}")

    assert search(factstore, "f00d")["total"] == 0


def test_what_is_gone_by_the_time_that_it_is_told_is_left_out(lite, everything):
    make(lite, lambda: [an_asset("wrench one"), an_asset("wrench two")])
    connection = lite.workspace.writer.database.connection()

    connection.execute("DELETE FROM asset WHERE display_name = 'wrench two'")

    assert titles(everything, "wrench") == ["wrench one"]


def test_a_dry_run_leaves_the_search_as_it_was(factstore):
    headers = {"X-Dry-Run": "true"}

    factstore.post("/api/v1/flows", {"name": "payments"}, headers=headers)

    assert titles(factstore, "payments") == []


def test_a_refused_write_leaves_the_search_as_it_was(lite, everything):
    def work():
        an_asset("wrench")
        raise ValueError

    with pytest.raises(ValueError):
        make(lite, work)

    assert titles(everything, "wrench") == []


def test_an_attestation_is_found_by_what_it_says(lite, factstore):
    trail = make_trail(lite)
    values = {"type": "junit", "name": "unit tests", "evidence_file_name": "report.xml"}
    made = make(lite, lambda: Attestation.create(trail=trail, status="PASSED", **values))

    matches = [search(factstore, text)["results"] for text in ("JUnit", "t tests", "report.x")]

    assert matches[0] == matches[1] == matches[2]
    assert matches[0] == [
        {
            "type": "attestation",
            "id": made.id,
            "title": "junit",
            "description": "unit tests PASSED",
            "metadata": {"status": "PASSED", "trailId": trail, "createdAt": NOON},
        }
    ]


def test_an_imported_file_is_searched(lite, everything):
    row = {"assetKey": "w-7", "assetKind": "tool", "displayName": "Torque wrench 7"}
    row |= {"sourceKind": "manual", "status": "active"}

    rows = enumerate([row, row | {"assetKey": "w-8"}, row], 1)
    lite.collection("assets").import_rows(rows, reason=WHY)

    assert sorted(titles(everything, "wrench 7")) == ["Torque wrench 7", "Torque wrench 7"]


def test_another_workspace_is_not_searched(lite, clock, everything):
    with NovantraLite(clock=clock, random=random.Random(8)) as other:
        make(other, lambda: an_asset("wrench"))

        assert titles(everything, "wrench") == []
        assert titles(other.client("factstore:read", "assets:read"), "wrench") == ["wrench"]


def test_searching_stores_nothing(lite, everything):
    make(lite, lambda: an_asset("wrench"))
    lite.workspace.update_index()
    connection = lite.workspace.writer.database.connection()
    before = connection.execute("PRAGMA data_version").fetchone(), connection.total_changes

    search(everything, "wrench")
    search(everything, "w")

    after = connection.execute("PRAGMA data_version").fetchone(), connection.total_changes
    assert after == before
