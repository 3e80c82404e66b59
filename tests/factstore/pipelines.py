"""What tests of the delivery chapters start from, and what they look at afterwards."""

import json

from novantra_lite import AuditEvent, Trail


def status_of(lite, trail):
    """The status of a trail as it is stored."""
    with lite.workspace.read():
        return Trail.fetch(trail).status


def happenings(lite):
    """Type, actor, payload, trail and digest of every audit event, oldest first."""
    with lite.workspace.read():
        return [
            (one.event_type, one.actor, json.loads(one.payload), one.trail_id, one.artifact_sha256)
            for one in AuditEvent.select()
        ]
