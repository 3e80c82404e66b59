"""What the kernel's tests share: a finding to write, and a look past the API into the file."""

import contextlib
import sqlite3
import time

from conftest import WHY

FINDINGS = "/api/v1/governance/findings"
FINDING = {"title": "Torque wrench 7 is overdue", "severity": "high", "reason": WHY}


def rows(lite, sql, *values):
    """What a query finds in the workspace's file."""
    return lite.workspace.reader.connection().execute(sql, values).fetchall()


def audit(lite, after=0):
    """Who did what to which kind of thing, past the entries that a test does not care for."""
    entries = "SELECT actor, action, subject_type, subject_id FROM audit_entry WHERE id > ?"
    return rows(lite, entries, after)


def counts(lite):
    """How many findings, audit entries, ledger entries, events and kept answers there are."""
    tables = ("finding", "audit_entry", "ledger_entry", "event", "idempotency_record")
    return tuple(rows(lite, f"SELECT count(*) FROM {table}")[0][0] for table in tables)


def tamper(lite, *statements):
    """Change the file behind the product's back, its triggers out of the way for the time."""
    with contextlib.closing(sqlite3.connect(lite.workspace.file, isolation_level=None)) as file:
        matches = file.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        triggers = dict(matches.fetchall())
        for name in triggers:
            file.execute(f"DROP TRIGGER {name}")
        touched = sum(file.execute(statement).rowcount for statement in statements)
        for sql in triggers.values():
            file.execute(sql)
        return touched


def until(condition):
    """Wait for another thread to come so far, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0)
