"""The command line, driven for real: most of it in this process, servers and pipes in their own."""

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import WHY
from processes import PROGRAM, Receiver, call, connect, serving

from novantra_lite import COMMANDS, Collection, NovantraLite, main, verify_webhook

DATABASE = Path("register.db")
ASSETS = "/api/v1/assets"
ASSET = {"assetKey": "torque-wrench-7", "assetKind": "calibrated-tool", "displayName": "Wrench 7"}
REASON = shlex.quote(WHY)


@dataclass
class Said:
    """What a command left behind: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        """Its one line on standard output, as JSON."""
        (line,) = self.out.splitlines()
        return json.loads(line)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty directory to work in; the environment names `register.db` in it."""
    for name in [name for name in os.environ if name.startswith("NOVANTRA_LITE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOVANTRA_LITE_DATABASE", "register.db")
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs one command line in this process."""

    def run(line):
        status = main(shlex.split(line))
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def register():
    """The workspace's file, with one asset in it, of which this gives the id."""
    with NovantraLite(DATABASE) as lite:
        return lite.collection("assets").create(**ASSET, reason=WHY)["id"]


def rows(sql, file=DATABASE):
    """What a query finds in a file, in order."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return [row[0] if len(row) == 1 else row for row in connection.execute(sql)]


def audited():
    """The actions in the audit log, without those that every new file begins with."""
    actions = rows("SELECT action FROM audit_entry ORDER BY id")[2:]
    return [action for action in actions if action != "checkpoint_key.key_added"]


def exchange(account):
    """The status and JSON of an exchange of an account's credentials for a token."""
    body = {
        "grant_type": "client_credentials",
        "client_id": account["clientId"],
        "client_secret": account["clientSecret"],
    }
    with NovantraLite(DATABASE) as lite:
        answer = lite.client().post("/api/v1/auth/token", body)
    return answer.status, answer.json


def get(path, token):
    """The status of a GET with a token."""
    with NovantraLite(DATABASE) as lite:
        return lite.client().get(path, headers={"Authorization": f"Bearer {token}"}).status


# --- Help and usage -----------------------------------------------------------

#: Commands that are plain without one.
NO_EXAMPLE = {
    "account disable", "account enable", "account list", "account rotate", "attachment", "backup",
    "doctor", "key list", "key revoke", "key rewrap", "key rotate", "openapi", "restore",
    "routes", "schema", "settings", "token",
    "webhook deliveries", "webhook list", "webhook pause", "webhook redeliver", "webhook remove",
    "webhook resume", "webhook rotate", "webhook test", "workspace list",
}  # fmt: skip


def test_the_commands_are_these():
    assert sorted(COMMANDS) == [
        "account create", "account disable", "account enable", "account list", "account rotate",
        "attachment", "audit export", "audit tail", "backup", "checkpoint", "doctor", "export",
        "import", "key create", "key list", "key revoke", "key rewrap", "key rotate", "openapi",
        "restore", "routes", "schema", "serve", "set", "settings", "token", "verify",
        "webhook add", "webhook deliveries",
        "webhook list", "webhook pause", "webhook redeliver", "webhook remove", "webhook resume",
        "webhook rotate", "webhook test", "workspace create", "workspace list",
    ]  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_of_a_command_describes_it_and_shows_an_example_where_that_helps(run, path):
    said = run(f"{path} --help")

    usage, _, rest = said.out.partition("\n\n")
    description = rest.partition("\n\n")[0]
    example = f"examples:\n  novantra-lite {path} "
    assert (said.status, said.err) == (0, "")
    assert usage.startswith(f"usage: novantra-lite {path} [-h]")
    assert description[0].isupper() and description.endswith(".")
    assert (example in said.out) == (path not in NO_EXAMPLE)
    assert "  --json " in said.out
    assert max(map(len, said.out.splitlines())) <= 100


@pytest.mark.parametrize("group", ["", "account", "key", "webhook", "workspace"])
def test_the_help_of_a_group_has_a_sentence_for_each_of_its_commands(run, group):
    said = run(f"{group} --help")

    listed = re.findall(r"^ {4}(\S+)", said.out.partition("commands:\n")[2], re.MULTILINE)
    result = " ".join(said.out.split())
    names = {path.removeprefix(group).split()[0] for path in COMMANDS if path.startswith(group)}
    assert (said.status, said.err) == (0, "")
    assert set(listed) == names
    assert all(
        f"{path.split()[-1]} {COMMANDS[path].help.partition(chr(10))[0]}" in result
        for path in COMMANDS
        if path.startswith(group) and (group or " " not in path)
    )


def test_the_help_of_serve_reads_well(run):
    said = run("serve --help")

    assert (
        said.out
        == """\
usage: novantra-lite serve [-h] [--demo] [--listen HOST:PORT] [--threads N] [--accept-clock]
                           [--open-factstore] [--json] [--database FILE] [--workspaces DIR]
                           [--workspace SLUG]
                           [FILE]

Answer requests over HTTP until stopped.

Without FILE the workspace ends with the server. A workspace that has no
account yet gets one with every Novantra scope, shown once: on a terminal,
else in FILE.credentials, which only you can read. --demo does so with an
account for trying things out, with a new secret at every start. With --json
the first line on standard output is one JSON object, printed as soon as
requests are answered.

positional arguments:
  FILE                the database file, created if missing

options:
  -h, --help          show this help message and exit
  --demo              fill an empty workspace with demo data
  --listen HOST:PORT  address and port to serve on; port 0 picks a free one
  --threads N         threads that process requests
  --accept-clock      write, though the clock is far ahead of the newest entry
  --open-factstore    accept Factstore requests from this machine without credentials
  --json              print JSON, for machines

which workspace:
  --database FILE     its file; default: NOVANTRA_LITE_DATABASE
  --workspaces DIR    a directory of several workspaces
  --workspace SLUG    which of the several

examples:
  novantra-lite serve --demo
  novantra-lite serve register.db --listen 0.0.0.0:8080
  novantra-lite serve --demo --listen 127.0.0.1:0 --json
  novantra-lite serve --workspaces /var/lib/novantra
"""
    )


def test_the_version_is_told(run):
    assert run("--version") == Said(0, "novantra-lite 0.1.0\n", "")


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("account", "the following arguments are required: COMMAND"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("account lis", "invalid choice: 'lis'"),
        ("account list --dat register.db", "unrecognized arguments: --dat register.db"),
        ("account create x", "the following arguments are required: --scope"),
        ("serve --listen 8080", "expected HOST:PORT such as 127.0.0.1:8080, not '8080'"),
        ("serve --threads many", "invalid int value: 'many'"),
        ("webhook redeliver", "give the ID of one delivery, or --failed ENDPOINT"),
        ("webhook redeliver dlv_1 --failed whep_1", "give the ID of one delivery, or --failed"),
        ("workspace create hangar-7", "name the directory: --workspaces DIR"),
        ("account list --workspaces . --database register.db", "not both"),
        ("account list --workspace main", "--workspace SLUG goes with --workspaces DIR"),
        (f"set assets a-1 id=2 --reason {REASON}", "expected field=value; the id is fixed"),
        (f"set assets a-1 status --reason {REASON}", "expected field=value"),
        ("set assets a-1 status=active", "the following arguments are required: --reason"),
        ("export assets out.xls", "name the format of out.xls with --format"),
        ("export assets --json --format csv", "cannot share standard output"),
        ("import assets catalog.json --format oscal", "--format oscal is for frameworks"),
    ],
)
def test_a_misused_command_line_is_told_its_usage_and_exits_with_2(run, register, line, result):
    said = run(line)

    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("usage: novantra-lite")
    assert result in said.err


