"""The Python API to the records that v1 only reads: collections, imports, exports, OSCAL."""

import base64
import io
import json
import random

import pytest
from conftest import WHY, Clock
from stored import audit, events, ledger, tables

from novantra_lite import (
    Conflict,
    EvidenceClaim,
    Invalid,
    NotFound,
    NovantraLite,
    Report,
    RowFault,
    Unprocessable,
    collection_names,
    read_rows,
    write_rows,
    write_transaction,
)

ASSET = {"assetKey": "drill-7", "assetKind": "calibrated-tool", "displayName": "Drill 7"}


@pytest.fixture
def assets(lite):
    return lite.collection("assets")


def rows(data, format):
    """The rows in this text."""
    return read_rows(io.BytesIO(data.encode()), format)


def told(report):
    """What a report counts: created, updated, unchanged, refused."""
    return report.created, report.updated, report.unchanged, report.refused


# --- Records ------------------------------------------------------------------


def test_a_record_is_made_audited_and_proven(lite, assets):
    asset = assets.create(reason=f"  {WHY} ", **ASSET, description="Kept in the hangar.")

    assert asset["id"].startswith("asset_")
    assert asset.items() >= ASSET.items()
    assert assets.retrieve(asset["id"]) == asset
    assert list(assets.list()) == [asset]
    assert audit(lite)[-1] == ("console", "asset.created", asset["id"], WHY)
    assert ledger(lite)[-1] == ("ASSET_CREATED", asset["id"])


def test_a_record_is_changed_audited_and_proven(lite, clock, assets):
    asset = assets.create(reason=WHY, **ASSET, description="Old")
    clock.advance(60)

    changed = assets.update(asset["id"], reason=WHY, displayName="Drill 8", description=None)

    assert changed == asset | {
        "displayName": "Drill 8",
        "description": None,
        "updatedAt": "2026-06-01T12:01:00.000Z",
    }
    assert assets.retrieve(asset["id"]) == changed
    assert audit(lite)[-1] == ("console", "asset.updated", asset["id"], WHY)
    assert lite.verify() == []


def test_a_change_of_nothing_is_no_fact(lite, clock, assets):
    asset = assets.create(reason=WHY, **ASSET)
    before = audit(lite)
    clock.advance(60)

    changed = assets.update(asset["id"], reason=WHY, displayName="Drill 7")

    assert changed == asset
    assert audit(lite) == before


def test_every_wrong_member_is_named(lite, assets):
    with pytest.raises(Invalid) as caught:
        assets.create(reason=WHY, assetKey="", assetKind=5, commissionedAt="soon")

    assert {fault["path"][0] for fault in caught.value.issues} == {
        *("assetKey", "assetKind", "displayName", "commissionedAt")
    }
    assert list(assets.list()) == []


@pytest.mark.parametrize("reason", ["", "too short", "x" * 1001])
def test_every_write_takes_a_reason(lite, assets, reason):
    asset = assets.create(reason=WHY, **ASSET)

    for write in (
        lambda: assets.create(reason=reason, **ASSET | {"assetKey": "other"}),
        lambda: assets.update(asset["id"], reason=reason, displayName="Other"),
        lambda: assets.import_rows([(1, ASSET)], reason=reason),
    ):
        with pytest.raises(Invalid, match="reason"):
            write()

    assert list(assets.list()) == [asset]


def test_a_member_that_does_not_exist_is_refused(assets):
    asset = assets.create(reason=WHY, **ASSET)

    with pytest.raises(Invalid, match="colour"):
        assets.update(asset["id"], reason=WHY, colour="red")
    with pytest.raises(Invalid, match="colour"):
        assets.create(reason=WHY, **ASSET | {"assetKey": "other"}, colour="red")


def test_a_member_that_must_be_there_cannot_be_emptied(assets):
    asset = assets.create(reason=WHY, **ASSET)

    with pytest.raises(Invalid, match="displayName"):
        assets.update(asset["id"], reason=WHY, displayName=None)


@pytest.mark.parametrize("member", ["id", "createdAt", "updatedAt"])
def test_what_makes_a_record_itself_cannot_be_changed(assets, member):
    asset = assets.create(reason=WHY, **ASSET)
    value = {"id": "asset_other"}.get(member, "2020-01-01T00:00:00Z")

    with pytest.raises(Invalid, match=member):
        assets.update(asset["id"], reason=WHY, **{member: value})

    assert assets.retrieve(asset["id"]) == asset


def test_a_record_that_is_not_there_is_not_found(assets):
    with pytest.raises(NotFound, match="asset_nothing"):
        assets.retrieve("asset_nothing")
    with pytest.raises(NotFound, match="asset_nothing"):
        assets.update("asset_nothing", reason=WHY, displayName="X")


def test_a_list_is_filtered_limited_and_longer_than_one_page(assets):
    assets.import_rows(
        ((n, ASSET | {"assetKey": f"drill-{n:04}"}) for n in range(1200)), reason=WHY
    )
    assets.create(reason=WHY, **ASSET | {"assetKey": "van", "assetKind": "vehicle"})

    keys = [asset["assetKey"] for asset in assets.list(assetKind="calibrated-tool")]

    assert keys == [f"drill-{n:04}" for n in range(1200)]
    assert [asset["assetKey"] for asset in assets.list(limit=3)] == [
        *("drill-0000", "drill-0001", "drill-0002")
    ]
    assert [asset["assetKey"] for asset in assets.list(assetKind="vehicle")] == ["van"]
    assert list(assets.list(assetKind="ship")) == []


