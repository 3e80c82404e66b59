"""Layouts of the file: facts grow, and files of every former layout stay readable and provable."""

import contextlib
import json
import lzma
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import WHY

import novantra_lite
from novantra_lite import NovantraLite, all_models

FORMER = Path(__file__).parents[1] / "layouts"
KEY = "layouts-of-old-files-key-0123456789abcdef"
#: The day after the former files were written.
NEXT_DAY = 1_780_400_000.0
ASSETS = "/api/v1/assets"

#: What the next layout does to the columns of assets: a column of every kind, one with a new name,
#: and two that change places.
GROWN = {
    "    asset_kind = Key(index=True)\n    display_name = Title()\n": (
        "    former_order = ('id asset_key asset_kind display_name description source_kind '\n"
        "        'status custodian_responsibility_id commissioned_at decommissioned_at '\n"
        "        'created_at updated_at')\n"
        "    title = Text(300, 1, column_name='asset_title', former_names='display_name')\n"
        "    asset_kind = Key(index=True)\n"
        "    serial = Text(40, null=True, since=8)\n"
        "    grade = Choice('A B C', default='B', since=8)\n"
        "    uses = Integer(0, default=0, since=8)\n"
        "    weight = Number(null=True, since=8)\n"
        "    is_loaned = Boolean(default=False, since=8)\n"
        "    tags = Json(ListOf(Text(20)), default=list, since=8)\n"
        "    bought_at = Timestamp(null=True, since=8)\n"
        "    remark = Encrypted(100, null=True, since=8)\n"
    ),
    '"display_name asset_key", "{asset_key}, {asset_kind}"': (
        '"title asset_key", "{asset_key}, {asset_kind}"'
    ),
    'title="{display_name}", details="asset_kind': 'title="{asset_title}", details="asset_kind',
    "MIGRATIONS = (\n": "MIGRATIONS = (\n    Migration(8, 'Assets have a serial number'),\n",
}

#: Opens files with the code of the next layout, makes assets in them, and says what it sees there.
SCRIPT = """
import json, sys
from novantra_lite import NovantraLite
work = json.loads(sys.argv[1])
for path in work["paths"]:
    with NovantraLite(path, clock=lambda: 1_780_400_000.0, key=work["key"]) as lite:
        for values in work["assets"]:
            lite.collection("assets").create(**values)
        page = lite.client("assets:read").get("/api/v1/assets")
        print(json.dumps({"faults": lite.verify(), "assets": page.json["assets"]}))
"""


def unpack(layout, folder):
    """A file as a former version wrote it."""
    path = folder / "register.db"
    path.write_bytes(lzma.decompress((FORMER / f"layout-{layout}.db.xz").read_bytes()))
    return path


def opened(path):
    return NovantraLite(path, clock=lambda: NEXT_DAY, random=random.Random(1), key=KEY)