def test_a_command_that_was_given_no_workspace_asks_for_one(run, monkeypatch):
    monkeypatch.delenv("NOVANTRA_LITE_DATABASE")

    said = run("account list")

    assert said.status == 2
    assert said.err.endswith(
        "error: name the workspace: --database FILE, or set NOVANTRA_LITE_DATABASE\n"
    )


#: Every command that could make a file and must not, and every problem in its own sentence.
REFUSED = {
    "account list --database none.db": "There is no workspace at none.db.",
    "account create x --scope nothing:read": "There is no scope nothing:read; there are ",
    "account create x --scope assets:read --expires soon": "expiresAt: Expected a date-time",
    "account rotate svc_1": "There is no service account with the id svc_1.",
    "webhook pause whep_1": "There is no endpoint with the id whep_1.",
    "webhook redeliver dlv_1": "There is no delivery with the id dlv_1.",
    "webhook add ftp://example.org": "The URL must start with https:// or http://.",
    "webhook add http://127.0.0.1/": "The host 127.0.0.1 has an address that is not public",
    "webhook add https://example.org --event finding.lost": "There is no event finding.lost;",
    f"set assets asset_1 status=gone --reason {REASON}": "There is no asset with the id asset_1.",
    "export nothing": "There is no collection nothing; there are frameworks,",
    "import assets none.csv": "There is no file none.csv, or it cannot be read.",
    "import assets notes.xls": "Name the format of the rows: one of csv, tsv, json, ndjson, jsonl.",
    "import frameworks notes.xls --format oscal": "The catalog in notes.xls is not JSON in UTF-8",
    "import frameworks none.json --format oscal": "none.json: no such file or directory.",
    "import assets notes.xls --format csv --reason short": "reason: Expected 10 to 1000 character",
    "attachment evatt_1": "There is no attachment evatt_1 with content in this workspace.",
    "backup nowhere/copy.db": "nowhere",
    "restore none.db new.db": "none.db is not a sound backup of a workspace.",
    "restore notes.xls new.db": "notes.xls is not a sound backup of a workspace.",
    "restore register.db register.db": "register.db exists already; move it away",
    "verify notes.xls": "",
    "workspace list --workspaces nowhere": "There is no workspace at nowhere.",
    "workspace create UPPER --workspaces several": "slug: Expected a-z, 0-9 and -",
    "serve --workspaces empty": "There is no workspace to serve; make one with `novantra-lite work",
    "serve --listen 203.0.113.1:8080": "Nothing can listen on 203.0.113.1:8080",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_done_is_one_sentence_and_exit_status_1(run, register, line):
    Path("notes.xls").write_text("Not a table at all, and no database either.\n" * 100)
    Path("empty").mkdir()

    plain, for_machines = run(line), run(f"{line} --json")

    assert (plain.status, plain.out, for_machines.status) == (1, "", 1)
    assert plain.err.startswith(f"novantra-lite: {REFUSED[line]}")
    assert plain.err.count("\n") == 1 and "Traceback" not in plain.err
    assert for_machines.err == plain.err
    assert plain.err.startswith(f"novantra-lite: {for_machines.json['error']}")
    assert not list(Path().glob("none.*")) and not Path("new.db").exists()


# --- Accounts and tokens ------------------------------------------------------


def test_a_new_account_gets_tokens_for_its_scopes(run):
    made = run(
        "account create scanner --scope assets:read governance.findings:write"
        " --scope assets:read --expires 2099-01-31 --contact duty@example.org --json"
    ).json

    status, result = exchange(made)
    assert made["name"] == "scanner"
    assert made["scopes"] == ["assets:read", "governance.findings:write"]
    assert made["expires"] == "2099-01-31T00:00:00.000Z"
    assert (status, result["scope"]) == (200, "assets:read governance.findings:write")
    assert get(ASSETS, result["access_token"]) == 200
    assert audited() == ["service_account.created", "api.token.issued"]
    assert run("account list --json").json[0]["contact"] == "duty@example.org"


def test_all_scopes_are_those_of_novantra(run):
    made = run("account create console --scope all --json").json

    assert "assets:read" in made["scopes"] and "governance.findings:write" in made["scopes"]
    assert not any(scope.startswith("factstore:") for scope in made["scopes"])


def test_an_account_is_rotated_disabled_and_enabled(run):
    made = run("account create scanner --scope assets:read --json").json
    token = exchange(made)[1]["access_token"]

    rotated = run(f"account rotate {made['clientId']} --json").json
    old, new, token_after = exchange(made)[0], exchange(rotated)[0], get(ASSETS, token)
    disabled = run(f"account disable {made['clientId']} --json").json
    while_disabled = exchange(rotated)[0]
    enabled = run(f"account enable {made['clientId']} --json").json
    at_last = exchange(rotated)[0]

    assert (old, token_after, new, while_disabled, at_last) == (401, 401, 200, 401, 200)
    assert rotated["clientSecret"] != made["clientSecret"]
    assert disabled == {"id": made["clientId"], "disabled": True}
    assert enabled == {"id": made["clientId"], "enabled": True}
    written = [action for action in audited() if action.startswith("service_account")]
    assert written == ["service_account.created"] + ["service_account.updated"] * 3


def test_accounts_are_listed_for_people_without_their_secrets(run):
    none = run("account list --workspaces several")
    made = run("account create scanner --scope assets:read")

    listed = run("account list")

    secret = made.out.partition("Client secret  ")[2].split()[0]
    assert none.status == 1
    assert made.out.endswith("\n\nKeep the secret now: it is not shown again.\n")
    assert listed.out.splitlines()[0].split()[:3] == ["Client", "id", "Name"]
    assert "scanner" in listed.out and "assets:read" in listed.out
    assert secret not in listed.out and secret.encode() not in DATABASE.read_bytes()


def test_an_empty_list_says_what_to_do(run, register):
    assert run("account list").out == "No account yet: see `novantra-lite account create --help`.\n"
    assert run("webhook list").out == "No endpoint yet: see `novantra-lite webhook add --help`.\n"
    assert run("webhook deliveries").out == "No deliveries.\n"
    assert run("webhook list --json").json == []


def test_a_token_is_printed_bare_and_works(run, register):
    bare = run("token --scope assets:read")
    body = run("token --scope assets:read --life 60 --json").json

    assert get(ASSETS, bare.out.strip()) == 200
    assert get(ASSETS, body["token"]) == 200
    assert (body["scopes"], body["expiresIn"]) == (["assets:read"], 60)


# --- Webhooks -----------------------------------------------------------------


@pytest.fixture
def private(monkeypatch):
    """Lets webhooks go to this machine."""
    monkeypatch.setenv("NOVANTRA_LITE_WEBHOOK_PRIVATE_TARGETS", "127.0.0.0/8")


def finding(title="Cracked"):
    """Make a finding, as the console does."""
    with NovantraLite(DATABASE) as lite:
        key = title.lower()
        members = {"findingKey": key, "title": title, "severity": "high"}
        return lite.collection("findings").create(**members, reason=WHY)


def deliver():
    """Send what is due, as the server does; tell how much arrived."""
    with NovantraLite(DATABASE) as lite:
        return lite.step()


def test_an_endpoint_is_added_listed_paused_resumed_rotated_and_removed(run):
    added = run(
        "webhook add https://example.org/hook --event finding.created finding.closed --json"
    )
    id, listed = added.json["id"], run("webhook list --json").json

    paused = run(f"webhook pause {id} --json").json
    status = run("webhook list --json").json[0]["status"]
    resumed = run(f"webhook resume {id} --json").json
    rotated = run(f"webhook rotate {id} --json").json
    removed = run(f"webhook remove {id} --json").json

    assert added.json["events"] == ["finding.created", "finding.closed"]
    assert added.json["secret"].startswith("whsec_") and "secret" not in listed[0]
    assert listed[0]["url"] == "https://example.org/hook"
    assert (paused, status) == ({"id": id, "paused": True}, "paused")
    assert resumed == {"id": id, "resumed": True}
    assert rotated["secret"].startswith("whsec_") and rotated["secret"] != added.json["secret"]
    assert removed == {"id": id, "removed": True}
    assert run("webhook list --json").json == []
    assert audited() == [
        "webhook_endpoint.created",
        *["webhook_endpoint.updated"] * 3,
        "webhook_endpoint.deleted",
    ]


def test_after_a_rotation_both_secrets_verify(run, private):
    with Receiver() as receiver:
        added = run(f"webhook add {receiver.url} --json").json
        rotated = run(f"webhook rotate {added['id']} --json").json
        made = finding()
        arrived = deliver()
        headers, body = receiver.arrived.get(timeout=60)

    events = [verify_webhook(body, headers, record["secret"]) for record in (added, rotated)]
    assert arrived == 1
    assert [event["data"]["finding"]["id"] for event in events] == [made["id"]] * 2


def test_a_test_event_is_sent_at_once_and_its_failure_exits_with_1(run, private):
    with Receiver() as receiver:
        id = run(f"webhook add {receiver.url} --json").json["id"]

        good = run(f"webhook test {id} --json")
        receiver.status = 500
        bad = run(f"webhook test {id} --json")
        refused = run(f"webhook test {id}")

    assert (good.status, good.json["state"], good.json["statusCode"]) == (0, "done", 204)
    assert (bad.status, bad.json["state"], bad.json["statusCode"]) == (1, "failed", 500)
    assert (refused.status, "Answered with status 500." in refused.out) == (1, True)
    assert json.loads(receiver.arrived.get(timeout=60)[1])["type"] == "webhook.test"


def test_what_failed_is_listed_and_sent_again_one_or_all(run, private):
    with Receiver(status=410) as receiver:
        id = run(f"webhook add {receiver.url} --json").json["id"]
        made = [finding(title)["id"] for title in ("First", "Second")]
        failing = deliver()
        with contextlib.closing(sqlite3.connect(DATABASE)) as connection, connection:
            connection.execute("UPDATE delivery SET state = 'failed', due_at = NULL")
        failed = run(f"webhook deliveries --endpoint {id} --state failed --json").json
        receiver.status = 204

        run(f"webhook resume {id}")
        record = run(f"webhook redeliver {failed[0]['id']} --json").json
        first = deliver()
        rest = run(f"webhook redeliver --failed {id} --json").json
        second = deliver()

    done = run("webhook deliveries --state done --json").json
    assert (failing, len(failed)) == (0, 2)
    assert (record, first, rest, second) == ({"redelivered": 1}, 1, {"redelivered": 1}, 1)
    assert {delivery["id"] for delivery in done} == {delivery["id"] for delivery in failed}
    bodies = [json.loads(receiver.arrived.get()[1]) for _ in range(receiver.arrived.qsize())]
    assert {body["data"]["finding"]["id"] for body in bodies} == set(made)
    assert run("webhook deliveries --state failed --json").json == []


# --- Records ------------------------------------------------------------------

CSV = """\
assetKey,assetKind,displayName,status
torque-wrench-7,calibrated-tool,Wrench 7 (red),active
borescope-2,calibrated-tool,Borescope 2,active
"""
NAMES = "SELECT asset_key, display_name FROM asset ORDER BY asset_key"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("assets.csv", CSV),
        ("assets.tsv", CSV.replace(",", "\t")),
        (
            "assets.json",
            json.dumps(
                [
                    ASSET | {"displayName": "Wrench 7 (red)"},
                    ASSET | {"assetKey": "borescope-2", "displayName": "Borescope 2"},
                ]
            ),
        ),
        (
            "assets.ndjson",
            json.dumps(ASSET | {"displayName": "Wrench 7 (red)"})
            + "\n"
            + json.dumps(ASSET | {"assetKey": "borescope-2", "displayName": "Borescope 2"}),
        ),
    ],
)
def test_an_import_makes_new_records_and_updates_those_whose_key_is_known(
    run, register, name, text
):
    Path(name).write_text(text)

    first = run(f"import assets {name} --reason {REASON}")
    again = run(f"import assets {name} --json")

    assert first == Said(0, "assets: 1 created, 1 updated, 0 unchanged, 0 refused.\n", "")
    assert (again.json["unchanged"], again.json["total"], again.json["dryRun"]) == (2, 2, False)
    assert rows(NAMES) == [("borescope-2", "Borescope 2"), ("torque-wrench-7", "Wrench 7 (red)")]
    assert sorted(audited()) == ["asset.created", "asset.created", "asset.updated"]


