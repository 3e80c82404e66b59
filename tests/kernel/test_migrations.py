"""Tables and migrations: an older file is brought up to date at once, after a backup."""

import contextlib
import random
import sqlite3

import pytest

from novantra_lite import (
    MIGRATIONS,
    Conflict,
    Generator,
    Migration,
    NovantraLite,
    Settings,
    Workspace,
    open_file,
)

PRESENT = MIGRATIONS[-1].version
NOTE = Migration(101, "Findings get a note.", ("ALTER TABLE finding ADD COLUMN note TEXT",))
TRAIL = Migration(
    102,
    "A table of itineraries.",
    ("CREATE TABLE itinerary (id TEXT)", "INSERT INTO itinerary VALUES ('t')"),
)
BROKEN = Migration(
    102, "Half works.", ("CREATE TABLE itinerary (id TEXT)", "INSERT INTO nowhere (1)")
)


@pytest.fixture
def path(tmp_path):
    """A closed workspace of the present layout."""
    with NovantraLite(tmp_path / "register.db"):
        pass
    return tmp_path / "register.db"


@pytest.fixture
def migrate(path, clock):
    """Opens the workspace's file with the steps of a later version."""

    def run(*steps, read_only=False):
        workspace = Workspace(path, Settings(), Generator(clock, random.Random(7)), read_only)
        with contextlib.closing(workspace):
            open_file(workspace, lambda since: (), steps)

    return run


def layout(path):
    """A file's layout, the columns of findings, and whether there are itineraries."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        (version,) = file.execute("PRAGMA user_version").fetchone()
        columns = [row[1] for row in file.execute("PRAGMA table_info(finding)")]
        tables = [row[0] for row in file.execute("SELECT name FROM sqlite_schema")]
        return version, "note" in columns, "itinerary" in tables


def test_the_steps_that_are_due_run_in_order_after_a_backup(path, migrate):
    migrate(NOTE, TRAIL)

    assert layout(path) == (102, True, True)
    assert layout(path.with_name("register.db.before-102")) == (PRESENT, False, False)


def test_steps_that_ran_do_not_run_again(path, migrate):
    migrate(NOTE)
    path.with_name("register.db.before-101").unlink()

    migrate(NOTE)

    assert layout(path) == (101, True, False)
    assert not path.with_name("register.db.before-101").exists()


def test_only_the_steps_after_the_file_s_layout_run(path, migrate):
    migrate(NOTE)

    migrate(NOTE, TRAIL)

    assert layout(path) == (102, True, True)
    assert layout(path.with_name("register.db.before-102")) == (101, True, False)


def test_a_step_that_fails_takes_all_steps_back(path, migrate):
    with pytest.raises(sqlite3.OperationalError):
        migrate(NOTE, BROKEN)

    assert layout(path) == (PRESENT, False, False)


def test_steps_that_failed_once_can_be_tried_again(path, migrate):
    with pytest.raises(sqlite3.OperationalError):
        migrate(NOTE, BROKEN)

    migrate(NOTE, TRAIL)

    assert layout(path) == (102, True, True)
    assert layout(path.with_name("register.db.before-102")) == (PRESENT, False, False)


def test_a_file_of_a_later_layout_is_refused_by_an_earlier_version(path, migrate):
    migrate(NOTE, TRAIL)

    with pytest.raises(Conflict, match=r"a newer novantra-lite \(layout 102, this one knows 101\)"):
        migrate(NOTE)

    assert layout(path) == (102, True, True)


def test_opening_an_older_file_for_reading_changes_nothing(path, migrate):
    before = path.read_bytes()

    with pytest.raises(Conflict, match=r"register\.db"):
        migrate(NOTE, read_only=True)

    assert path.read_bytes() == before
    assert layout(path) == (PRESENT, False, False)


@pytest.mark.parametrize("table", ["audit_entry", "ledger_entry"])
@pytest.mark.parametrize("change", ["UPDATE {} SET id = id + 1000", "DELETE FROM {}"])
def test_triggers_let_the_chains_only_grow(lite, table, change):
    connection = lite.workspace.writer.database.connection()

    with pytest.raises(sqlite3.IntegrityError, match=f"{table} only grows"):
        connection.execute(change.format(table))

    assert lite.verify() == []


def test_every_table_is_strict(lite):
    connection = lite.workspace.reader.connection()

    tables = connection.execute("PRAGMA table_list").fetchall()

    # What belongs to the search index is SQLite's own.
    plain = [row for row in tables if row[2] == "table"]
    loose = [row[1] for row in plain if row[1] == "finding" or not row[5]]
    assert sorted(loose) == ["finding", "sqlite_schema", "sqlite_temp_schema"]


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("1", "finding_created"),
        ("status = 'open'", "finding_status"),
        ("source_kind = 'audit'", "finding_source_kind"),
        ("finding_key = 'f-1'", "finding_key"),
    ],
)
def test_every_list_filter_and_key_has_its_index_and_needs_no_sorting(lite, condition, index):
    connection = lite.workspace.reader.connection()

    plan = connection.execute(
        f"EXPLAIN QUERY PLAN SELECT id FROM finding WHERE {condition} "
        "ORDER BY created_at DESC, id DESC LIMIT 50"
    ).fetchall()

    assert len(plan) == 1
    assert plan[0][3].split(" INDEX ")[1].split()[0] == index