@pytest.mark.parametrize("member", ["colour", "description"])
def test_a_list_cannot_be_filtered_by_what_is_not_there_or_encrypted(assets, member):
    with pytest.raises(Invalid, match=member):
        list(assets.list(**{member: "x"}))


def test_a_status_moves_only_as_allowed(lite):
    findings = lite.collection("findings")
    finding = findings.create(findingKey="f", title="F", severity="low", reason=WHY)

    with pytest.raises(Unprocessable, match="open and cannot become closed"):
        findings.update(finding["id"], status="closed", reason=WHY)
    findings.update(finding["id"], status="accepted", reason=WHY)

    assert [record_type for record_type, _ in events(lite)] == [
        *("finding.created", "finding.updated", "finding.closed")
    ]


@pytest.mark.parametrize("type", ["asset", "control"])
def test_a_subject_of_a_known_kind_must_be_there(lite, type):
    subject = {
        "subjectModuleKey": f"{type}s",
        "subjectResourceType": type,
        "subjectResourceId": f"{type}_nothing",
    }

    with pytest.raises(Unprocessable, match="nothing"):
        lite.collection("controls").create(controlKey="c", title="C", reason=WHY, **subject)


def test_a_collection_goes_by_its_name_and_by_that_of_its_list(lite):
    assert lite.collection("evidence-claims") is lite.collection("evidence-claims")
    assert lite.collection("custodyAssignments").name == "custody-assignments"
    with pytest.raises(NotFound, match="There is no collection nothing; there are frameworks, "):
        lite.collection("nothing")


# --- Imports ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("csv", "assetKey,assetKind,displayName\ndrill-7,calibrated-tool,Drill 7\n"),
        ("csv", "assetKey;assetKind;displayName\ndrill-7;calibrated-tool;Drill 7\n"),
        ("json", json.dumps([ASSET])),
        ("json", json.dumps({"assets": [ASSET]})),
        ("ndjson", json.dumps(ASSET) + "\n"),
    ],
)
def test_rows_come_in_from_each_format(lite, assets, format, data):
    report = assets.import_rows(rows(data, format), reason=WHY)

    (asset,) = assets.list()
    assert told(report) == (1, 0, 0, 0)
    assert asset.items() >= ASSET.items()
    assert audit(lite)[-1] == ("console", "asset.created", asset["id"], WHY)
    assert lite.verify() == []


def test_a_known_key_updates_and_what_a_row_leaves_out_stays(lite, clock, assets):
    old = assets.create(reason=WHY, **ASSET, description="Kept.")
    clock.advance(60)
    data = "assetKey,assetKind,displayName\ndrill-7,calibrated-tool,Renamed\nvan,vehicle,Van\n"

    first = assets.import_rows(rows(data, "csv"), reason=WHY)
    second = assets.import_rows(rows(data, "csv"), reason=WHY)

    assert told(first) == (1, 1, 0, 0)
    assert told(second) == (0, 0, 2, 0)
    assert assets.retrieve(old["id"]) == old | {
        "displayName": "Renamed",
        "updatedAt": "2026-06-01T12:01:00.000Z",
    }


def test_a_row_may_name_its_record_by_id_and_leave_the_rest_out(assets):
    asset = assets.create(reason=WHY, **ASSET)

    by_id = assets.import_rows([(1, {"id": asset["id"], "status": "lost"})], reason=WHY)
    by_key = assets.import_rows([(1, {"assetKey": "drill-7", "status": "found"})], reason=WHY)

    assert (told(by_id), told(by_key)) == ((0, 1, 0, 0), (0, 1, 0, 0))
    assert assets.retrieve(asset["id"])["status"] == "found"


FAULTY = """assetKey,assetKind,displayName,commissionedAt
drill-1,calibrated-tool,Drill 1,2026-01-01
drill-2,calibrated-tool,,soon
drill-3,calibrated-tool,Drill 3,2026-01-01,one too many
drill-4,calibrated-tool,Drill 4,2026-01-01T08:00:00+02:00
"""
FAULTS = [
    RowFault(3, "displayName", "Required"),
    RowFault(3, "commissionedAt", "Expected a date-time such as 2026-07-30T23:59:59Z"),
    RowFault(4, "", "5 cells under a header of 4: quote cells that hold the delimiter."),
]


def test_faulty_rows_are_named_with_line_field_and_fault_and_good_ones_are_taken(lite, assets):
    report = assets.import_rows(rows(FAULTY, "csv"), reason=WHY)

    assert told(report) == (2, 0, 0, 2)
    assert report.faults == FAULTS
    assert [(asset["assetKey"], asset["commissionedAt"]) for asset in assets.list()] == [
        ("drill-1", "2026-01-01T00:00:00.000Z"),
        ("drill-4", "2026-01-01T06:00:00.000Z"),
    ]
    assert [entry[1] for entry in audit(lite)].count("asset.created") == 2
    assert lite.verify() == []


def test_a_faulty_row_keeps_all_out_where_that_is_asked_for(lite, assets):
    before = tables(lite)

    report = assets.import_rows(rows(FAULTY, "csv"), reason=WHY, all_or_nothing=True)

    assert told(report) == (0, 0, 0, 2)
    assert report.faults == FAULTS
    assert tables(lite) == before