FAULTY = CSV + ",,Nothing,active\n" + "hoist-1,hoist,Hoist 1,active\n"


def test_an_import_takes_the_good_rows_and_names_each_fault(run, register):
    Path("assets.csv").write_text(FAULTY)

    said = run("import assets assets.csv")
    result = run("import assets assets.csv --json")

    counts, *faults = said.out.splitlines()
    assert (said.status, said.err) == (1, "")
    assert counts == "assets: 2 created, 1 updated, 0 unchanged, 1 refused."
    assert [fault.partition(":")[0] for fault in faults] == [
        "line 4, assetKey",
        "line 4, assetKind",
    ]
    assert {fault["field"] for fault in result.json["faults"]} == {"assetKey", "assetKind"}
    assert len(rows(NAMES)) == 3


@pytest.mark.parametrize("mode", ["--dry-run", "--all-or-nothing", "--dry-run --all-or-nothing"])
def test_an_import_can_store_nothing(run, register, mode):
    Path("assets.csv").write_text(FAULTY)

    said = run(f"import assets assets.csv {mode}")

    assert said.status == 1
    assert said.out.splitlines()[0].endswith("1 refused. Nothing is stored.")
    assert rows(NAMES) == [("torque-wrench-7", "Wrench 7")]
    assert audited() == ["asset.created"]
    assert run("verify").status == 0


