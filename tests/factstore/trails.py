"""Trails with their attestations, made without the operations of their own chapters."""

import novantra_lite
from novantra_lite import Attestation, Flow, Trail


def make(lite, work):
    """Do a piece of work that writes, as a test."""
    return novantra_lite.write_transaction(lite.workspace, lambda session: work(), actor="test")


def make_trail(lite, name="payments", **values):
    """A trail of a flow with this name, whose traits are the keywords."""

    def work():
        flow = Flow.create(name=name, **values)
        return Trail.create(
            flow=flow.id,
            git_commit_sha="f00d",
            git_branch="main",
            git_author="ada",
            git_author_email="ada@example.org",
        )

    return make(lite, work).id


def make_attestation(lite, trail, type="manual", **values):
    """An attestation of a type on a trail."""
    return make(lite, lambda: Attestation.create(trail=trail, type=type, **values)).id


def evidence_path(trail, attestation, version=1):
    """Where evidence of an attestation is uploaded to."""
    return f"/api/v{version}/trails/{trail}/attestations/{attestation}/evidence"
