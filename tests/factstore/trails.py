"""Trails with their attestations, made without the operations of their own chapters."""

import novantra_lite
from novantra_lite import Attestation, Flow, Trail

COMMIT = {
    "git_commit_sha": "c0ffee",
    "git_branch": "main",
    "git_author": "Ada",
    "git_author_email": "ada@example.com",
}


def make(lite, work):
    """Do a piece of work that writes, as a test."""
    return novantra_lite.write_transaction(lite.workspace, lambda session: work(), actor="test")


def make_trail(lite, name="payments", commit=(), **values):
    """The id of a trail of a new flow; `commit` is for the trail, the keywords for the flow."""

    def work():
        flow = Flow.create(name=name, **values)
        return Trail.create(flow=flow.id, **COMMIT | dict(commit))

    return make(lite, work).id


def another_trail(lite, flow, **commit):
    """The id of a new trail of a flow."""
    return make(lite, lambda: Trail.create(flow=flow, **COMMIT | commit)).id


def begin_trail(lite, client, name="payments", **flow):
    """The id of a trail of a new flow that the API made."""
    return another_trail(lite, client.post("/api/v1/flows", {"name": name} | flow).json["id"])


def make_attestation(lite, trail, type="manual", **values):
    """An attestation of a type on a trail."""
    return make(lite, lambda: Attestation.create(trail=trail, type=type, **values)).id


def evidence_path(trail, attestation, version=1):
    """Where evidence of an attestation is uploaded to."""
    return f"/api/v{version}/trails/{trail}/attestations/{attestation}/evidence"