def test_an_import_that_is_all_good_is_stored_all(run, register):
    Path("assets.csv").write_text(CSV)

    rehearsed = run("import assets assets.csv --dry-run --json").json
    before = len(rows(NAMES))
    said = run("import assets assets.csv --all-or-nothing")

    assert (rehearsed["created"], rehearsed["updated"], before) == (1, 1, 1)
    assert said == Said(0, "assets: 1 created, 1 updated, 0 unchanged, 0 refused.\n", "")
    assert len(rows(NAMES)) == 2


def test_an_import_of_a_broken_file_says_what_is_stored_and_where_it_broke(run, register):
    good = "".join(f"hoist-{number},hoist,Hoist\n" for number in range(5000))
    Path("assets.csv").write_bytes(
        b"assetKey,assetKind,displayName\n" + good.encode() + b"hoist-x,hoist,Gr\xfcn\nz,hoist,Z\n"
    )

    said = run("import assets assets.csv")

    assert (said.status, said.err) == (1, "")
    assert said.out.splitlines() == [
        "assets: 5,000 created, 0 updated, 0 unchanged, 1 refused.",
        "line 5002: Line 5002 is not UTF-8: save the file as CSV in UTF-8. "
        "No row from here on is stored.",
    ]
    assert len(rows(NAMES)) == 5001
    again = run("import assets assets.csv --json").json
    assert (again["unchanged"], again["refused"], again["stopped"]) == (5000, 1, 5002)


def test_an_import_that_is_interrupted_says_what_is_stored(run, register, monkeypatch):
    def lines():
        for number in range(2500):
            asset = ASSET | {"assetKey": f"hoist-{number}"}
            yield json.dumps(asset).encode() + b"\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=lines()))

    said = run("import assets - --format ndjson")

    assert (said.status, said.out) == (130, "")
    assert said.err == (
        "assets: 2,000 created, 0 updated, 0 unchanged before it stopped; these stay.\n"
    )
    assert len(rows(NAMES)) == 2001


def test_trails_artifacts_and_attestations_are_seeded_with_given_ids(run):
    flow, trail, artifact, attestation = (f"{n}c4ffa8e-2b0a-4c6e-9f58-7a1d6b1f2a01" for n in "1234")
    commit = f"{trail},{flow},a1b2c3,main,Ada,ada@example.org,2020-02-03T04:05:06Z"
    files = {
        "flows": f"id,name,requiredAttestationTypes\n{flow},app,[]\n",
        "trails": "id,flowId,gitCommitSha,gitBranch,gitAuthor,gitAuthorEmail,createdAt\n" + commit,
        "artifacts": "id,trailId,imageName,imageTag,sha256Digest,reportedBy\n"
        f"{artifact},{trail},app,1,sha256:{'a' * 64},ci\n",
        "attestations": f"id,trailId,type,status\n{attestation},{trail},junit,PASSED\n",
    }
    for name, text in files.items():
        Path(f"{name}.csv").write_text(text)

    for created in ("1 created, 0 updated, 0 unchanged", "0 created, 0 updated, 1 unchanged"):
        for name in files:
            said = run(f"import {name} {name}.csv")

            assert said == Said(0, f"{name}: {created}, 0 refused.\n", "")
    [seeded] = json.loads(run("export trails --json").out)
    assert (seeded["id"], seeded["createdAt"]) == (trail, "2020-02-03T04:05:06.000000Z")
    Path("bad.csv").write_text(f"id,trailId,type\nattestation-1,{trail},junit\n")
    refused = run("import attestations bad.csv")
    assert refused.status == 1
    assert refused.out.splitlines()[1] == "line 2, id: Expected a UUID"
    assert run("verify").status == 0


def test_an_export_of_claims_carries_the_bytes_of_their_attachments(run, register):
    content = base64.b64encode(b"minutes").decode()
    attachment = {"fileName": "a.txt", "contentType": "text/plain", "contentBase64": content}
    requirement = {"id": "evreq_1", "requirementKey": "minutes", "title": "Minutes"}
    claim = {
        "evidenceRequirementId": "minutes",
        "claimKey": "2026",
        "title": "Minutes",
        "subjectModuleKey": "assets",
        "subjectResourceType": "asset",
        "subjectResourceId": "asset_1",
        "sourceKind": "manual",
        "attachments": [attachment],
    }
    asset = ASSET | {"id": "asset_1", "assetKey": "hoist"}
    names = {"assets": asset, "evidence-requirements": requirement, "evidence-claims": claim}
    for name, record in names.items():
        Path(f"{name}.ndjson").write_text(json.dumps(record))
        assert run(f"import {name} {name}.ndjson").status == 0
        assert run(f"export {name} {name}.json").status == 0

    for name in names:
        assert run(f"import {name} {name}.json --database other.db").status == 0

    [moved] = json.loads(Path("evidence-claims.json").read_text())
    assert run(f"attachment {moved['attachments'][0]['id']} out --database other.db").status == 0
    assert Path("out").read_bytes() == b"minutes"
    assert run("verify --database other.db").status == 0


def test_an_import_reads_standard_input(run, register, monkeypatch):
    stream = io.BytesIO(json.dumps(ASSET | {"assetKey": "hoist-1"}).encode())
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=stream))

    said = run("import assets - --format ndjson")

    assert said.out == "assets: 1 created, 0 updated, 0 unchanged, 0 refused.\n"
    assert [key for key, _ in rows(NAMES)] == ["hoist-1", "torque-wrench-7"]


CATALOG = {
    "catalog": {
        "uuid": "0e3b5d0e-7d3b-4b4e-8f1a-2f6f3b1c9d10",
        "metadata": {
            "title": "House rules",
            "version": "1",
            "last-modified": "2026-01-01T00:00:00Z",
            "oscal-version": "1.1.2",
        },
        "groups": [
            {"id": "ac", "title": "Access", "controls": [{"id": "ac-1", "title": "Policy"}]}
        ],
    }
}


def test_an_oscal_catalog_becomes_a_framework_and_a_second_time_changes_nothing(run):
    Path("catalog.json").write_text(json.dumps(CATALOG))

    first = run("import frameworks catalog.json --format oscal")
    again = run("import frameworks catalog.json --format oscal --json").json

    assert first.out == "frameworks: 4 created, 0 updated, 0 unchanged, 0 refused.\n"
    assert (again["created"], again["updated"], again["unchanged"]) == (0, 0, 4)
    assert rows("SELECT title FROM framework_node ORDER BY node_key") == ["Access", "Policy"]
    assert rows("SELECT name FROM framework") == ["House rules"]


@pytest.mark.parametrize("format", ["csv", "tsv", "json", "ndjson"])
def test_an_export_imported_into_an_empty_workspace_gives_the_same_records(run, register, format):
    Path("assets.csv").write_text(CSV)
    run("import assets assets.csv")

    said = run(f"export assets out.{format} --json")
    taken = run(f"import assets out.{format} --database other.db --json")
    back = run("export assets --format json --database other.db").out

    assert said.json == {"collection": "assets", "file": f"out.{format}", "records": 2}
    assert taken.json["created"] == 2
    assert json.loads(back) == json.loads(run("export assets --json").out)
    assert not Path(f"out.{format}.unfinished").exists()


