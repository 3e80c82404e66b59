"""Files as older versions wrote them, made from present ones."""

import contextlib
import sqlite3

from novantra_lite import all_models


def write_as_before(patch):
    """Have what is written look as that version wrote it, which signed no checkpoints."""
    patch.setattr("novantra_lite.record_uuid", lambda table, key: key)
    patch.setattr("novantra_lite.Checkpoints.write", lambda self: None)


def make_older(path):
    """Turn a file into one of the third layout: without marks, tallies and all that came later."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("DROP TRIGGER ledger_entry_is_noted")
        for table in ("search_term", "search"):
            file.execute(f"DROP TABLE {table}")
        made = file.execute("SELECT type, name FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
        gone = ("audit_event_makes", "audit_event_moves", "audit_event_lookup", "audit_entry_at")
        gone += ("approval_lookup", "evidence_claim_lookup")
        for kind, name in made:
            if name.startswith((*gone, "trail_lookup")) or "_tally_" in name:
                file.execute(f"DROP {kind} {name}")
        for column in ("event_type", "trail_id", "actor"):
            file.execute(f"CREATE INDEX audit_event_{column} ON audit_event ({column})")
        for model in all_models()[::-1]:
            if model.since >= 4:
                file.execute(f"DROP TABLE {model._meta.table_name}")
        file.execute("ALTER TABLE ledger_entry DROP COLUMN record_key")
        file.execute("PRAGMA user_version = 3")
