"""What a test looks at behind the API: audit log, ledger, events, tables and the bytes stored."""

import functools

from novantra_lite import AuditEntry, Event, LedgerEntry, all_models


def audit(lite):
    """Actor, action, subject and reason of every audited action, oldest first."""
    with lite.workspace.read():
        entries = list(AuditEntry.select().order_by(AuditEntry.id))
        return [(entry.actor, entry.action, entry.subject_id, entry.reason) for entry in entries]


def ledger(lite):
    """What happened to which record, oldest first."""
    with lite.workspace.read():
        entries = LedgerEntry.select().order_by(LedgerEntry.id)
        return [(entry.event_type, entry.record_key or entry.record_id) for entry in entries]


def events(lite):
    """Type and data of every event raised, oldest first."""
    with lite.workspace.read():
        return [(event.type, event.data) for event in Event.select().order_by(Event.id)]


def tables(lite):
    """Every row of every table as it is stored, to be compared with a later look."""
    with lite.workspace.read():
        look = lite.workspace.reader.connection().execute
        return {name: look(query).fetchall() for name, query in queries().items()}


@functools.cache
def queries():
    """For every table, the query for all its rows."""
    return {
        model._meta.table_name: model.select().order_by(model._meta.primary_key).sql()[0]
        for model in all_models()
    }


def stored_bytes(lite):
    """All that the file and its write-ahead log hold."""
    file = lite.workspace.file
    parts = [file, file.with_name(file.name + "-wal")]
    return b"".join(part.read_bytes() for part in parts if part.exists())