def test_an_export_of_nothing_is_a_header_or_an_empty_array(run, register):
    assert run("export findings").out.startswith("id,findingKey,sourceKind,")
    assert run("export findings").out.count("\n") == 1
    assert run("export findings --json").out == "[]\n"


def test_an_export_replaces_a_file_only_when_it_is_whole(run, register):
    Path("out.csv").write_text("from yesterday")

    failed = run("export nothing out.csv")
    kept = Path("out.csv").read_text()
    done = run("export assets out.csv")

    assert (failed.status, kept) == (1, "from yesterday")
    assert done.out == "assets: 1 records written to out.csv.\n"
    assert "torque-wrench-7" in Path("out.csv").read_text()


def test_set_changes_members_and_says_why(run, register):
    words = f"set assets {register} status=retired 'displayName=Wrench: 7=x' description="

    said = run(f"{words} --reason {REASON} --json")

    assert said.json["status"] == "retired"
    assert said.json["displayName"] == "Wrench: 7=x"
    assert said.json["description"] is None
    assert audited() == ["asset.created", "asset.updated"]
    assert rows("SELECT status FROM asset") == ["retired"]


def test_set_moves_a_finding_and_its_events_leave(run, private):
    with Receiver() as receiver:
        id = finding()["id"]
        run(f"webhook add {receiver.url} --event finding.updated finding.closed")

        moved = run(f"set findings {id} status=accepted --reason {REASON}")
        refused = run(f"set findings {id} status=triaged --reason {REASON} --json")
        arrived = deliver()

    assert moved.status == 0
    assert "Status" in moved.out and "accepted" in moved.out
    assert refused.status == 1
    assert refused.json["issues"] == [{"path": ["status"], "message": "Cannot follow accepted"}]
    assert arrived == 2
    types = [json.loads(receiver.arrived.get(timeout=60)[1])["type"] for _ in "12"]
    assert sorted(types) == ["finding.closed", "finding.updated"]


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("nothing=1", "assets have no member nothing."),
        ("assetKind=", "assetKind: Expected a value, since it cannot be empty."),
        ("commissionedAt=soon", "commissionedAt: Expected a date-time such as"),
    ],
)
def test_set_refuses_what_a_record_cannot_hold(run, register, change, result):
    said = run(f"set assets {register} {change} --reason {REASON}")

    assert said.status == 1
    assert said.err.startswith(f"novantra-lite: {result}")
    assert said.err.count(result) == 1
    assert audited() == ["asset.created"]


@pytest.fixture
def attachment(register):
    """The id of an attachment, whose file name was chosen to do harm."""
    with NovantraLite(DATABASE) as lite:
        need = {"requirementKey": "calibration", "title": "Certificate"}
        requirement = lite.collection("evidence-requirements").create(**need, reason=WHY)
        content = base64.b64encode(b"Calibrated on Monday.").decode()
        file = {"fileName": "../../.note.txt", "contentType": "text/plain"}
        claim = {"evidenceRequirementId": requirement["id"], "title": "Seen", "reason": WHY}
        claim["attachments"] = [file | {"contentBase64": content}]
        client = lite.client("governance.evidence:write")
        answer = client.post("/api/v1/governance/evidence/claims", claim)
        return answer.json["claim"]["attachments"][0]["id"]


def test_an_attachment_is_saved_decrypted_under_a_harmless_name(run, attachment):
    first = run(f"attachment {attachment}")
    second = run(f"attachment {attachment}")
    named = run(f"attachment {attachment} other.txt --json")
    shown = run(f"attachment {attachment} -")

    assert first == Said(0, "21 bytes written to note.txt.\n", "")
    assert second == Said(1, "", "novantra-lite: note.txt: file exists.\n")
    assert (named.json["file"], named.json["sizeBytes"]) == ("other.txt", 21)
    assert shown.out == "Calibrated on Monday."
    assert Path("note.txt").read_bytes() == Path("other.txt").read_bytes() == shown.out.encode()
    assert b"Calibrated on Monday." not in DATABASE.read_bytes()


# --- Backups, keys, checks ----------------------------------------------------


def test_a_backup_restored_elsewhere_verifies_and_answers(run, attachment):
    backup = run("backup copy.db --json").json
    restored = run("restore copy.db elsewhere/register.db --json")
    assert restored.status == 1
    Path("elsewhere").mkdir()

    restored = run("restore copy.db elsewhere/register.db")
    shutil.copy("register.db.key", "elsewhere/register.db.key")
    checked = run("verify elsewhere/register.db")
    saved = run(f"attachment {attachment} - --database elsewhere/register.db")
    listed = run("export assets --json --database elsewhere/register.db")

    assert backup == {"file": "copy.db", "bytes": Path("copy.db").stat().st_size}
    assert restored == Said(
        0,
        "elsewhere/register.db is restored; put its key file beside it: "
        "elsewhere/register.db.key.\n",
        "",
    )
    assert checked.out == "Sound: the file, the ledger and the audit chain.\n"
    assert saved.out == "Calibrated on Monday."
    assert [asset["assetKey"] for asset in json.loads(listed.out)] == ["torque-wrench-7"]
    assert stat.S_IMODE(Path("elsewhere/register.db").stat().st_mode) == 0o600


def test_a_backup_is_whole_while_the_server_runs(run, register):
    token = run("token --scope governance.findings:write").out.strip()
    body = {"title": "Cracked", "severity": "high", "reason": WHY}

    with serving(DATABASE) as server, contextlib.closing(connect(server.said["url"])) as connection:
        path = "/api/v1/governance/findings"
        written = call(connection, "POST", path, token, body)[0]
        said = run("backup copy.db")
        also = call(connection, "POST", path, token, body | {"title": "Later"})[0]
    run("restore copy.db other.db")
    shutil.copy("register.db.key", "other.db.key")

    assert (written, said.status, also) == (201, 0, 201)
    assert run("verify other.db").status == 0
    assert rows("SELECT title FROM finding", "other.db") == ["Cracked"]


def test_a_restored_file_does_not_open_without_its_key_and_no_key_is_made_for_it(run, register):
    run("backup copy.db")
    run("restore copy.db other.db")

    reading, writing = run("verify other.db"), run("token --scope assets:read --database other.db")

    assert (reading.status, writing.status) == (1, 1)
    assert "key file" in reading.err and "NOVANTRA_LITE_KEY" in reading.err
    assert writing.err == reading.err
    assert not Path("other.db.key").exists()


@pytest.mark.parametrize("text", ["", "no key", "c2hvcnQ=\n"])
def test_a_key_file_that_holds_no_key_is_told_in_a_sentence(run, register, text):
    Path("register.db.key").write_text(text)

    said = run("account list")

    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("novantra-lite: ") and said.err.count("\n") == 1
    assert "register.db.key" in said.err


def test_a_setting_that_cannot_be_read_is_told_in_a_sentence(run, register, monkeypatch):
    monkeypatch.setenv("NOVANTRA_LITE_THREADS", "many")

    said = run("account list")

    text = "novantra-lite: The setting threads needs a number, not 'many'.\n"
    assert said == Said(1, "", text)