def test_good_rows_come_in_all_together(lite, assets):
    report = assets.import_rows([(1, ASSET)], reason=WHY, all_or_nothing=True)

    assert told(report) == (1, 0, 0, 0)
    assert len(list(assets.list())) == 1


@pytest.mark.parametrize("all_or_nothing", [False, True])
def test_a_dry_run_tells_what_would_be_and_stores_nothing(lite, assets, all_or_nothing):
    assets.create(reason=WHY, **ASSET | {"assetKey": "drill-1"})
    before = tables(lite)

    report = assets.import_rows(
        rows(FAULTY, "csv"), reason=WHY, dry_run=True, all_or_nothing=all_or_nothing
    )

    assert told(report) == (1, 1, 0, 2)
    assert report.faults == FAULTS
    assert tables(lite) == before


def test_a_key_that_comes_twice_in_a_file_is_reported_with_both_lines(assets):
    twice = [(4, ASSET), (9, ASSET | {"assetKey": " drill-7\u00a0", "displayName": "Second"})]

    report = assets.import_rows(twice, reason=WHY)

    [asset] = assets.list()
    assert told(report) == (1, 0, 0, 1)
    assert (asset["assetKey"], asset["displayName"]) == ("drill-7", "Drill 7")
    assert report.faults == [
        RowFault(
            9,
            "",
            f"It names the same record as line 4, {asset['id']}: a file may name each record once.",
        )
    ]


def test_keys_with_blanks_around_them_name_one_asset(assets):
    for key in ("drill-7", " drill-7", "drill-7\u3000", "\ufeffdrill-7\u200b"):
        report = assets.import_rows([(1, ASSET | {"assetKey": key})], reason=WHY)

        assert report.refused == 0
    assert [asset["assetKey"] for asset in assets.list()] == ["drill-7"]


def test_a_file_that_breaks_off_keeps_all_rows_before_that(assets):
    count = assets.BATCH + 100
    good = "".join(f"drill-{n},calibrated-tool,Drill\n" for n in range(count))
    data = f'assetKey,assetKind,displayName\n{good}drill-x,"open'

    report = assets.import_rows(rows(data, "csv"), reason=WHY)

    assert told(report) == (2100, 0, 0, 1)
    assert (report.stopped, report.faults[0].line) == (2102, 2102)
    assert report.faults[0].message.startswith("The row in line 2102 is not CSV: close quotes")
    assert report.faults[0].message.endswith("No row from here on is stored.")
    assert len(list(assets.list())) == 2100


def test_a_file_that_breaks_off_brings_in_nothing_where_it_is_all_or_nothing(assets):
    data = b"assetKey,assetKind,displayName\na,tool,A\nb,tool,\xff\n"

    report = assets.import_rows(read_rows(io.BytesIO(data), "csv"), reason=WHY, all_or_nothing=True)

    assert (told(report), report.stopped) == ((0, 0, 0, 1), 3)
    assert list(assets.list()) == []


def test_a_report_says_what_is_stored_when_an_import_is_interrupted(assets):
    report = Report()

    def interrupted():
        for number in range(2500):
            yield number + 2, ASSET | {"assetKey": f"drill-{number}"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assets.import_rows(interrupted(), reason=WHY, report=report)

    assert told(report) == (2000, 0, 0, 0)
    assert len(list(assets.list())) == 2000


def test_progress_is_told(assets):
    steps = []

    assets.import_rows(
        ((n, ASSET | {"assetKey": f"drill-{n}"}) for n in range(1250)),
        reason=WHY,
        progress=steps.append,
    )

    assert sum(steps) == 1250


def test_a_record_is_pointed_at_by_its_key_or_by_its_id(lite, assets):
    asset = assets.create(reason=WHY, **ASSET)
    readiness = lite.collection("readiness-assessments")
    shared = "calibration,ready"
    data = (
        "readinessAssessmentKey,assetId,assessmentKind,readinessState\n"
        f"one,drill-7,{shared}\ntwo,{asset['id']},{shared}\nthree,drill-9,{shared}\n"
    )

    report = readiness.import_rows(rows(data, "csv"), reason=WHY)

    assert told(report) == (2, 0, 0, 1)
    assert report.faults == [RowFault(4, "assetId", "There is no asset drill-9")]
    assert [record["assetId"] for record in readiness.list()] == [asset["id"]] * 2


def test_lists_numbers_and_booleans_come_out_of_cells(lite):
    data = 'releaseKey,title,changeRequestIds\nr-1,Release,"[""chreq_1"",""chreq_2""]"\n'
    monitors = lite.collection("monitor-definitions")
    monitors.create(monitorKey="m", title="M", reason=WHY)
    runs = "monitorDefinitionId,aggregateResult,passCount\nm,pass,12\nm,pass,twelve\n"

    releases = lite.collection("releases").import_rows(rows(data, "csv"), reason=WHY)
    counted = lite.collection("monitor-runs").import_rows(rows(runs, "csv"), reason=WHY)

    (release,) = lite.collection("releases").list()
    (run,) = lite.collection("monitor-runs").list()
    assert (told(releases), release["changeRequestIds"]) == ((1, 0, 0, 0), ["chreq_1", "chreq_2"])
    assert (told(counted), run["passCount"]) == ((1, 0, 0, 1), 12)
    assert counted.faults == [RowFault(3, "passCount", "Expected integer")]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"title": "F", "severity": "severe"}, "severity"),
        ({"title": "F", "severity": "low", "status": "gone"}, "status"),
        ({"title": "F", "severity": "low", "subjectModuleKey": "x"}, "subjectResourceType"),
        ({"title": "x" * 301, "severity": "low"}, "title"),
        ({"title": "a\0b", "severity": "low"}, "title"),
        ({"title": "\ud800", "severity": "low"}, "title"),
        ({"title": ["F"], "severity": "low"}, "title"),
    ],
)
def test_what_the_api_would_refuse_an_import_refuses(lite, row, field):
    findings = lite.collection("findings")
    good = {"findingKey": "good", "title": "Good", "severity": "low"}

    report = findings.import_rows([(1, {"findingKey": "bad"} | row), (2, good)], reason=WHY)

    assert told(report) == (1, 0, 0, 1)
    assert report.faults[0].line == 1
    assert report.faults[0].field == field
    assert [finding["findingKey"] for finding in findings.list()] == ["good"]
    assert [record_type for record_type, _ in events(lite)] == ["finding.created"]


