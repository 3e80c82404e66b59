"""What tests of the delivery chapters start from, and what they look at afterwards."""

import json

from novantra_lite import AuditEvent, Trail


def status_of(lite, trail):
    """The status of a trail as it is stored."""
    with lite.workspace.read():
        return Trail.find(trail).status


def happenings(lite):
    """Type, actor, payload, trail and digest of every audit event, oldest first."""
    with lite.workspace.read():
        return [
            (
                event.event_type,
                event.actor,
                json.loads(event.payload),
                event.trail_id,
                event.artifact_sha256,
            )
            for event in AuditEvent.select()
        ]
