"""Workspaces: one file, one writer whose waiters share a commit, and one process at a time."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading

import pytest
from conftest import WHY
from rawfile import FINDING, FINDINGS, audit, counts, rows, until

from novantra_lite import (
    Client,
    Conflict,
    Damaged,
    FileLock,
    Finding,
    Invalid,
    NotFound,
    NovantraLite,
    Unavailable,
    write_transaction,
)


class Crowd:
    """Pieces of work that reach the writer while it is busy, and so share its next commit."""

    def __init__(self, lite):
        self.lite, self.writer = lite, lite.workspace.writer
        self.outcomes, self.statements, self.threads = {}, [], []
        self.connection = self.writer.database.connection()

    def add(self, name, work):
        def run():
            try:
                self.outcomes[name] = write_transaction(
                    self.lite.workspace, work, actor=name, reason=WHY
                )
            except Exception as error:
                self.outcomes[name] = error

        self.threads.append(threading.Thread(target=run))

    def run(self):
        """Start all while the writer is held, then let them in; what SQLite was told is kept."""
        with self.writer.lock:
            for count, thread in enumerate(self.threads, 1):
                thread.start()
                until(lambda count=count: len(self.writer._waiting) == count)
            self.connection.set_trace_callback(self.statements.append)
        for thread in self.threads:
            thread.join()
        self.connection.set_trace_callback(None)
        return self.outcomes

    def told(self, word):
        return sum(statement.startswith(word) for statement in self.statements)


def make(key):
    return lambda current: Finding.create(finding_key=key, title=key, severity="low").finding_key


def fail(current):
    make("lost")(current)
    raise Invalid("No.")


def clash(current):
    make("first")(current)


def poison(current):
    """Break a foreign key in a way that shows only at the commit."""
    connection = current.database.connection()
    connection.execute("PRAGMA defer_foreign_keys = ON")
    connection.execute(
        "INSERT INTO delivery (id, event_id, endpoint_id, state, attempts, note, created_at, "
        "updated_at) VALUES ('dlv_1', 'evt_0', 'whep_0', 'due', 0, '', '', '')"
    )


def test_work_that_waits_shares_a_commit_and_a_failure_takes_nothing_with_it(lite):
    crowd = Crowd(lite)
    for name, work in {"a": make("first"), "b": fail, "c": clash, "d": make("last")}.items():
        crowd.add(name, work)

    outcomes = crowd.run()

    assert (crowd.told("BEGIN"), crowd.told("COMMIT")) == (1, 1)
    assert (outcomes["a"], outcomes["d"]) == ("first", "last")
    assert (str(outcomes["b"]), type(outcomes["c"])) == ("No.", Conflict)
    assert rows(lite, "SELECT finding_key FROM finding ORDER BY id") == [("first",), ("last",)]
    assert [(actor, action) for actor, action, *_ in audit(lite, after=2)] == [
        ("a", "finding.created"),
        ("d", "finding.created"),
    ]
    assert counts(lite) == (2, 4, 3, 2, 0)
    assert lite.verify() == []


def test_nobody_hears_of_a_success_that_the_commit_took_back(lite):
    before = counts(lite)
    crowd = Crowd(lite)
    for name, work in {"a": make("first"), "b": poison, "c": make("last")}.items():
        crowd.add(name, work)

    outcomes = crowd.run()

    assert [type(outcomes[name]) for name in "abc"] == [Conflict] * 3
    assert counts(lite) == before
    assert not crowd.connection.in_transaction


def test_the_chains_go_on_after_a_commit_that_failed(lite, novantra):
    with pytest.raises(Conflict):
        write_transaction(lite.workspace, poison, actor="console", reason=WHY)

    answer = novantra.post(FINDINGS, FINDING)

    assert answer.status == 201
    assert counts(lite) == (1, 4, 3, 1, 0)
    assert lite.verify() == []


def test_writes_from_many_threads_are_all_kept_in_two_unbroken_chains(lite):
    crowd = Crowd(lite)
    for number in range(40):
        crowd.add(f"t{number}", make(f"f{number}") if number % 4 else fail)
    for thread in crowd.threads:
        thread.start()
    for thread in crowd.threads:
        thread.join()

    assert counts(lite) == (30, 32, 31, 30, 0)
    assert lite.verify() == []


def test_what_a_lock_on_the_file_keeps_out_is_answered_503_and_can_be_tried_again(tmp_path):
    with NovantraLite(tmp_path / "register.db", busy_timeout=0.01) as lite:
        client = lite.client("governance.findings:write")
        with contextlib.closing(sqlite3.connect(lite.workspace.file)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked = client.post(FINDINGS, FINDING)

        again = client.post(FINDINGS, FINDING)

        assert (locked.status, locked.json["error"]) == (503, "internal")
        assert locked.headers["retry-after"] == "1"
        assert locked.json["message"] == "The workspace cannot answer now; try again."
        assert again.status == 201
        assert counts(lite)[0] == 1


HOLDER = """
import sys
from novantra_lite import NovantraLite
with NovantraLite(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the workspace open."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "register.db")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_file_that_another_process_has_open_is_refused_and_the_process_named(tmp_path, holder):
    with pytest.raises(Conflict) as refusal:
        NovantraLite(tmp_path / "register.db")
    holder.communicate()

    assert str(refusal.value) == (f"register.db is in use by process {holder.pid}; stop it first.")
    with NovantraLite(tmp_path / "register.db") as lite:
        assert lite.verify() == []
    assert not (tmp_path / "register.db.lock").exists()


def test_the_lock_of_a_killed_process_keeps_nobody_out(tmp_path, holder):
    holder.kill()
    holder.communicate()

    assert (tmp_path / "register.db.lock").exists()
    with NovantraLite(tmp_path / "register.db") as lite:
        assert lite.verify() == []


def test_one_process_cannot_open_a_file_twice(tmp_path):
    with (
        NovantraLite(tmp_path / "register.db"),
        pytest.raises(Conflict, match=f"in use by process {os.getpid()}"),
    ):
        NovantraLite(tmp_path / "register.db")


def test_a_lock_taken_just_when_its_holder_leaves_keeps_the_next_one_out(tmp_path):
    path = tmp_path / "register.db.lock"
    first = [FileLock(path)]

    class Late(FileLock):
        def acquire(self):
            while first:
                first.pop().release()
            super().acquire()

    second = Late(path)
    with pytest.raises(Conflict):
        FileLock(path)

    second.release()
    assert not path.exists()


def test_a_reader_beside_the_writer_sees_what_is_committed_and_writes_nothing(tmp_path, clock):
    with NovantraLite(tmp_path / "register.db", clock=clock) as lite:
        client = lite.client("governance.findings:read", "governance.findings:write")
        client.post(FINDINGS, FINDING)

        with NovantraLite(tmp_path / "register.db", clock=clock, read_only=True) as reader:
            client.post(FINDINGS, FINDING)
            looking = Client(reader, client.headers)
            listed, refused = looking.get(FINDINGS), looking.post(FINDINGS, FINDING)
            with pytest.raises(Conflict, match="open for reading only"):
                reader.collection("findings").update("find_1", title="A", reason=WHY)
            faults = reader.verify()
            arrived = reader.step()

        assert (listed.status, len(listed.json["findings"])) == (200, 2)
        assert (refused.status, refused.json["error"]) == (409, "conflict")
        assert (faults, arrived) == ([], 0)
        assert counts(lite)[0] == 2


def test_opening_for_reading_does_not_make_a_file(tmp_path):
    with pytest.raises(NotFound):
        NovantraLite(tmp_path / "register.db", read_only=True)

    assert list(tmp_path.iterdir()) == []


def test_a_backup_is_the_file_at_one_moment_and_opens_with_its_key(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        kept = lite.collection("findings").create(
            findingKey="a", title="Kept", severity="low", description="By the door", reason=WHY
        )
        connection = lite.workspace.writer.database.connection()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE finding SET title = 'Not committed'")
        lite.backup(tmp_path / "copy.db")
        connection.execute("ROLLBACK")
        lite.collection("findings").update(kept["id"], title="Later", reason=WHY)
    (tmp_path / "register.db.key").rename(tmp_path / "copy.db.key")

    with NovantraLite(tmp_path / "copy.db") as copy:
        assert list(copy.collection("findings").list()) == [kept]
        assert copy.verify() == []
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "copy.db.part").exists()


def test_a_backup_never_overwrites_a_file(tmp_path, lite):
    (tmp_path / "copy.db").write_text("mine")

    with pytest.raises(Conflict, match=r"copy\.db exists already"):
        lite.backup(tmp_path / "copy.db")

    assert (tmp_path / "copy.db").read_text() == "mine"


def foreign_database(path):
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE song (title TEXT)")


def newer_workspace(path):
    with NovantraLite(path, key="k"):
        pass
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 9")


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (foreign_database, "register.db is not a file of novantra-lite; name another one."),
        (
            lambda path: path.write_text("Shopping list: " + "milk, " * 200),
            "register.db is not a file of novantra-lite; name another one.",
        ),
        (
            newer_workspace,
            "register.db was written by a newer novantra-lite (layout 9, this one knows 7); "
            "install that version or a later one.",
        ),
    ],
    ids=["database of another program", "no database", "newer file"],
)
def test_a_file_that_cannot_be_opened_is_refused_in_words_and_left_alone(
    tmp_path, prepare, sentence
):
    path = tmp_path / "register.db"
    prepare(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    with pytest.raises(Conflict) as refusal:
        NovantraLite(path, key="k")

    assert str(refusal.value) == sentence
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_workspace_without_a_path_leaves_nothing_behind():
    with NovantraLite() as lite:
        folder = lite.workspace.file.parent
        assert folder.is_dir()

    assert not folder.exists()


def test_a_damaged_file_is_told_by_verify(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        lite.collection("findings").create(findingKey="a", title="Kept", severity="low", reason=WHY)
        with contextlib.closing(sqlite3.connect(lite.workspace.file)) as file:
            file.execute("PRAGMA writable_schema = ON")
            file.execute("DELETE FROM sqlite_schema WHERE name = 'finding_status'")
            file.commit()
    with NovantraLite(tmp_path / "register.db") as lite:
        faults = lite.verify()

    assert faults[0].startswith("The file is damaged: ")


def test_a_workspace_can_be_reset_and_begins_anew(lite, novantra):
    novantra.post(FINDINGS, FINDING)

    lite.reset()

    assert counts(lite) == (0, 2, 1, 0, 0)
    assert novantra.get(FINDINGS).status == 401
    assert lite.client("governance.findings:read").get(FINDINGS).json["findings"] == []


def test_a_value_beyond_every_table_is_worded_and_not_stored(lite):
    def work(current):
        make("a" * 20)(current)
        current.database.connection().execute("UPDATE finding SET severity = 'grave'")

    with pytest.raises(Invalid, match="outside the range of its column"):
        write_transaction(lite.workspace, work, actor="console", reason=WHY)

    assert counts(lite) == (0, 2, 1, 0, 0)
    assert lite.verify() == []


def test_an_error_of_the_file_itself_is_unavailable(lite):
    def work(current):
        current.database.connection().execute("SELECT * FROM nowhere")

    with pytest.raises(Unavailable) as refusal:
        write_transaction(lite.workspace, work, actor="console", reason=WHY)

    assert "nowhere" not in str(refusal.value)
    assert refusal.value.headers == {"Retry-After": "1"}


def test_a_file_whose_end_is_missing_is_called_damaged(tmp_path):
    path = tmp_path / "register.db"
    with NovantraLite(path, key="k"):
        pass
    os.truncate(path, path.stat().st_size - 8192)

    with pytest.raises(Damaged, match="is damaged: restore a backup of it"):
        NovantraLite(path, key="k")


def test_no_backup_is_made_of_a_damaged_file(tmp_path):
    path = tmp_path / "register.db"
    with NovantraLite(path, key="k"):
        pass
    pages = path.stat().st_size // 4096
    with open(path, "r+b") as stream:
        stream.seek((pages - 3) * 4096)
        stream.write(b"\xff" * 4096)

    with NovantraLite(path, key="k") as lite, pytest.raises(Damaged, match="no backup was made"):
        lite.workspace.backup(tmp_path / "copy.db")

    assert not list(tmp_path.glob("copy*"))