def test_an_imported_status_keeps_to_the_moves(lite):
    findings = lite.collection("findings")
    findings.create(findingKey="f", title="F", severity="low", reason=WHY)

    report = findings.import_rows([(7, {"findingKey": "f", "status": "closed"})], reason=WHY)

    assert told(report) == (0, 0, 0, 1)
    assert (report.faults[0].line, report.faults[0].field) == (7, "status")
    assert [record_type for record_type, _ in events(lite)] == ["finding.created"]


# --- Export and import --------------------------------------------------------

#: What is pointed at comes before what points at it.
IN_ORDER = """
frameworks framework-versions framework-nodes assets custody-assignments party-engagements
controls evidence-requirements coverage-links submission-requirements submission-packages
submission-events due-diligence-reviews supplier-assurance-reviews service-reviews
right-to-audit-records readiness-assessments risks assessments vulnerabilities
vulnerability-assessments patch-requirements findings change-requests
configuration-baselines releases system-acceptances environment-separation-reviews
exceptions evidence-claims indicators indicator-measurements monitor-definitions
monitor-runs monitor-result-items flows
"""
#: What follows from these is recorded anew when they come in.
OF_PIPELINES = """
organisations trails artifacts attestations environments logical-environments policies
policy-attachments deployment-policies users service-accounts regulatory-frameworks
control-mappings security-thresholds notification-rules provenance coverage-reports approvals
snapshots baselines allowlist-entries policy-bundles members security-scans regulatory-controls
"""


@pytest.fixture(scope="module")
def demo():
    with NovantraLite(clock=Clock(), random=random.Random(7)) as lite:
        lite.load_demo()
        yield lite


@pytest.mark.parametrize("format", ["csv", "ndjson"])
def test_everything_exported_and_imported_elsewhere_is_the_same(demo, lite, format):
    for name in IN_ORDER.split():
        stream = io.StringIO(newline="")
        source = demo.collection(name)
        count = write_rows(source.export(), stream, format, source.columns)

        report = lite.collection(name).import_rows(
            rows(stream.getvalue(), format), reason=WHY, all_or_nothing=True
        )

        assert (name, report.faults) == (name, [])
        assert (name, told(report)) == (name, (count, 0, 0, 0))
    assert sorted((IN_ORDER + OF_PIPELINES).split()) == sorted(collection_names())
    for name in IN_ORDER.split():
        assert list(lite.collection(name).list()) == list(demo.collection(name).list())
    assert lite.verify() == []


def test_importing_an_export_into_its_own_workspace_changes_nothing(demo):
    before = tables(demo)

    for name in collection_names():
        collection = demo.collection(name)
        report = collection.import_rows(enumerate(collection.list(), 1), reason=WHY)
        assert (name, report.updated, report.created, report.faults) == (name, 0, 0, [])

    assert tables(demo) == before


def test_the_demo_fills_every_collection_the_same_way_each_time(demo):
    with NovantraLite(clock=Clock(5), random=random.Random(8)) as other:
        other.load_demo()
        same = [
            list(other.collection(name).list()) == list(demo.collection(name).list())
            for name in IN_ORDER.split()
        ]

    assert set(same) == {True}
    assert [
        name for name in IN_ORDER.split() if not list(demo.collection(name).list(limit=1))
    ] == []


# --- Attachments --------------------------------------------------------------


def attached(content, **members):
    """An attachment with its bytes, as an export writes it."""
    text = base64.b64encode(content).decode()
    named = {"fileName": "minutes.pdf", "contentType": "application/pdf"}
    return named | {"contentBase64": text} | members


@pytest.fixture
def claim(lite):
    """The members of a claim that can be made."""
    requirement = lite.collection("evidence-requirements").create(
        reason=WHY, requirementKey="minutes", title="Minutes"
    )
    return {
        "evidenceRequirementId": requirement["id"],
        "claimKey": "minutes-2026",
        "title": "Minutes of 2026",
        "subjectModuleKey": "assets",
        "subjectResourceType": "asset",
        "subjectResourceId": lite.collection("assets").create(reason=WHY, **ASSET)["id"],
        "sourceKind": "manual",
    }