def test_a_key_from_the_environment_is_used_instead_of_a_file(run, monkeypatch):
    monkeypatch.setenv("NOVANTRA_LITE_KEY", "four words make a key")

    run("account create scanner --scope assets:read")
    opened = run("account list")
    monkeypatch.setenv("NOVANTRA_LITE_KEY", "another")
    refused = run("account list")

    assert (opened.status, refused.status) == (0, 1)
    assert not Path("register.db.key").exists()


def test_an_api_key_is_made_listed_and_revoked(run, register):
    made = run("key create auditor --scope factstore:read --days 90 --json").json
    before = get("/api/v1/flows", made["apiKey"])

    listed = run("key list")
    revoked = run(f"key revoke {made['id']}")

    assert made["scopes"] == ["factstore:read"]
    assert made["ttlDays"] == 90
    assert made["apiKey"] not in listed.out
    assert made["keyPrefix"] in listed.out
    assert revoked.out == f"{made['id']} is revoked.\n"
    assert (before, get("/api/v1/flows", made["apiKey"])) == (200, 401)
    assert run("verify").status == 0


def test_a_key_without_options_reads_and_writes_until_it_is_revoked(run, register):
    made = run("key create pipeline --json").json

    assert made["scopes"] == ["factstore:read", "factstore:write"]
    assert made["expiresAt"] is None


def test_flows_are_imported_from_a_table_and_a_second_time_nothing_changes(run):
    Path("flows.csv").write_text(
        "name,requiredAttestationTypes,requiresApproval,tags\n"
        'payments,"junit, snyk",yes,"{""team"": ""money""}"\n'
        "reports,,,\n"
    )

    first = run("import flows flows.csv --json").json
    second = run("import flows flows.csv --json").json

    flows = json.loads(run("export flows --json").out)
    assert (first["created"], first["refused"]) == (2, 0)
    assert (second["unchanged"], second["updated"]) == (2, 0)
    assert [flow["name"] for flow in flows] == ["payments", "reports"]
    assert flows[0]["requiredAttestationTypes"] == ["junit", "snyk"]
    assert flows[0]["tags"] == {"team": "money"}
    assert flows[0]["requiresApproval"] is True


@pytest.fixture
def trail():
    """A trail of a flow that puts up with no critical finding."""
    with NovantraLite(DATABASE) as lite:
        client = lite.client("factstore:write")
        flow = client.post("/api/v1/flows", {"name": "payments"}).json["id"]
        client.post(f"/api/v1/flows/{flow}/security-thresholds", {})
        commit = {"gitCommitSha": "f00d", "gitBranch": "main"}
        author = {"gitAuthor": "ada", "gitAuthorEmail": "ada@example.org"}
        return client.post("/api/v1/trails", {"flowId": flow} | commit | author).json["id"]


def test_a_scanner_s_report_is_imported_for_a_trail(run, trail, monkeypatch):
    report = {"SchemaVersion": 2, "ArtifactName": "app:7", "Results": [
        {"Vulnerabilities": [{"Severity": "CRITICAL"}, {"Severity": "LOW"}]}
    ]}  # fmt: skip
    content = json.dumps(report).encode()
    Path("trivy.json").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    tried = run(f"import scans trivy.json --trail {trail} --dry-run")
    said = run(f"import scans trivy.json --trail {trail}")
    piped = run(f"import scans - --trail {trail} --json").json

    text = "Trivy: 1 critical, 0 high, 0 medium, 1 low, 0 informational."
    breach = (
        "Critical vulnerabilities: 1 found, at most 0 allowed.\n"
        "Low vulnerabilities: 1 found, at most 0 allowed.\n"
    )
    assert (tried.status, said.status) == (0, 0)
    assert (tried.out, said.out) == (f"{text} Nothing is stored.\n{breach}", f"{text}\n{breach}")
    assert (piped["trailId"], piped["target"], piped["thresholdBreached"]) == (trail, "app:7", True)
    assert rows("SELECT count(*) FROM security_scan") == [2]
    assert run("verify").status == 0


def test_what_is_of_unknown_severity_is_told(run, trail):
    Path("grype.json").write_text(
        '{"matches": [{"vulnerability": {"severity": "Unknown"}}], "descriptor": {"name": "grype"}}'
    )

    said = run(f"import scans grype.json --trail {trail}")

    assert said.out == (
        "Grype: 0 critical, 1 high, 0 medium, 0 low, 0 informational; of unknown severity: 1.\n"
        "High vulnerabilities: 1 found, at most 0 allowed.\n"
    )


@pytest.mark.parametrize(
    ("line", "status", "result"),
    [
        ("import scans notes.txt --trail {trail}", 1, "notes.txt: The file is not JSON in UTF-8."),
        ("import scans empty.json --trail x", 1, "There is no trail with the id x."),
        ("import scans none.json --trail {trail}", 1, "none.json: no such file or directory."),
        ("import scans empty.json", 2, "a scan is imported by: import scans FILE --trail ID"),
        ("import flows empty.json --trail {trail}", 2, "a scan is imported by: import scans FILE"),
        ("import scans empty.json --trail {trail} --format csv", 2, "a scan is imported by: "),
    ],
)
def test_a_report_that_cannot_be_imported_is_told_in_a_sentence(run, trail, line, status, result):
    Path("notes.txt").write_text("Nothing found.")
    Path("empty.json").write_text('{"matches": [], "descriptor": {"name": "grype"}}')

    said = run(line.format(trail=trail))

    assert (said.status, said.out) == (status, "")
    assert result in said.err
    assert rows("SELECT count(*) FROM security_scan") == [0]


def test_a_new_key_seals_from_now_on_and_the_old_ones_still_open(run, register):
    first, kept = finding("First")["id"], run("token --scope assets:read").out.strip()
    run(f"set findings {first} description=Before --reason {REASON}")
    account = run("account create scanner --scope assets:read --json").json

    said = run("key rotate --json")
    second = finding("Second")["id"]
    run(f"set findings {second} description=After --reason {REASON}")

    sealed = dict(rows("SELECT id, description FROM finding"))
    opened = json.loads(run("export findings --json").out)
    assert said.json == {"rotated": True}
    assert (sealed[first][:2], sealed[second][:2]) == ("1.", "2.")
    assert [record["description"] for record in opened] == ["Before", "After"]
    assert (exchange(account)[0], get(ASSETS, kept)) == (200, 200)
    assert "key_ring.key_added" in audited()
    assert run("verify").status == 0


TAMPERED = {
    "UPDATE asset SET display_name = 'Wrench 8'": "Asset {id} is not what the ledger recorded.",
    "DELETE FROM asset": "Asset {id} is in the ledger but not in its table.",
    "UPDATE ledger_entry SET content_hash = '0' WHERE id = 2": "Ledger entry 2 was changed, or the",
    "DELETE FROM ledger_entry WHERE id = 2": "The ledger has no entry for asset {id}.",
    "DELETE FROM ledger_entry WHERE id = 1": "Ledger entry 1 is missing.",
    "UPDATE audit_entry SET actor = 'nobody' WHERE id = 2": "Audit entry 2 was changed, or the one",
    "DELETE FROM audit_entry WHERE id = 2": "Audit entry 2 is missing.",
}