def tamper(path, statement):
    """Change a file that nobody has open, its triggers out of the way for the time."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        triggers = dict(file.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"))
        for name in triggers:
            file.execute(f"DROP TRIGGER {name}")
        assert file.execute(statement).rowcount == 1
        for sql in triggers.values():
            file.execute(sql)


@pytest.fixture
def next_version(tmp_path):
    """Runs the product as it would be if its next layout changed the columns of assets."""
    source = Path(novantra_lite.__file__).read_text()
    for present, future in GROWN.items():
        assert present in source
        source = source.replace(present, future)
    folder = tmp_path / "next"
    folder.mkdir()
    (folder / "novantra_lite.py").write_text(source)

    def run(*paths, assets=()):
        work = json.dumps({"paths": list(map(str, paths)), "assets": assets, "key": KEY})
        line = [sys.executable, "-c", SCRIPT, work]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return list(map(json.loads, done.stdout.splitlines()))

    return run


def asset(key, **values):
    return {
        "assetKey": key, "assetKind": "tool", "sourceKind": "manual", "status": "active",
        "reason": WHY, **values,
    }  # fmt: skip


@pytest.fixture
def path(tmp_path):
    """A file of layout 5, with an asset of that time and one of the present."""
    path = unpack(5, tmp_path)
    with opened(path) as lite:
        lite.collection("assets").create(**asset("drill-2", displayName="Drill"))
    return path


@pytest.mark.parametrize("layout", [1, 2, 3, 4, 5, 6])
def test_a_file_of_a_former_layout_opens_and_is_sound(layout, tmp_path):
    path = unpack(layout, tmp_path)

    with opened(path) as lite:
        faults = lite.verify()
        findings = lite.client("governance.findings:read").get("/api/v1/governance/findings").json

    assert faults == []
    assert [finding["title"] for finding in findings["findings"]] == ["Second", "First"]
    assert [finding["description"] for finding in findings["findings"]] == ["By the door"] * 2


@pytest.mark.parametrize("layout", [1, 2, 3, 4, 5, 6])
def test_tampering_with_a_record_of_a_former_layout_is_found(layout, tmp_path):
    path = unpack(layout, tmp_path)
    with opened(path):
        pass
    tamper(path, "UPDATE asset SET status = 'sold', json = json_set(json, '$.status', 'sold')")

    with opened(path) as lite:
        faults = lite.verify()

    assert [fault.split(" ", 2)[2] for fault in faults] == ["is not what the ledger recorded."]


@pytest.mark.parametrize("layout", [2, 3, 4, 5, 6])
def test_a_list_of_former_records_has_every_member_that_the_document_requires(layout, tmp_path):
    path = unpack(layout, tmp_path)

    with opened(path) as lite:
        factstore = lite.client(*novantra_lite.FACTSTORE_SCOPES)
        document = factstore.get("/api/v1/openapi.json").json["components"]["schemas"]
        members = {
            schema: set(factstore.get(f"/api/v1/{name}").json[0])
            for name, schema in (
                ("flows", "FlowResponse"),
                ("trails", "TrailResponse"),
                ("environments", "EnvironmentResponse"),
            )
        }

    assert {schema: set(document[schema]["required"]) for schema in members} == members


def test_the_ledger_takes_former_columns_in_the_order_of_their_time(tmp_path):
    with contextlib.closing(sqlite3.connect(unpack(5, tmp_path))) as file:
        former = {
            model: [row[1] for row in file.execute(f"PRAGMA table_info({model._meta.table_name})")]
            for model in all_models()
            if model.fact and model.since < 6
        }

    today = {
        model: [
            model._meta.sorted_fields[i].recorded_name for i in novantra_lite.former_columns(model)
        ]
        for model in former
    }
    assert len(former) > 60
    assert {model: [*columns, "json"] for model, columns in today.items()} == former


def test_records_of_all_times_are_proven_after_columns_came_moved_and_changed_names(
    path, next_version
):
    full = {
        "assetTitle": "Press", "serial": "S1", "grade": "A", "uses": 3, "weight": 1.5,
        "isLoaned": True, "tags": ["heavy"], "boughtAt": "2026-05-01T00:00:00Z", "remark": "Loud",
    }  # fmt: skip

    (after,) = next_version(
        path, assets=[asset("lathe-1", assetTitle="Lathe"), asset("press-1", **full)]
    )

    assert after["faults"] == []
    titles = {asset["assetKey"]: asset["assetTitle"] for asset in after["assets"]}
    assert titles == {
        "press-1": "Press", "lathe-1": "Lathe", "drill-2": "Drill", "torque-wrench-7": "Wrench 7",
    }  # fmt: skip


def test_a_list_is_complete_after_columns_came(path, next_version):
    (after,) = next_version(path, assets=[asset("lathe-1", assetTitle="Lathe")])

    added = ("serial", "grade", "uses", "weight", "isLoaned", "tags", "boughtAt", "remark")
    assert [{name: asset[name] for name in added} for asset in after["assets"]] == [
        {
            "serial": None, "grade": "B", "uses": 0, "weight": None, "isLoaned": False, "tags": [],
            "boughtAt": None, "remark": None,
        }
    ] * 3  # fmt: skip


def test_tampering_is_found_in_records_of_all_times_and_in_columns_of_all_times(
    path, next_version, tmp_path
):
    next_version(path, assets=[asset("lathe-1", assetTitle="Lathe")])
    changes = [
        (key, change)
        for key in ("torque-wrench-7", "drill-2", "lathe-1")
        for change in (
            "uses = 1",
            "grade = 'A'",
            "asset_title = 'M'",
            "serial = ''",
            "tags = '[1]'",
        )
    ]
    copies = [tmp_path / f"copy-{number}.db" for number in range(len(changes))]
    for copy, (key, change) in zip(copies, changes, strict=True):
        copy.write_bytes(path.read_bytes())
        tamper(copy, f"UPDATE asset SET {change} WHERE asset_key = '{key}'")

    results = next_version(*copies)

    assert len(results) == 15
    for result, change in zip(results, changes, strict=True):
        assert [fault.split(" ", 2)[2] for fault in result["faults"]] == [
            "is not what the ledger recorded."
        ], change


def test_a_table_of_a_former_layout_gets_the_checks_of_today(path, next_version):
    next_version(path)

    with (
        contextlib.closing(sqlite3.connect(path)) as file,
        pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"),
    ):
        file.execute("UPDATE asset SET grade = 'Z'")