@pytest.mark.parametrize("format", ["csv", "json", "ndjson"])
def test_attachments_travel_with_their_bytes(lite, claim, format):
    claims = lite.collection("evidence-claims")
    content = bytes(range(256)) * 40
    address = {"uri": "https://files.example/1", "sha256": "a" * 64}
    elsewhere = attached(b"") | address | {"contentBase64": None}
    made = claims.create(reason=WHY, **claim, attachments=[attached(content), elsewhere])
    needed = ("assets", "evidence-requirements", "evidence-claims")

    with NovantraLite() as other:
        for name in needed:
            stream, source = io.StringIO(newline=""), lite.collection(name)
            write_rows(source.export(), stream, format, source.columns)
            for expected in ((1, 0, 0, 0), (0, 0, 1, 0)):
                report = other.collection(name).import_rows(
                    rows(stream.getvalue(), format), reason=WHY
                )
                assert (report.faults, told(report)) == ([], expected)

        assert other.collection("evidence-claims").retrieve(made["id"]) == made
        assert other.attachment(made["attachments"][0]["id"])[1] == content
        assert other.verify() == []


@pytest.mark.parametrize(
    ("members", "field", "message"),
    [
        ({"contentBase64": None}, "attachments.0", "Expected contentBase64, or uri with sha256"),
        ({"sha256": "a" * 64}, "attachments.0.sha256", "The content has another digest"),
        ({"id": "evatt_"}, "attachments.0.id", "Expected an id of evatt_"),
    ],
)
def test_an_attachment_without_its_bytes_is_refused_with_its_row(
    lite, claim, members, field, message
):
    claims = lite.collection("evidence-claims")
    row = claim | {"attachments": [attached(b"abc", **members)]}

    report = claims.import_rows([(5, row)], reason=WHY)

    assert (report.created, report.faults) == (0, [RowFault(5, field, message)])
    assert list(claims.list()) == []


@pytest.mark.parametrize("attachments", [[], [attached(b"other")], [attached(b"abc")] * 2])
def test_the_attachments_of_a_claim_never_change(lite, claim, attachments):
    claims = lite.collection("evidence-claims")
    made = claims.create(reason=WHY, **claim, attachments=[attached(b"abc")])
    changed = [attachment | {"id": made["attachments"][0]["id"]} for attachment in attachments]

    report = claims.import_rows([(2, claim | {"attachments": changed})], reason=WHY)

    assert report.faults == [
        RowFault(2, "", "The attachments of a claim are created with it, and never change.")
    ]
    assert claims.retrieve(made["id"]) == made
    with pytest.raises(Conflict, match="never change"):
        claims.update(made["id"], reason=WHY, attachments=changed)


def test_an_attachment_that_was_never_held_is_told_by_verify(lite, claim):
    claims = lite.collection("evidence-claims")
    made = claims.create(reason=WHY, **claim)
    attachment = {"id": "evatt_1", "fileName": "a", "contentType": "text/plain", "sizeBytes": 3}
    attachment |= {"sha256": "a" * 64, "uri": None, "createdAt": made["createdAt"]}
    write_transaction(
        lite.workspace,
        lambda current: EvidenceClaim.find(made["id"]).change(attachments=[attachment]),
        actor="console",
        reason=WHY,
    )

    faults = lite.verify()

    assert faults == ["The content of attachment evatt_1 was never stored, and it has no URI."]


# --- Seeds --------------------------------------------------------------------

FLOW = "0c4ffa8e-2b0a-4c6e-9f58-7a1d6b1f2a01"
TRAIL = "0c4ffa8e-2b0a-4c6e-9f58-7a1d6b1f2a02"
DIGEST = "sha256:" + "a" * 64
SEED = "0c4ffa8e-2b0a-4c6e-9f58-7a1d6b1f2a03"
PROD = "0c4ffa8e-2b0a-4c6e-9f58-7a1d6b1f2a04"
ARTIFACT = "0c4ffa8e-2b0a-4c6e-9f58-7a1d6b1f2a05"
RULES = "5eed0001-0000-4000-8000-000000000000"
COMMIT = {
    "flowId": FLOW,
    "gitCommitSha": "a1b2c3",
    "gitBranch": "main",
    "gitAuthor": "Ada",
    "gitAuthorEmail": "ada@example.org",
}
SEEDS = {
    "trails": COMMIT,
    "artifacts": {
        "trailId": TRAIL,
        "imageName": "app",
        "imageTag": "1",
        "sha256Digest": DIGEST,
        "reportedBy": "ci",
    },
    "attestations": {"trailId": TRAIL, "type": "junit", "status": "PASSED"},
    "environments": {"name": "prod", "type": "K8S"},
    "logical-environments": {"name": "live"},
    "organisations": {"slug": "acme", "name": "Acme"},
    "policies": {"name": "signed"},
    "deployment-policies": {"name": "deploy", "flowId": FLOW},
    "users": {"email": "ada@example.org", "name": "Ada"},
    "service-accounts": {"name": "robot"},
    "regulatory-frameworks": {"name": "Own rules", "version": "1"},
    "regulatory-controls": {"frameworkId": RULES, "controlId": "R-1", "title": "Reviews"},
    "security-thresholds": {"flowId": FLOW, "maxHigh": 3},
    "notification-rules": {
        "name": "Failures",
        "triggerEvent": "ATTESTATION_FAILED",
        "channelType": "WEBHOOK",
        "channelConfig": '{"webhookUrl": "https://hooks.example.org/1"}',
    },
    "provenance": {"artifactId": ARTIFACT, "builderId": "https://ci", "builderType": "GENERIC"},
    "coverage-reports": {"trailId": TRAIL, "tool": "jacoco", "lineCoverage": 81.5},
    "approvals": {"trailId": TRAIL, "status": "APPROVED", "requiredApprovers": ["ciso"]},
    "baselines": {"environmentId": PROD, "approvedBy": "ciso", "isActive": True},
    "allowlist-entries": {"environmentId": PROD, "sha256": DIGEST, "approvedBy": "ciso"},
    "policy-bundles": {
        "name": "gate",
        "version": "1",
        "regoContent": "package p\nallow := true",
        "status": "ACTIVE",
        "environmentId": PROD,
    },
    "security-scans": {"trailId": TRAIL, "tool": "zap", "highVulnerabilities": 2},
}