@pytest.mark.parametrize("sql", TAMPERED)
def test_verify_names_what_was_tampered_with_and_exits_with_1(run, register, sql):
    before = run("verify --json")
    with contextlib.closing(sqlite3.connect(DATABASE)) as connection, connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(sql)

    plain, result = run("verify"), run("verify --json")

    expected = TAMPERED[sql].format(id=register)
    assert before.json == {"sound": True, "faults": []}
    assert (plain.status, result.status) == (1, 1)
    assert plain.out.startswith(expected)
    assert result.json["sound"] is False
    assert result.json["faults"][0].startswith(expected)


def test_verify_finds_a_damaged_page(run, register):
    data = bytearray(DATABASE.read_bytes())
    data[4096 * 3 : 4096 * 4] = random.Random(1).randbytes(4096)
    DATABASE.write_bytes(data)

    said = run("verify")

    assert said.status == 1
    assert "amaged" in said.out + said.err


def test_the_doctor_tells_facts_and_no_secret(run, register, monkeypatch):
    monkeypatch.setenv("NOVANTRA_LITE_KEY", Path("register.db.key").read_text().strip())

    result, plain = run("doctor --json"), run("doctor register.db")

    assert result.json["version"] == "0.1.0"
    assert result.json["sqlite"] == sqlite3.sqlite_version
    assert result.json["workspaces"][0]["file"] == "register.db"
    assert result.json["workspaces"][0]["slug"] == "register"
    assert result.json["settings"]["threads"] == 8
    assert os.environ["NOVANTRA_LITE_KEY"] not in result.out + plain.out
    assert "  rate_limits " in plain.out


def test_the_doctor_needs_no_workspace(run, monkeypatch):
    monkeypatch.delenv("NOVANTRA_LITE_DATABASE")

    said = run("doctor --json")

    assert (said.status, said.json["workspaces"][0]["file"]) == (0, "temporary")


def test_workspaces_are_made_listed_and_named(run, monkeypatch):
    monkeypatch.delenv("NOVANTRA_LITE_DATABASE")
    monkeypatch.setenv("NOVANTRA_LITE_WORKSPACES", "several")
    empty = run("workspace list --workspaces .")

    made = run("workspace create hangar-7 --name 'Hangar 7' --json").json
    run("workspace create dock")
    twice = run("workspace create dock")
    account = run("account create x --scope assets:read --workspace hangar-7 --json").json
    unnamed = run("account list")
    listed = run("workspace list --json").json
    accounts = [
        run(f"account list --workspace {slug} --json").json for slug in ("hangar-7", "dock")
    ]

    assert empty.out == "No workspace yet: see `novantra-lite workspace create --help`.\n"
    assert (made["slug"], made["name"]) == ("hangar-7", "Hangar 7")
    assert made["path"] == "several/hangar-7.db" and Path(made["path"]).exists()
    assert (twice.status, twice.err) == (1, "novantra-lite: There is already a workspace dock.\n")
    assert unnamed.err == "novantra-lite: Name one of the workspaces: dock, hangar-7.\n"
    assert [workspace["slug"] for workspace in listed] == ["dock", "hangar-7"]
    assert [len(result) for result in accounts] == [1, 0]
    assert accounts[0][0]["clientId"] == account["clientId"]


def test_the_documents_are_printed_without_a_workspace(run, monkeypatch):
    monkeypatch.delenv("NOVANTRA_LITE_DATABASE")

    schema, routes, openapi = run("schema"), run("routes"), run("openapi")

    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema.out)
        tables = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'finding'")
        assert tables.fetchone() == (1,)
    assert "POST /api/v1/governance/findings" in " ".join(routes.out.split())
    assert json.loads(openapi.out)["openapi"].startswith("3.")
    assert run("openapi --json").json == json.loads(openapi.out)
    assert run("schema --json").json["schema"].strip() == schema.out.strip()
    assert list(Path().iterdir()) == []


# --- Beside a server ----------------------------------------------------------

READING = (
    "account list", "webhook list", "webhook deliveries", "export assets", "verify", "doctor",
    "backup copy.db", "checkpoint",
)  # fmt: skip
WRITING = (
    "account create x --scope assets:read", "account disable svc_1", "token --scope assets:read",
    "webhook add https://example.org", "key rewrap", "key rotate", "import assets assets.csv",
    f"set assets asset_1 status=gone --reason {REASON}",
)  # fmt: skip


def test_beside_a_server_commands_may_read_and_those_that_write_are_told_who_has_the_file(
    run, register
):
    Path("assets.csv").write_text(CSV)

    with serving(DATABASE) as server:
        reading = [run(line).status for line in READING]
        writing = [run(line) for line in WRITING]

    text = f"novantra-lite: register.db is in use by process {server.pid}; stop it first.\n"
    assert reading == [0] * 8
    assert {(said.status, said.err) for said in writing} == {(1, text)}
    assert rows(NAMES) == [("torque-wrench-7", "Wrench 7")]


def test_commands_work_on_the_file_of_a_server_that_was_killed(run, register):
    with serving(DATABASE) as server:
        server.kill()
        server.wait()
        lock = Path("register.db.lock").exists()

        reading, writing = run("verify"), run("account create x --scope assets:read")

    assert lock
    assert (reading.status, writing.status) == (0, 0)
    assert not Path("register.db.lock").exists()


# --- Servers and pipes, in their own processes --------------------------------


def test_serve_demo_says_in_one_line_how_to_reach_a_register_full_of_data():
    with (
        serving("--demo", NOVANTRA_LITE_DATABASE="") as server,
        contextlib.closing(connect(server.said["url"])) as connection,
    ):
        said = server.said
        credentials = {"grant_type": "client_credentials", "client_id": said["clientId"]}
        credentials["client_secret"] = said["clientSecret"]
        _, token = call(connection, "POST", "/api/v1/auth/token", body=credentials)
        status, assets = call(connection, "GET", ASSETS, token["access_token"])
        flows, _ = call(connection, "GET", "/api/v1/flows", said["apiKey"])
        server.send_signal(signal.SIGTERM)
        ended, rest = server.wait(60), server.stdout.read()

    assert set(said) == {
        "url", "docs", "workspace", "clientId", "clientSecret", "name", "scopes", "expires",
        "apiKey",
    }  # fmt: skip
    assert flows == 200
    assert said["docs"] == said["url"] + "/docs"
    assert said["name"] == "Demo account"
    assert (status, len(assets["assets"])) == (200, 50)
    assert (ended, rest) == (0, b"")
    assert list(Path().iterdir()) == []


