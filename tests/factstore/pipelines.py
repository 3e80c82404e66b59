"""What tests of the delivery chapters start from, and what they look at afterwards."""

import json

from novantra_lite import AuditEvent, Trail, write_transaction


def begin_trail(lite, client, name="payments", **flow):
    """The id of a trail of a new flow."""
    owner = client.post("/api/v1/flows", {"name": name} | flow).json["id"]
    return another_trail(lite, owner)


def another_trail(lite, flow):
    """The id of a new trail of a flow."""
    values = {
        "flow": flow,
        "git_commit_sha": "c0ffee",
        "git_branch": "main",
        "git_author": "Ada",
        "git_author_email": "ada@example.com",
    }
    return write_transaction(
        lite.workspace, lambda current: Trail.create(**values).id, actor="test"
    )


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