@pytest.fixture
def seeded(lite):
    """A register with a flow and a trail of given ids."""
    lite.collection("flows").create(
        reason=WHY, id=FLOW, name="app", requiredAttestationTypes=["junit"]
    )
    lite.collection("trails").create(reason=WHY, id=TRAIL, **COMMIT)
    lite.collection("environments").create(reason=WHY, id=PROD, name="production", type="K8S")
    lite.collection("artifacts").create(reason=WHY, id=ARTIFACT, **SEEDS["artifacts"])
    return lite


@pytest.mark.parametrize(("name", "members"), SEEDS.items(), ids=SEEDS)
def test_a_record_of_a_pipeline_is_seeded_with_a_given_id(seeded, name, members):
    collection = seeded.collection(name)

    made = collection.create(reason=WHY, id=SEED.upper(), **members)

    assert made["id"] == SEED
    assert made.items() >= members.items()
    assert collection.retrieve(SEED) == made
    assert seeded.verify() == []
    with pytest.raises(Conflict):
        collection.create(reason=WHY, id=SEED, **members)
    with pytest.raises(Invalid, match="id: Expected a UUID"):
        collection.create(reason=WHY, id="trail-1", **members)


def test_the_time_of_a_trail_can_be_given(seeded):
    made = seeded.collection("trails").create(
        reason=WHY, **COMMIT, createdAt="2020-02-03T04:05:06Z"
    )

    assert made["createdAt"] == "2020-02-03T04:05:06.000000Z"


def test_the_status_of_a_trail_follows_the_attestations_that_are_seeded(seeded):
    attestations, trails = seeded.collection("attestations"), seeded.collection("trails")

    attestations.create(reason=WHY, trailId=TRAIL, type="junit", status="PASSED")

    assert trails.retrieve(TRAIL)["status"] == "COMPLIANT"
    attestations.create(reason=WHY, trailId=TRAIL, type="junit", status="FAILED")
    assert trails.retrieve(TRAIL)["status"] == "NON_COMPLIANT"


def test_a_trail_is_seeded_without_a_verdict(seeded):
    made = seeded.collection("trails").create(reason=WHY, id=SEED, status="COMPLIANT", **COMMIT)

    assert made["status"] == "PENDING"


@pytest.mark.parametrize("name", SEEDS)
def test_an_id_that_exists_or_is_none_is_refused(seeded, name):
    collection = seeded.collection(name)
    collection.create(reason=WHY, id=SEED, **SEEDS[name])

    with pytest.raises(Conflict):
        collection.create(reason=WHY, id=SEED, **SEEDS[name])
    with pytest.raises(Invalid, match="id: Expected a UUID"):
        collection.create(reason=WHY, id="trail-1", **SEEDS[name])


RUNNING = {"artifactName": "app", "artifactTag": "1", "artifactSha256": DIGEST, "instanceCount": 2}


def test_snapshots_are_seeded_with_their_artifacts_and_the_next_index(seeded):
    snapshots = seeded.collection("snapshots")
    snapshot = {"environmentId": PROD, "recordedBy": "agent", "artifacts": [RUNNING]}

    first = snapshots.create(reason=WHY, id=SEED, **snapshot, recordedAt="2026-01-02T03:04:05Z")
    second = snapshots.create(reason=WHY, **snapshot)

    assert (first["id"], first["snapshotIndex"], second["snapshotIndex"]) == (SEED, 1, 2)
    assert first["recordedAt"] == "2026-01-02T03:04:05.000000Z"
    assert first["artifacts"] == [RUNNING | {"complianceState": "NON_COMPLIANT"}]
    [artifact] = seeded.collection("artifacts").list()
    assert artifact["runningInEnvironments"] == ["production"]
    assert seeded.verify() == []


def test_members_are_seeded_by_organisation_and_email(seeded, factstore):
    seeded.collection("organisations").create(reason=WHY, slug="acme", name="Acme")
    user = seeded.collection("users").create(reason=WHY, email="ada@example.org", name="Ada")
    row = {"id": SEED, "orgSlug": "acme", "userId": user["id"], "role": "ADMIN"}

    report = seeded.collection("members").import_rows([(2, row)], reason=WHY)
    moved = seeded.collection("members").import_rows([(3, row | {"orgSlug": "x"})], reason=WHY)
    row = {"orgSlug": "x", "userId": user["id"], "role": "ADMIN"}
    missing = seeded.collection("members").import_rows([(4, row)], reason=WHY)

    [member] = factstore.get("/api/v1/organisations/acme/members").json
    [exported] = seeded.collection("members").export()
    assert told(report) == (1, 0, 0, 0)
    assert told(moved) == told(missing) == (0, 0, 0, 1)
    assert (member["email"], member["role"]) == ("ada@example.org", "ADMIN")
    assert exported == member | {"id": SEED, "orgSlug": "acme"}


