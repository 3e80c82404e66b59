"""Damaged files, full disks, long work under the writer, and keys that others have seen.

What is damaged is named, what is whole is not, and nothing keeps the others waiting.
"""

import contextlib
import hashlib
import json
import lzma
import os
import random
import resource
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import WHY

from novantra_lite import FACTSTORE_SCOPES, NovantraLite, main

FINDINGS = "/api/v1/governance/findings"
FLOWS = "/api/v1/flows"
ALWAYS = {"from": "2000-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
SOUND = "Sound: the file, the ledger and the audit chain.\n"
DATABASE = Path("register.db")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty directory to work in; the environment names `register.db` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOVANTRA_LITE_DATABASE", "register.db")
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs one command line in this process; gives its exit status and both outputs."""

    def run(line):
        capsys.readouterr()
        return main(shlex.split(line)), *capsys.readouterr()

    return run


def record(lite, count, first=0):
    """Record findings and flows, so many of each; the ids of the findings."""
    findings, flows = lite.collection("findings"), lite.collection("flows")
    ids = []
    for number in range(first, first + count):
        flows.create(name=f"flow {number}", reason=WHY)
        row = {"findingKey": f"f{number}", "title": f"Finding {number}", "severity": "low"}
        ids.append(findings.create(**row, description="By the door " * 9, reason=WHY)["id"])
    return ids


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A closed file of 60 findings and 60 flows, with an event; the ids of the findings."""
    path = tmp_path_factory.mktemp("template") / DATABASE
    with NovantraLite(path) as lite:
        client = lite.client("governance.findings:write")
        body = {"title": "Event", "severity": "low", "reason": WHY}
        assert client.post(FINDINGS, body).status == 201
        return path, record(lite, 60)


@pytest.fixture
def register(template):
    """A copy of that file, with its key, in the directory of the test; the ids of the findings."""
    path, ids = template
    for ending in ("", ".key", ".checkpoints"):
        shutil.copy(f"{path}{ending}", f"register.db{ending}")
    return ids


def stored(sql, *values):
    """The first value that a query finds in the file."""
    with contextlib.closing(sqlite3.connect(DATABASE)) as file:
        return file.execute(sql, values).fetchone()[0]


def sealed(finding):
    """The encrypted description of a finding, which stands in its row only."""
    return stored("SELECT description FROM finding WHERE id = ?", finding)


def damage(anchor, change, text=""):
    """Change the page that holds a text: `change` is told the page and where in it a text is."""
    data = bytearray(DATABASE.read_bytes())
    begin = data.index(anchor.encode()) // 4096 * 4096
    page = bytearray(data[begin : begin + 4096])
    change(page, page.index((text or anchor).encode()))
    data[begin : begin + 4096] = page
    DATABASE.write_bytes(data)


def unreadable(page, offset):
    """Make a page one that is of no kind."""
    page[0] = 0xFF


def invalid_text(page, offset):
    """Make the first two bytes of the text none of UTF-8."""
    page[offset : offset + 2] = b"\xff\xfe"


# --- Verification beside a server ---------------------------------------------


def test_nothing_is_wrong_with_a_file_that_is_written_while_it_is_verified(run):
    verdicts, done = [], threading.Event()
    with NovantraLite(DATABASE) as lite:
        record(lite, 50)
        lite.workspace.checkpoints.write()

        def write():
            number = 100
            while not done.is_set():
                record(lite, 1, number)
                number += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(4):
                verdicts += lite.verify()
                verdicts.append(run("verify --checkpoint register.db.checkpoints")[0])
        finally:
            done.set()
            thread.join()

    assert verdicts == [0, 0, 0, 0]


# --- Damage is named ----------------------------------------------------------


def test_a_page_of_records_that_cannot_be_read_is_named_with_what_is_in_it(run, register):
    damage(sealed(register[30]), unreadable)

    status, out, _ = run("verify")

    (rows,) = [line for line in out.splitlines() if line.startswith("Rows ")]
    assert status == 1
    assert "of the table finding cannot be read: the page is damaged (find_" in rows
    assert register[30] in rows and register[0] not in rows and register[59] not in rows
    assert any(
        line.startswith("The file is damaged: the table finding, page ")
        for line in out.splitlines()
    )


def test_what_stands_behind_a_damaged_page_is_verified_all_the_same(run, register):
    with contextlib.closing(sqlite3.connect(DATABASE)) as file, file:
        file.execute("DROP TRIGGER ledger_entry_refuses_update")
        file.execute("UPDATE ledger_entry SET event_type = 'FLOW_HIDDEN' WHERE id = 110")
        file.execute("UPDATE finding SET severity = 'high' WHERE id = ?", (register[58],))
    damage(
        stored("SELECT entry_hash || previous_hash FROM ledger_entry WHERE id = 20")[:64],
        unreadable,
    )

    _, out, _ = run("verify")

    assert "of the table ledger_entry cannot be read: the page is damaged." in out
    assert "Ledger entry 110 was changed, or the one before it was.\n" in out
    assert f"Finding {register[58]} is not what the ledger recorded.\n" in out
    assert "The trigger ledger_entry_refuses_update is missing.\n" in out


def test_text_that_is_not_utf_8_is_named_beside_all_else(run, register):
    damage(sealed(register[30]), invalid_text, "Finding 30")
    damage(sealed(register[31]), invalid_text, "Finding 31")

    status, out, _ = run("verify")

    assert status == 1
    assert f"Finding {register[30]} is not what the ledger recorded.\n" in out
    assert f"Finding {register[31]} is not what the ledger recorded.\n" in out


def test_a_byte_of_an_event_is_missed(run, register):
    event = stored("SELECT data FROM event ORDER BY rowid LIMIT 1")
    damage(event, lambda page, offset: page.__setitem__(offset + 10, ord("_")))

    assert run("verify")[:2] == (1, "Row 1 of the table event has an invalid value.\n")


def test_a_layout_that_is_no_text_is_told_in_a_sentence(run, register):
    damage("CREATE INDEX", lambda page, offset: invalid_text(page, offset + 14))

    status, out, err = run("verify --json")

    assert (status, err) == (1, "")
    assert "register.db is damaged" in json.loads(out)["faults"][0]


def test_a_file_without_its_first_page_is_damaged_and_none_of_another_kind(run, register):
    damage("SQLite format 3", lambda page, offset: page.__setitem__(slice(0, 100), bytes(100)))

    status, out, _ = run("verify")

    expected = "register.db is damaged in its first page: restore a backup.\n"
    assert (status, out) == (1, expected)


def content(file):
    """Every row of a file, as bytes."""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        tables = "SELECT name FROM sqlite_schema WHERE rootpage > 0 AND type = 'table'"
        names = [name.decode() for (name,) in connection.execute(tables).fetchall()]
        return [connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in names]


def test_every_damage_is_named_or_changes_nothing(run, register):
    whole, chance = DATABASE.read_bytes(), random.Random(5)
    before, unnamed = content(DATABASE), []
    for _ in range(25):
        data = bytearray(whole)
        begin = chance.randrange(len(data) // 4096) * 4096
        length = chance.choice((1, 64, 4096))
        offset = begin + chance.randrange(4097 - length)
        data[offset : offset + length] = chance.randbytes(length)
        DATABASE.write_bytes(data)

        status, out, err = run("verify")

        if status != 1 or err:
            unnamed.append((out, err))

    DATABASE.write_bytes(whole)
    assert all(said == (SOUND, "") for said in unnamed)
    assert content(DATABASE) == before


def test_health_and_doctor_tell_what_a_request_came_upon(run, register):
    damage(sealed(register[30]), unreadable)
    with NovantraLite(DATABASE) as lite:
        client = lite.client("governance.findings:read")
        anybody = lite.client()
        before = anybody.get("/actuator/health").status

        listed = client.get(FINDINGS, limit=200)

        health = anybody.get("/actuator/health")
        ready = anybody.get("/api/health/ready").status
    status, out, _ = run("doctor --json")

    assert (before, listed.status, listed.json["error"]) == (200, 503, "internal")
    assert "register.db" not in listed.json["message"]
    damaged = "The workspace's file is damaged: restore a backup of it."
    faults = [{"workspace": "register", "fault": damaged}]
    assert (health.status, ready) == (503, 503)
    assert health.json == {"status": "DOWN", "faults": faults}
    assert status == 1
    assert any("page" in fault for fault in json.loads(out)["workspaces"][0]["faults"])


def test_health_goes_down_without_any_request_for_what_is_damaged(register):
    damage(sealed(register[30]), unreadable)

    with NovantraLite(DATABASE) as lite:
        lite.step()
        status = lite.client().get("/actuator/health").status

    assert status == 503


# --- Full disks ---------------------------------------------------------------


def limited(line, size):
    """Run a command line in a process whose files may have so many bytes; what it said."""
    return subprocess.run(
        [sys.executable, "-m", "novantra_lite", *shlex.split(line)],
        capture_output=True,
        text=True,
        # Or Python would cut what it compiles off at that size, and trip over it at the next start.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


def test_a_backup_that_does_not_fit_says_so_and_leaves_nothing(register):
    said = limited("backup copy.db", 200_000)

    assert said.returncode == 1
    assert said.stderr == (
        "novantra-lite: copy.db cannot be written: the disk fails, or a quota or a limit of the "
        "size of files allows no more.\n"
    )
    assert list(Path().glob("copy.db*")) == []


def test_an_upgrade_whose_backup_does_not_fit_says_so_and_leaves_the_file_as_it_was():
    older = Path(__file__).parents[1] / "layouts" / "layout-6.db.xz"
    DATABASE.write_bytes(lzma.decompress(older.read_bytes()))
    before = hashlib.sha256(DATABASE.read_bytes()).digest()

    said = limited("account create a --scope assets:read", 200_000)

    assert said.returncode == 1
    assert "register.db.before-7 cannot be written" in said.stderr
    assert [path.name for path in Path().iterdir()] == ["register.db"]
    assert hashlib.sha256(DATABASE.read_bytes()).digest() == before


@pytest.mark.parametrize(
    ("target", "result"),
    [
        ("nowhere/copy.db", "nowhere/copy.db cannot be written: no such file or directory."),
        ("register.db", "register.db exists already; name a new file for the backup."),
    ],
)
def test_each_cause_of_a_failed_backup_has_its_own_words(run, register, target, result):
    assert run(f"backup {target}") == (1, "", f"novantra-lite: {result}\n")


def test_a_locked_file_is_told_as_one(run, register):
    with contextlib.closing(sqlite3.connect(DATABASE, isolation_level=None)) as file:
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.execute("BEGIN EXCLUSIVE")
        os.environ["NOVANTRA_LITE_BUSY_TIMEOUT"] = "0"
        try:
            status, _, err = run("account list")
        finally:
            del os.environ["NOVANTRA_LITE_BUSY_TIMEOUT"]

    assert (status, err) == (
        1,
        "novantra-lite: register.db is locked by another process; try again when that one is "
        "done.\n",
    )


# --- Long work under the writer -----------------------------------------------


def test_many_old_events_are_dropped_in_several_transactions(lite, clock):
    client = lite.client("governance.findings:write")
    client.post(FINDINGS, {"title": "First", "severity": "low", "reason": WHY})
    writer = lite.workspace.writer.database.connection()
    writer.execute(
        """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
        INSERT INTO event (id, type, data, created_at)
        SELECT 'evt_' || i, 'a', '{}', '2026-01-01T00:00:00.000Z' FROM n"""
    )
    statements = []
    writer.set_trace_callback(statements.append)

    lite.step()

    writer.set_trace_callback(None)
    deletions = [text for text in statements if text.startswith('DELETE FROM "event"')]
    assert len(deletions) == 3
    assert statements.count("COMMIT") >= 3
    assert writer.execute("SELECT type FROM event").fetchall() == [("finding.created",)]


# --- One verification at a time -----------------------------------------------


def test_a_long_verification_goes_on_with_the_next_request(clock):
    with NovantraLite(clock=clock, ledger_deadline=0.0) as lite:
        record(lite, 125)
        client = lite.client(*FACTSTORE_SCOPES)

        verdicts = [client.post("/api/v1/ledger/verify-chain", ALWAYS) for _ in range(3)]

    assert [verdict.status for verdict in verdicts] == [503, 503, 200]
    assert verdicts[0].headers["retry-after"] == "1"
    assert verdicts[0].json["message"] == (
        "The first 100 entries are as they were written; the time of one request does not allow "
        "more. Send the same request again to continue."
    )
    assert (verdicts[2].json["valid"], verdicts[2].json["entriesChecked"]) == (True, 252)


def test_what_was_verified_before_is_not_believed_again(lite, factstore):
    record(lite, 2)
    before = factstore.post("/api/v1/ledger/verify-chain", ALWAYS).json
    with contextlib.closing(sqlite3.connect(lite.workspace.file, isolation_level=None)) as file:
        file.execute("UPDATE flow SET name = 'mine' WHERE name = 'flow 0'")

    after = factstore.post("/api/v1/ledger/verify-chain", ALWAYS).json

    assert (before["valid"], after["valid"], after["entriesChecked"]) == (True, False, 3)


def test_of_eight_verifications_at_once_those_that_do_not_run_are_refused_at_once(lite):
    record(lite, 150)
    client, statuses, begin = lite.client(*FACTSTORE_SCOPES), [], threading.Barrier(8)

    def verify():
        begin.wait()
        answer = client.post("/api/v1/ledger/verify-chain", ALWAYS)
        statuses.append((answer.status, answer.headers.get("retry-after")))

    threads = [threading.Thread(target=verify) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(statuses) == {(200, None), (503, "1")}


# --- Restored backups ---------------------------------------------------------


def test_after_an_older_backup_the_checkpoints_begin_anew_and_the_old_ones_stay(run, register):
    run("backup copy.db")
    with NovantraLite(DATABASE) as lite:
        record(lite, 1, 60)
    for ending in ("", "-wal", "-shm"):
        Path(f"register.db{ending}").unlink(missing_ok=True)

    restored = run("restore copy.db register.db")
    faults = run("verify --checkpoint register.db.checkpoints")[1]
    begun = run("checkpoint --restart 'Restored the backup of May' --json")
    sound = run("verify --checkpoint register.db.checkpoints")

    kept = json.loads(begun[1])["kept"]
    assert "1 of the checkpoints in register.db.checkpoints are of entries that the" in restored[1]
    assert "novantra-lite checkpoint --restart" in restored[1]
    assert "the end was cut off." in faults and "checkpoint --restart" in faults
    assert (begun[0], sound[0]) == (0, 0)
    assert Path(kept).read_text().count("novantra-lite/org_") > 1
    with contextlib.closing(sqlite3.connect(DATABASE)) as file:
        noted = "SELECT actor, subject_id FROM audit_entry WHERE action = 'checkpoints.restarted'"
        assert file.execute(noted).fetchall() == [("console", kept)]


# --- Exports ------------------------------------------------------------------


FORMULA = "=HYPERLINK('http://evil.example';'Open')"


def test_an_export_warns_of_formulas_and_can_make_them_harmless(run, register):
    with NovantraLite(DATABASE) as lite:
        lite.collection("findings").create(
            findingKey="x", title=FORMULA, severity="low", reason=WHY
        )

    plain = run("export findings plain.csv")
    safe = run("export findings safe.csv --safe")
    as_json = run("export findings plain.json")

    assert plain[2] == (
        "novantra-lite: 1 cell begins like a formula; add --safe before you open it in a "
        "spreadsheet.\n"
    )
    assert f',"{FORMULA}",' in Path("plain.csv").read_text()
    assert (safe[2], as_json[2]) == ("", "")
    assert f',"\'{FORMULA}",' in Path("safe.csv").read_text()


def test_exports_and_restored_files_are_for_their_owner_whatever_the_umask(run, register):
    run("backup copy.db")
    before = os.umask(0)
    try:
        run("export findings findings.csv")
        run("restore copy.db other.db")
    finally:
        os.umask(before)

    modes = [stat.S_IMODE(os.stat(name).st_mode) for name in ("findings.csv", "other.db")]
    assert modes == [0o600, 0o600]


# --- Keys that others have seen -----------------------------------------------


def test_retired_keys_end_tokens_and_what_they_encrypted_is_encrypted_anew(run, register):
    token = run("token --scope governance.findings:read")[1].strip()
    headers = {"Authorization": f"Bearer {token}"}
    with NovantraLite(DATABASE) as lite:
        lite.rotate_keys()
        still = lite.client().get(f"{FINDINGS}/{register[0]}", headers=headers)

        lite.rotate_keys(retire=True)

        ended = lite.client().get(f"{FINDINGS}/{register[0]}", headers=headers)
        shown = lite.client("governance.findings:read").get(f"{FINDINGS}/{register[0]}").json
    with contextlib.closing(sqlite3.connect(DATABASE)) as file:
        numbers = "SELECT DISTINCT substr(description, 1, 2) FROM finding WHERE description <> ''"
        sealed = file.execute(numbers).fetchall()

    assert (still.status, ended.status) == (200, 401)
    assert shown["finding"]["description"] == "By the door " * 9
    assert sealed == [("3.",)]
    assert run("verify")[:2] == (0, SOUND)


def test_keys_that_are_wrapped_anew_open_with_the_new_key_file_only(run, register):
    shutil.copy("register.db.key", "old.key")

    wrapped = run("key rewrap")

    opened = run("account list")[0]
    shutil.copy("old.key", "register.db.key")
    refused = run("account list")
    assert (wrapped[0], opened, refused[0]) == (0, 0, 1)
    assert "is not the one that this file was made with" in refused[2]


def test_keys_are_opened_though_the_new_key_file_has_not_got_its_name_yet(run, register):
    shutil.copy("register.db.key", "old.key")
    run("key rewrap")
    Path("register.db.key").rename("register.db.key.next")
    Path("old.key").rename("register.db.key")

    status = run("token --scope assets:read")[0]

    assert status == 0
    assert not Path("register.db.key.next").exists()
    assert run("verify")[:2] == (0, SOUND)


def test_a_key_file_that_others_may_read_is_refused_with_what_to_do(run, register):
    os.chmod("register.db.key", 0o640)

    status, _, err = run("account list")

    assert status == 1
    assert "can be read by others (mode 0640): run `chmod 600 register.db.key`" in err