def test_serve_writes_the_first_account_down_once_and_the_demo_account_anew(run):
    kept, written, file = [], [], Path(f"{DATABASE}.credentials")
    for arguments in ([], [], ["--demo"], ["--demo"]):
        with serving(DATABASE, *arguments) as server:
            kept.append(server.said)
            written.append((file.stat().st_mode & 0o777, json.loads(file.read_text())))
            server.send_signal(signal.SIGTERM)
            server.wait(60)

    names = [account["name"] for account in run("account list --json").json]
    assert [said.get("name") for said in kept] == [
        "First account", None, "Demo account", "Demo account",
    ]  # fmt: skip
    assert not any({"clientSecret", "apiKey"} & said.keys() for said in kept)
    assert [said.get("credentialsFile", "").endswith(file.name) for said in kept] == [
        True, False, True, True,
    ]  # fmt: skip
    modes, secrets = zip(*written, strict=True)
    assert set(modes) == {0o600}
    assert secrets[0] == secrets[1]
    assert kept[2]["clientId"] == kept[3]["clientId"] == secrets[3]["clientId"]
    assert secrets[2]["clientSecret"] != secrets[3]["clientSecret"]
    assert get("/api/v1/flows", secrets[2]["apiKey"]) == 401
    assert get("/api/v1/flows", secrets[3]["apiKey"]) == 200
    assert names == ["First account", "Demo account"]
    assert run("verify").status == 0


def test_serve_greets_people_with_lines_that_a_shell_can_run():
    line = [*PROGRAM, "serve", "--demo", "--listen", "127.0.0.1:0"]
    environment = os.environ | {"NOVANTRA_LITE_DATABASE": ""}

    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as server:
        greeting = []
        while not greeting or greeting[-1] != "Stop with Ctrl-C.\n":
            greeting.append(server.stdout.readline())
            # An empty line is the end: the server did not start.
            assert greeting[-1]
        pasted = "".join(line for line in greeting if "curl" in line)
        done = subprocess.run(pasted, shell=True, capture_output=True, text=True, timeout=60)
        server.send_signal(signal.SIGINT)
        status = server.wait(60)

    assert greeting[0].startswith("Novantra Lite answers at http://127.0.0.1:")
    assert "The workspace is temporary; `serve FILE` stores it in a file.\n" in greeting
    assert len(json.loads(done.stdout)["assets"]) == 3
    assert status == 0


def test_serve_of_several_workspaces_names_them_and_each_has_its_own_tokens(run):
    for slug in ("dock", "hangar-7"):
        run(f"workspace create {slug} --workspaces several")
    environment = {"NOVANTRA_LITE_DATABASE": "", "NOVANTRA_LITE_WORKSPACES": "several"}
    token = run("token --scope organization:read --workspaces several --workspace dock").out.strip()

    with (
        serving(**environment) as server,
        contextlib.closing(connect(server.said["url"])) as connection,
    ):
        status, said = call(connection, "GET", "/api/v1/organization", token)

    assert server.said["workspaces"] == ["dock", "hangar-7"]
    assert "clientSecret" not in server.said
    assert (status, said["organization"]["slug"]) == (200, "dock")


def test_demo_data_goes_into_one_workspace_that_is_named(run):
    for slug in ("dock", "hangar-7"):
        run(f"workspace create {slug} --workspaces several")

    said = run("serve --workspaces several --demo --listen 127.0.0.1:0")

    assert said == Said(
        1, "", "novantra-lite: Demo data goes into one workspace: add --workspace SLUG.\n"
    )


def test_ctrl_c_ends_an_import_with_130_and_says_what_is_stored(register):
    line = [*PROGRAM, "import", "assets", "-", "--format", "ndjson"]
    some = Collection.BATCH
    tools = "".join(f"{json.dumps(ASSET | {'assetKey': f'tool-{n}'})}\n" for n in range(2 * some))

    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(tools.encode())
        process.stdin.flush()
        # What it has committed shows that it is under way; it goes on to wait for more rows.
        while len(rows(NAMES)) <= some:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    stored = len(rows(NAMES)) - 1
    counts = f"assets: {stored:,} created, 0 updated, 0 unchanged before it stopped; these stay."
    assert (process.returncode, out, err.decode()) == (130, b"", f"{counts}\n")
    assert not Path("register.db.lock").exists()
    assert stored in (some, 2 * some)


@pytest.mark.parametrize("line", ["openapi", "export assets", "--help"])
def test_a_closed_pipe_is_quiet(run, line):
    Path("assets.csv").write_text(
        "assetKey,assetKind,displayName\n"
        + "".join(f"tool-{number},tool,Tool {number}\n" for number in range(2000))
    )
    run("import assets assets.csv")
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [*PROGRAM, *line.split()], stdout=writing, stderr=subprocess.PIPE, env=environment
    )

    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_program_is_installed_under_its_name(register):
    program = Path(sys.executable).with_name("novantra-lite")

    done = subprocess.run([program, "verify", "register.db"], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Sound: the file, the ledger and the audit chain.\n"


def test_a_digest_of_the_file_is_the_same_after_every_command_that_only_reads(run, register):
    before = hashlib.sha256(DATABASE.read_bytes()).hexdigest()

    for line in READING:
        run(line)

    assert hashlib.sha256(DATABASE.read_bytes()).hexdigest() == before
    assert sorted(path.name for path in Path().iterdir()) == [
        "copy.db", "copy.db.checkpoints", "register.db", "register.db.checkpoints",
        "register.db.key",
    ]  # fmt: skip


# --- Files that are in the way ------------------------------------------------


def test_nothing_is_restored_beside_what_is_left_of_another_file(run, register):
    run("backup copy.db")
    Path("other.db-wal").write_bytes(b"left behind")

    refused = run("restore copy.db other.db")
    Path("other.db").write_bytes(b"")
    both = run("restore copy.db other.db")

    assert (refused.status, both.status) == (1, 1)
    assert "other.db-wal exists already; move it away" in refused.err
    assert "other.db, other.db-wal exist already; move them away together" in both.err
    assert Path("other.db").read_bytes() == b""


def test_an_export_goes_through_a_link_and_into_a_pipe(run, register):
    Path("kept.csv").write_text("old")
    Path("link.csv").symlink_to("kept.csv")
    os.mkfifo("pipe")
    with ThreadPoolExecutor() as reader:
        read = reader.submit(Path("pipe").read_text)
        piped = run("export assets pipe --format csv")

    linked = run("export assets link.csv")

    assert (piped.status, linked.status) == (0, 0)
    assert Path("link.csv").is_symlink()
    assert Path("pipe").is_fifo()
    assert Path("kept.csv").read_bytes().decode() == read.result(10).replace("\n", "\r\n")
    assert "torque-wrench-7" in read.result()


def test_an_export_that_fails_leaves_nothing_behind(run, register):
    Path("folder.csv").mkdir()

    refused = run("export assets folder.csv")

    assert refused.status == 1
    assert "folder.csv: is a directory" in refused.err
    assert not list(Path().glob("*.unfinished"))


def test_columns_that_nobody_knows_are_named(run, register):
    Path("typo.csv").write_text("assetKey,assetKind,displayName,descripton\na,tool,A,long\n")

    said = run("import assets typo.csv")
    body = run("import assets typo.csv --json").json

    assert said.status == 0
    assert "Left out, since assets have no such member: descripton." in said.out
    assert body["ignored"] == ["descripton"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_server_that_is_asked_to_stop_leaves_one_file_and_its_keys(number):
    with serving("register.db") as server:
        server.send_signal(number)
        assert server.wait(60) == 0

    assert {path.name for path in Path().iterdir()} == {
        "register.db",
        "register.db.key",
        "register.db.checkpoints",
        "register.db.credentials",
    }