def test_what_is_seeded_counts_as_if_it_had_been_recorded(seeded, factstore):
    def status():
        return seeded.collection("trails").retrieve(TRAIL)["status"]

    seeded.collection("attestations").create(
        reason=WHY, trailId=TRAIL, type="junit", status="PASSED"
    )
    before = status()
    scan = seeded.collection("security-scans").create(reason=WHY, **SEEDS["security-scans"])
    seeded.collection("coverage-reports").create(
        reason=WHY, **SEEDS["coverage-reports"], minCoverage=90
    )

    attested = factstore.get(f"/api/v1/trails/{TRAIL}/attestations").json
    assert (before, status()) == ("COMPLIANT", "NON_COMPLIANT")
    assert [(record["type"], record["status"]) for record in attested] == [
        ("junit", "PASSED"),
        ("SECURITY_SCAN", "FAILED"),
        ("test-coverage", "FAILED"),
    ]
    assert attested[1]["id"] == scan["attestationId"]


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({}, "FAILED"),
        ({"highVulnerabilities": 0}, "PASSED"),
        ({"passed": True}, "PASSED"),
        ({"unknown": 1}, "FAILED"),
    ],
)
def test_a_seeded_scan_passes_only_by_what_is_said_of_it(seeded, factstore, counts, status):
    seeded.collection("security-scans").create(reason=WHY, trailId=TRAIL, tool="zap", **counts)

    (attestation,) = factstore.get(f"/api/v1/trails/{TRAIL}/attestations").json
    metrics = factstore.get("/api/v1/metrics/security").json
    assert attestation["status"] == status
    assert metrics["failedScans"] == (1 if status == "FAILED" else 0)


def test_a_scan_may_name_its_attestation_and_not_one_that_says_otherwise(seeded):
    attestation = seeded.collection("attestations").create(
        reason=WHY, trailId=TRAIL, type="SECURITY_SCAN", status="PASSED"
    )
    scans = seeded.collection("security-scans")
    row = SEEDS["security-scans"] | {"attestationId": attestation["id"]}

    with pytest.raises(Invalid) as caught:
        scans.create(reason=WHY, **row, passed=False)
    scan = scans.create(reason=WHY, **row)

    assert [fault["path"] for fault in caught.value.issues] == [["attestationId"]]
    assert scan["attestationId"] == attestation["id"]
    assert len(list(seeded.collection("attestations").list())) == 1


def test_a_seeded_approval_releases_its_trail(seeded, factstore):
    factstore.put(f"/api/v1/flows/{FLOW}", {"requiresApproval": True})
    seeded.collection("attestations").create(
        reason=WHY, trailId=TRAIL, type="junit", status="PASSED"
    )
    before = seeded.collection("trails").retrieve(TRAIL)["status"]

    approval = seeded.collection("approvals").create(reason=WHY, **SEEDS["approvals"])

    assert before != "COMPLIANT"
    assert seeded.collection("trails").retrieve(TRAIL)["status"] == "COMPLIANT"
    assert (approval["flowId"], approval["resolvedAt"]) == (FLOW, "2026-06-01T12:00:00.000000Z")


def test_a_seeded_bundle_that_does_not_compile_shuts_the_gate(seeded, factstore):
    bundle = SEEDS["policy-bundles"] | {"regoContent": "package p\nallow if {"}

    seeded.collection("policy-bundles").create(reason=WHY, **bundle)
    body = {"artifactSha256": DIGEST, "environmentId": PROD}
    result = factstore.post("/api/v1/gate/evaluate", body).json

    assert result["decision"] == "BLOCKED"
    assert "Policy bundle 'gate': The policy could not be evaluated" in result["reason"]


def test_a_seeded_rule_has_a_channel(seeded):
    rule = SEEDS["notification-rules"] | {"channelConfig": "{}"}

    with pytest.raises(Invalid) as caught:
        seeded.collection("notification-rules").create(reason=WHY, **rule)

    assert "webhookUrl" in caught.value.issues[0]["message"]
    assert list(seeded.collection("notification-rules").list()) == []


#: Those that an import finds in an export of these, and those that they are about.
TRAVELLING = """
security-thresholds notification-rules regulatory-controls provenance approvals coverage-reports
baselines allowlist-entries policy-bundles security-scans
"""


@pytest.mark.parametrize("format", ["csv", "ndjson"])
def test_what_was_seeded_is_exported_and_seeded_elsewhere(seeded, clock, format):
    with NovantraLite(clock=clock, random=random.Random(8)) as other:
        for name in ["flows", "trails", "environments", "artifacts"]:
            collection = other.collection(name)
            exported = list(enumerate(seeded.collection(name).export(), 1))
            collection.import_rows(exported, reason=WHY)
        for name in TRAVELLING.split():
            source = seeded.collection(name)
            source.create(reason=WHY, **SEEDS[name])
            if name == "security-scans":
                attested = list(enumerate(seeded.collection("attestations").export(), 1))
                other.collection("attestations").import_rows(attested, reason=WHY)
            stream = io.StringIO(newline="")
            write_rows(source.export(), stream, format, source.columns)

            report = other.collection(name).import_rows(rows(stream.getvalue(), format), reason=WHY)

            assert (name, report.faults) == (name, [])
            assert list(other.collection(name).list()) == list(source.list())
        assert other.verify() == []


def test_the_name_of_a_flow_is_taken_without_the_blanks_around_it(lite):
    data = "name,description\n payments\u200b ,first\npayments,second\n"

    report = lite.collection("flows").import_rows(rows(data, "csv"), reason=WHY)

    assert told(report) == (1, 0, 0, 1)
    assert [flow["name"] for flow in lite.collection("flows").list()] == ["payments"]


def test_an_attachment_keeps_its_id_to_itself(lite, claim):
    claims, attachment = lite.collection("evidence-claims"), attached(b"abc", id="evatt_1")
    claims.create(reason=WHY, **claim, attachments=[attachment])
    elsewhere = attachment | {"contentBase64": None, "uri": "https://e.org/1", "sha256": "a" * 64}

    for other in (attachment, elsewhere):
        with pytest.raises(Conflict, match="The attachment evatt_1 exists already"):
            claims.create(reason=WHY, **claim | {"claimKey": "2027"}, attachments=[other])


@pytest.mark.parametrize("name", ["trails", "artifacts", "attestations", "security-scans"])
def test_what_a_pipeline_recorded_is_seeded_once_and_never_changed(seeded, name):
    collection = seeded.collection(name)
    row = SEEDS[name] | {"id": SEED}
    changed = row | {"orgSlug": "acme"}

    first = collection.import_rows([(2, row)], reason=WHY)
    again = collection.import_rows([(2, row)], reason=WHY)
    other = collection.import_rows([(2, changed)], reason=WHY)

    assert [told(report) for report in (first, again, other)] == [
        (1, 0, 0, 0),
        (0, 0, 1, 0),
        (0, 0, 0, 1),
    ]
    assert "exists already, and never changes" in other.faults[0].message
    with pytest.raises(Conflict, match="never changes"):
        collection.update(SEED, reason=WHY, orgSlug="acme")


# --- OSCAL --------------------------------------------------------------------

CATALOG = {
    "catalog": {
        "uuid": "6a5e",
        "metadata": {
            "title": "Harbour Rules",
            "version": "2.0",
            "last-modified": "2024-02-13T17:43:40.74643+02:00",
            "oscal-version": "1.1.2",
        },
        "groups": [
            {
                "id": "b",
                "title": "Berths",
                "controls": [
                    {
                        "id": "b-1",
                        "title": "Mooring",
                        "props": [{"name": "label", "value": "B-1"}],
                        "parts": [{"name": "statement", "prose": "Moor within {{ p }}."}],
                        "params": [{"id": "p", "label": "time"}],
                        "controls": [{"id": "b-1.1", "title": "Ropes"}],
                    },
                    {"id": "b-2", "title": "Leaving"},
                ],
            }
        ],
    }
}


def test_an_oscal_catalog_becomes_a_framework_a_version_and_its_nodes(lite, novantra):
    report = lite.import_oscal(CATALOG, reason=WHY)

    (framework,) = lite.collection("frameworks").list()
    (version,) = lite.collection("framework-versions").list()
    nodes = {node["nodeKey"]: node for node in lite.collection("framework-nodes").list()}
    assert told(report) == (6, 0, 0, 0)
    assert (framework["frameworkKey"], framework["sourceKind"]) == ("harbour-rules", "standard")
    assert (version["versionKey"], version["frameworkId"]) == ("2.0", framework["id"])
    assert {key: (node["nodeKind"], node["referenceCode"]) for key, node in nodes.items()} == {
        "b": ("group", "B"),
        "b-1": ("control", "B-1"),
        "b-1.1": ("control-enhancement", "B-1.1"),
        "b-2": ("control", "B-2"),
    }
    parents = {key: node["parentNodeId"] for key, node in nodes.items()}
    ids = {key: node["id"] for key, node in nodes.items()}
    assert parents == {"b": None, "b-1": ids["b"], "b-1.1": ids["b-1"], "b-2": ids["b"]}
    below = novantra.get("/api/v1/governance/frameworks/nodes", parentNodeId=ids["b"])
    assert [node["nodeKey"] for node in below.json["nodes"]] == ["b-2", "b-1"]


def test_the_same_catalog_a_second_time_changes_nothing(lite, clock):
    lite.import_oscal(CATALOG, reason=WHY)
    before = tables(lite)
    clock.advance(60)

    report = lite.import_oscal(CATALOG, reason=WHY)

    assert told(report) == (0, 0, 6, 0)
    assert tables(lite) == before


def test_a_catalog_with_a_title_changed_updates_its_node(lite):
    lite.import_oscal(CATALOG, reason=WHY)
    changed = json.loads(json.dumps(CATALOG).replace("Leaving", "Casting off"))

    report = lite.import_oscal(changed, reason=WHY)

    assert told(report) == (0, 1, 5, 0)
    assert audit(lite)[-1][1] == "framework.node.updated"


def test_a_broken_catalog_leaves_nothing_behind(lite):
    before = tables(lite)

    with pytest.raises(Invalid):
        lite.import_oscal({"catalog": {"metadata": {}}}, reason=WHY)
    broken = json.loads(json.dumps(CATALOG).replace("Leaving", "x" * 1001))
    report = lite.import_oscal(broken, reason=WHY)

    assert report.refused == 1
    assert report.faults[0].field == "title"
    assert tables(lite) == before
