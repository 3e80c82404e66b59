-- Printed by: novantra-lite schema

-- An environment in which artifacts run.
CREATE TABLE "environment" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "type" TEXT NOT NULL CHECK ("type" IN ('K8S', 'ECS', 'LAMBDA', 'S3', 'DOCKER', 'GENERIC')),
    "description" TEXT NOT NULL,
    "org_slug" TEXT,
    "drift_policy" TEXT NOT NULL CHECK ("drift_policy" IN ('WARN', 'BLOCK', 'IGNORE')),
    "scope" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "environment_key" ON "environment" ("name");

CREATE INDEX "environment_org_slug" ON "environment" ("org_slug");

-- An artifact that an environment admits without any evidence.
CREATE TABLE "allowlist_entry" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "environment_id" TEXT NOT NULL,
    "sha256" TEXT,
    "name_pattern" TEXT,
    "reason" TEXT NOT NULL,
    "approved_by" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "expires_at" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('ACTIVE', 'REMOVED')),
    "json" TEXT NOT NULL,
    FOREIGN KEY ("environment_id") REFERENCES "environment" ("id") ON DELETE CASCADE
) STRICT;

CREATE INDEX "allowlist_entry_lookup" ON "allowlist_entry" ("environment_id", "sha256");

CREATE INDEX "allowlist_entry_environment_id" ON "allowlist_entry" ("environment_id");

-- A key of a person (fsp_) or of a service (fss_): its prefix, and a keyed hash of it.
CREATE TABLE "api_key" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "owner_id" TEXT NOT NULL,
    "owner_type" TEXT NOT NULL CHECK ("owner_type" IN ('USER', 'SERVICE_ACCOUNT')),
    "label" TEXT NOT NULL,
    "key_prefix" TEXT NOT NULL,
    "key_hash" TEXT NOT NULL,
    "scopes" TEXT NOT NULL,
    "is_active" INTEGER NOT NULL CHECK ("is_active" IN (0, 1)),
    "created_at" TEXT NOT NULL,
    "ttl_days" INTEGER,
    "expires_at" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "api_key_lookup" ON "api_key" ("key_prefix");

CREATE INDEX "api_key_owner_id" ON "api_key" ("owner_id");

-- A path to production, with the attestations that it requires.
CREATE TABLE "flow" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "required_attestation_types" TEXT NOT NULL,
    "tags" TEXT NOT NULL,
    "org_slug" TEXT,
    "template_yaml" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "requires_approval" INTEGER NOT NULL CHECK ("requires_approval" IN (0, 1)),
    "required_approver_roles" TEXT NOT NULL,
    "visibility" TEXT NOT NULL CHECK ("visibility" IN ('PUBLIC', 'PRIVATE')),
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "flow_key" ON "flow" ("name");

CREATE INDEX "flow_org_slug" ON "flow" ("org_slug");

-- One run of a pipeline for a commit, and all that was recorded about it.
CREATE TABLE "trail" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "flow_id" TEXT NOT NULL,
    "git_commit_sha" TEXT NOT NULL,
    "git_branch" TEXT NOT NULL,
    "git_author" TEXT NOT NULL,
    "git_author_email" TEXT NOT NULL,
    "pull_request_id" TEXT,
    "pull_request_reviewer" TEXT,
    "deployment_actor" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('PENDING', 'COMPLIANT', 'NON_COMPLIANT')),
    "org_slug" TEXT,
    "template_yaml" TEXT,
    "build_url" TEXT,
    "name" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("flow_id") REFERENCES "flow" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "trail_key" ON "trail" ("flow_id", "name");

CREATE INDEX "trail_lookup" ON "trail" ("flow_id", "git_commit_sha");

CREATE INDEX "trail_lookup_2" ON "trail" ("flow_id", "status", "created_at");

CREATE INDEX "trail_flow_id" ON "trail" ("flow_id");

CREATE INDEX "trail_org_slug" ON "trail" ("org_slug");

-- A request to approve a trail, and its decisions.
CREATE TABLE "approval" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "trail_id" TEXT NOT NULL,
    "flow_id" TEXT NOT NULL,
    "status" TEXT NOT NULL CHECK ("status" IN ('PENDING_APPROVAL', 'APPROVED', 'REJECTED', 'EXPIRED')),
    "required_approvers" TEXT NOT NULL,
    "comments" TEXT,
    "requested_at" TEXT NOT NULL,
    "deadline" TEXT,
    "resolved_at" TEXT,
    "requested_by" TEXT,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("trail_id") REFERENCES "trail" ("id") ON DELETE CASCADE,
    FOREIGN KEY ("flow_id") REFERENCES "flow" ("id") ON DELETE CASCADE
) STRICT;

CREATE INDEX "approval_lookup" ON "approval" ("trail_id", "status");

CREATE INDEX "approval_trail_id" ON "approval" ("trail_id");

CREATE INDEX "approval_flow_id" ON "approval" ("flow_id");

CREATE INDEX "approval_status" ON "approval" ("status");

-- The decision of one person about a request for approval.
CREATE TABLE "approval_decision" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "approval_id" TEXT NOT NULL,
    "approver_identity" TEXT NOT NULL,
    "decision" TEXT NOT NULL CHECK ("decision" IN ('APPROVED', 'REJECTED')),
    "comments" TEXT,
    "decided_at" TEXT NOT NULL,
    "decided_by" TEXT,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("approval_id") REFERENCES "approval" ("id") ON DELETE CASCADE
) STRICT;

CREATE INDEX "approval_decision_approval_id" ON "approval_decision" ("approval_id");

-- A build result, identified by its digest, as one trail reported it.
CREATE TABLE "artifact" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "trail_id" TEXT NOT NULL,
    "image_name" TEXT NOT NULL,
    "image_tag" TEXT NOT NULL,
    "sha256_digest" TEXT NOT NULL,
    "registry" TEXT,
    "reported_at" TEXT NOT NULL,
    "reported_by" TEXT NOT NULL,
    "org_slug" TEXT,
    "artifact_type" TEXT CHECK ("artifact_type" IN ('FILE', 'DIR', 'DOCKER', 'OCI')),
    "build_url" TEXT,
    "commit_url" TEXT,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("trail_id") REFERENCES "trail" ("id")
) STRICT;

CREATE INDEX "artifact_trail_id" ON "artifact" ("trail_id");

CREATE INDEX "artifact_sha256_digest" ON "artifact" ("sha256_digest");

CREATE INDEX "artifact_org_slug" ON "artifact" ("org_slug");

-- A look at how well something is done, from plan to conclusion.
CREATE TABLE "assessment" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "assessment_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('planned', 'in-progress', 'completed', 'superseded', 'archived')),
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "subject_version_id" TEXT,
    "assessor_responsibility_assignment_id" TEXT,
    "reviewer_responsibility_assignment_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "completed_at" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "assessment_created" ON "assessment" ("created_at", "id");

CREATE UNIQUE INDEX "assessment_key" ON "assessment" ("assessment_key");

CREATE INDEX "assessment_status" ON "assessment" ("status", "created_at", "id");

-- Something that the organization has and answers for.
CREATE TABLE "asset" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "asset_key" TEXT NOT NULL,
    "asset_kind" TEXT NOT NULL,
    "display_name" TEXT NOT NULL,
    "description" TEXT,
    "source_kind" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "custodian_responsibility_id" TEXT,
    "commissioned_at" TEXT,
    "decommissioned_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "asset_created" ON "asset" ("created_at", "id");

CREATE UNIQUE INDEX "asset_key" ON "asset" ("asset_key");

CREATE INDEX "asset_asset_kind" ON "asset" ("asset_kind", "created_at", "id");

CREATE INDEX "asset_status" ON "asset" ("status", "created_at", "id");

-- Who has an asset in hand; the subject triple names the custodian.
CREATE TABLE "asset_custody_assignment" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "asset_id" TEXT NOT NULL,
    "assignment_key" TEXT NOT NULL,
    "assignment_kind" TEXT NOT NULL,
    "subject_module_key" TEXT NOT NULL,
    "subject_resource_type" TEXT NOT NULL,
    "subject_resource_id" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "started_at" TEXT NOT NULL,
    "ended_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("asset_id") REFERENCES "asset" ("id")
) STRICT;

CREATE INDEX "asset_custody_assignment_created" ON "asset_custody_assignment" ("created_at", "id");

CREATE UNIQUE INDEX "asset_custody_assignment_key" ON "asset_custody_assignment" ("assignment_key");

CREATE INDEX "asset_custody_assignment_asset_id" ON "asset_custody_assignment" ("asset_id", "created_at", "id");

CREATE INDEX "asset_custody_assignment_status" ON "asset_custody_assignment" ("status", "created_at", "id");

-- An assessment of an asset's readiness: calibrated, inspected, released.
CREATE TABLE "asset_readiness_assessment" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "asset_id" TEXT NOT NULL,
    "readiness_assessment_key" TEXT NOT NULL,
    "assessment_kind" TEXT NOT NULL,
    "readiness_state" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "performed_at" TEXT,
    "performed_by_responsibility_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("asset_id") REFERENCES "asset" ("id")
) STRICT;

CREATE INDEX "asset_readiness_assessment_created" ON "asset_readiness_assessment" ("created_at", "id");

CREATE UNIQUE INDEX "asset_readiness_assessment_key" ON "asset_readiness_assessment" ("readiness_assessment_key");

CREATE INDEX "asset_readiness_assessment_asset_id" ON "asset_readiness_assessment" ("asset_id", "created_at", "id");

CREATE INDEX "asset_readiness_assessment_readiness_state" ON "asset_readiness_assessment" ("readiness_state", "created_at", "id");

-- Evidence that is required periodically.
CREATE TABLE "evidence_requirement" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "requirement_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('draft', 'active', 'retired')),
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "evidence_requirement_created" ON "evidence_requirement" ("created_at", "id");

CREATE UNIQUE INDEX "evidence_requirement_key" ON "evidence_requirement" ("requirement_key");

CREATE INDEX "evidence_requirement_status" ON "evidence_requirement" ("status", "created_at", "id");

-- A claim that a requirement is met for a period, with evidence files.
CREATE TABLE "evidence_claim" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "evidence_requirement_id" TEXT NOT NULL,
    "claim_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('pending', 'approved', 'rejected', 'expired', 'superseded', 'withdrawn')),
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "valid_from" TEXT,
    "valid_until" TEXT,
    "source_kind" TEXT,
    "collected_at" TEXT,
    "reviewed_at" TEXT,
    "attachments" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("evidence_requirement_id") REFERENCES "evidence_requirement" ("id")
) STRICT;

CREATE INDEX "evidence_claim_created" ON "evidence_claim" ("created_at", "id");

CREATE UNIQUE INDEX "evidence_claim_key" ON "evidence_claim" ("claim_key");

CREATE INDEX "evidence_claim_lookup" ON "evidence_claim" ("status", "valid_until");

CREATE INDEX "evidence_claim_evidence_requirement_id" ON "evidence_claim" ("evidence_requirement_id", "created_at", "id");

CREATE INDEX "evidence_claim_status" ON "evidence_claim" ("status", "created_at", "id");

-- The bytes of an attachment, encrypted.
CREATE TABLE "attachment_content" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "evidence_claim_id" TEXT NOT NULL,
    "content" BLOB NOT NULL,
    FOREIGN KEY ("evidence_claim_id") REFERENCES "evidence_claim" ("id") ON DELETE CASCADE
) STRICT;

CREATE INDEX "attachment_content_evidence_claim_id" ON "attachment_content" ("evidence_claim_id");

-- A statement about a trail, with its result.
CREATE TABLE "attestation" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "trail_id" TEXT NOT NULL,
    "type" TEXT NOT NULL,
    "status" TEXT NOT NULL CHECK ("status" IN ('PASSED', 'FAILED', 'PENDING')),
    "evidence_file_hash" TEXT,
    "evidence_file_name" TEXT,
    "evidence_file_size_bytes" INTEGER,
    "details" TEXT,
    "name" TEXT,
    "evidence_url" TEXT,
    "org_slug" TEXT,
    "artifact_fingerprint" TEXT,
    "created_at" TEXT NOT NULL,
    "metadata" TEXT,
    "decided" INTEGER,
    "declared" TEXT CHECK ("declared" IN ('PASSED', 'FAILED', 'PENDING')),
    "json" TEXT NOT NULL,
    FOREIGN KEY ("trail_id") REFERENCES "trail" ("id")
) STRICT;

CREATE INDEX "attestation_lookup" ON "attestation" ("trail_id", "type", "status");

CREATE INDEX "attestation_trail_id" ON "attestation" ("trail_id");

CREATE INDEX "attestation_org_slug" ON "attestation" ("org_slug");

-- One action in the workspace; entries are chained and never change.
CREATE TABLE "audit_entry" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "at" TEXT NOT NULL,
    "actor" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "subject_type" TEXT NOT NULL,
    "subject_id" TEXT NOT NULL,
    "reason" TEXT NOT NULL,
    "request_id" TEXT NOT NULL,
    "detail" TEXT,
    "hash" TEXT NOT NULL,
    "address" TEXT
) STRICT;

CREATE INDEX "audit_entry_at" ON "audit_entry" ("at");

CREATE INDEX "audit_entry_actor" ON "audit_entry" ("actor");

CREATE INDEX "audit_entry_action" ON "audit_entry" ("action");

CREATE INDEX "audit_entry_subject_id" ON "audit_entry" ("subject_id");

CREATE TRIGGER "audit_entry_refuses_update" BEFORE UPDATE ON "audit_entry" BEGIN SELECT RAISE(ABORT, 'audit_entry only grows'); END;

CREATE TRIGGER "audit_entry_refuses_delete" BEFORE DELETE ON "audit_entry" BEGIN SELECT RAISE(ABORT, 'audit_entry only grows'); END;

-- An event in the audit log of the Factstore API.
CREATE TABLE "audit_event" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "event_type" TEXT NOT NULL CHECK ("event_type" IN ('ARTIFACT_DEPLOYED', 'ARTIFACT_REMOVED', 'ARTIFACT_UPDATED', 'ENVIRONMENT_CREATED', 'ENVIRONMENT_DELETED', 'POLICY_EVALUATED', 'ATTESTATION_RECORDED', 'APPROVAL_GRANTED', 'APPROVAL_REJECTED', 'GATE_BLOCKED', 'GATE_ALLOWED')),
    "environment_id" TEXT,
    "trail_id" TEXT,
    "artifact_sha256" TEXT,
    "actor" TEXT NOT NULL,
    "payload" TEXT NOT NULL,
    "occurred_at" TEXT NOT NULL,
    "region" TEXT,
    "principal" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "audit_event_lookup" ON "audit_event" ("trail_id", "occurred_at");

CREATE INDEX "audit_event_lookup_2" ON "audit_event" ("actor", "occurred_at");

CREATE INDEX "audit_event_lookup_3" ON "audit_event" ("event_type", "occurred_at");

CREATE INDEX "audit_event_lookup_4" ON "audit_event" ("actor", "event_type", "occurred_at");

CREATE INDEX "audit_event_occurred_at" ON "audit_event" ("occurred_at");

CREATE TRIGGER "audit_event_refuses_update" BEFORE UPDATE ON "audit_event" BEGIN SELECT RAISE(ABORT, 'audit_event only grows'); END;

CREATE TRIGGER "audit_event_refuses_delete" BEFORE DELETE ON "audit_event" BEGIN SELECT RAISE(ABORT, 'audit_event only grows'); END;

-- The artifacts that an environment is approved to run.
CREATE TABLE "baseline" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "environment_id" TEXT NOT NULL,
    "snapshot_id" TEXT,
    "approved_by" TEXT NOT NULL,
    "approved_at" TEXT NOT NULL,
    "description" TEXT,
    "is_active" INTEGER NOT NULL CHECK ("is_active" IN (0, 1)),
    "artifacts" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("environment_id") REFERENCES "environment" ("id") ON DELETE CASCADE
) STRICT;

CREATE INDEX "baseline_lookup" ON "baseline" ("environment_id", "is_active");

CREATE INDEX "baseline_environment_id" ON "baseline" ("environment_id");

-- The build of an artifact as its builder describes it; recorded once for each artifact.
CREATE TABLE "build_provenance" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "artifact_id" TEXT NOT NULL,
    "builder_id" TEXT NOT NULL,
    "builder_type" TEXT NOT NULL CHECK ("builder_type" IN ('GITHUB_ACTIONS', 'JENKINS', 'CIRCLE_CI', 'GENERIC')),
    "build_config_uri" TEXT,
    "source_repository_uri" TEXT,
    "source_commit_sha" TEXT,
    "build_started_on" TEXT,
    "build_finished_on" TEXT,
    "provenance_signature" TEXT,
    "slsa_level" TEXT NOT NULL CHECK ("slsa_level" IN ('L0', 'L1', 'L2', 'L3')),
    "provenance_status" TEXT NOT NULL CHECK ("provenance_status" IN ('PROVENANCE_UNVERIFIED', 'PROVENANCE_VERIFIED')),
    "recorded_at" TEXT NOT NULL,
    "signature_verdict" TEXT,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("artifact_id") REFERENCES "artifact" ("id")
) STRICT;

CREATE UNIQUE INDEX "build_provenance_key" ON "build_provenance" ("artifact_id");

CREATE INDEX "build_provenance_artifact_id" ON "build_provenance" ("artifact_id");

CREATE TRIGGER "build_provenance_refuses_update" BEFORE UPDATE ON "build_provenance" BEGIN SELECT RAISE(ABORT, 'build_provenance only grows'); END;

CREATE TRIGGER "build_provenance_refuses_delete" BEFORE DELETE ON "build_provenance" BEGIN SELECT RAISE(ABORT, 'build_provenance only grows'); END;

-- A requested change.
CREATE TABLE "change_request" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "change_request_key" TEXT NOT NULL,
    "change_kind" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "owner_responsibility_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "scheduled_at" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "change_request_created" ON "change_request" ("created_at", "id");

CREATE UNIQUE INDEX "change_request_key" ON "change_request" ("change_request_key");

CREATE INDEX "change_request_change_kind" ON "change_request" ("change_kind", "created_at", "id");

CREATE INDEX "change_request_status" ON "change_request" ("status", "created_at", "id");

-- A public key that verifies signed checkpoints of the workspace.
CREATE TABLE "checkpoint_key" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "created_at" TEXT NOT NULL
) STRICT;

CREATE INDEX "checkpoint_key_created" ON "checkpoint_key" ("created_at", "id");

CREATE TRIGGER "checkpoint_key_refuses_update" BEFORE UPDATE ON "checkpoint_key" BEGIN SELECT RAISE(ABORT, 'checkpoint_key only grows'); END;

CREATE TRIGGER "checkpoint_key_refuses_delete" BEFORE DELETE ON "checkpoint_key" BEGIN SELECT RAISE(ABORT, 'checkpoint_key only grows'); END;

-- A body of rules that trails are assessed against.
CREATE TABLE "regulatory_framework" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "version" TEXT NOT NULL,
    "description" TEXT,
    "is_active" INTEGER NOT NULL CHECK ("is_active" IN (0, 1)),
    "org_slug" TEXT,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

-- The assessment of a trail against a framework at one time; it never changes.
CREATE TABLE "compliance_assessment" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "framework_id" TEXT NOT NULL,
    "trail_id" TEXT NOT NULL,
    "overall_status" TEXT NOT NULL CHECK ("overall_status" IN ('COMPLIANT', 'PARTIAL', 'NON_COMPLIANT')),
    "control_results" TEXT NOT NULL,
    "org_slug" TEXT,
    "assessed_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("framework_id") REFERENCES "regulatory_framework" ("id")
) STRICT;

CREATE INDEX "compliance_assessment_framework_id" ON "compliance_assessment" ("framework_id");

CREATE TRIGGER "compliance_assessment_refuses_update" BEFORE UPDATE ON "compliance_assessment" BEGIN SELECT RAISE(ABORT, 'compliance_assessment only grows'); END;

CREATE TRIGGER "compliance_assessment_refuses_delete" BEFORE DELETE ON "compliance_assessment" BEGIN SELECT RAISE(ABORT, 'compliance_assessment only grows'); END;

-- The configuration of an item at one time.
CREATE TABLE "configuration_baseline" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "baseline_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "owner_responsibility_id" TEXT,
    "captured_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "configuration_baseline_created" ON "configuration_baseline" ("created_at", "id");

CREATE UNIQUE INDEX "configuration_baseline_key" ON "configuration_baseline" ("baseline_key");

CREATE INDEX "configuration_baseline_status" ON "configuration_baseline" ("status", "created_at", "id");

-- The server of Confluence, and its user.
CREATE TABLE "confluence_connection" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "confluence_base_url" TEXT NOT NULL,
    "confluence_username" TEXT NOT NULL,
    "confluence_api_token" TEXT NOT NULL,
    "default_space_key" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

-- A measure that reduces a risk or meets a requirement.
CREATE TABLE "control" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "control_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('draft', 'active', 'retired')),
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "subject_version_id" TEXT,
    "owner_responsibility_assignment_id" TEXT,
    "implementation_projection_id" TEXT,
    "compliance_projection_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "control_created" ON "control" ("created_at", "id");

CREATE UNIQUE INDEX "control_key" ON "control" ("control_key");

CREATE INDEX "control_status" ON "control" ("status", "created_at", "id");

-- A rule of a framework, with the types of attestations that prove compliance.
CREATE TABLE "regulatory_control" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "framework_id" TEXT NOT NULL,
    "control_id" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "required_evidence_types" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("framework_id") REFERENCES "regulatory_framework" ("id")
) STRICT;

CREATE INDEX "regulatory_control_framework_id" ON "regulatory_control" ("framework_id");

-- The assignment of a control to a flow and its attestations; it may be mandatory.
CREATE TABLE "control_mapping" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "regulatory_control_id" TEXT NOT NULL,
    "flow_id" TEXT NOT NULL,
    "attestation_type" TEXT NOT NULL,
    "is_mandatory" INTEGER NOT NULL CHECK ("is_mandatory" IN (0, 1)),
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("regulatory_control_id") REFERENCES "regulatory_control" ("id")
) STRICT;

CREATE INDEX "control_mapping_regulatory_control_id" ON "control_mapping" ("regulatory_control_id");

-- The code coverage of a trail's tests, in percent.
CREATE TABLE "coverage_report" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "trail_id" TEXT NOT NULL,
    "tool" TEXT NOT NULL,
    "line_coverage" REAL,
    "branch_coverage" REAL,
    "min_coverage" REAL,
    "passed" INTEGER NOT NULL CHECK ("passed" IN (0, 1)),
    "report_file_name" TEXT,
    "report_file_hash" TEXT,
    "details" TEXT,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("trail_id") REFERENCES "trail" ("id") ON DELETE CASCADE
) STRICT;

CREATE INDEX "coverage_report_trail_id" ON "coverage_report" ("trail_id");

-- An event that is delivered to endpoints.
CREATE TABLE "event" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "type" TEXT NOT NULL,
    "data" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "checksum" TEXT
) STRICT;

CREATE INDEX "event_created" ON "event" ("created_at", "id");

-- A receiver of events: its URL, its types of events (none: all), and its secret.
CREATE TABLE "endpoint" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "url" TEXT NOT NULL,
    "events" TEXT NOT NULL,
    "secret" TEXT NOT NULL,
    "previous_secret" TEXT,
    "previous_until" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('enabled', 'paused', 'disabled')),
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "endpoint_created" ON "endpoint" ("created_at", "id");

-- The delivery of an event to an endpoint, and the result of the last attempt.
CREATE TABLE "delivery" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "state" TEXT NOT NULL CHECK ("state" IN ('due', 'done', 'failed')),
    "attempts" INTEGER NOT NULL,
    "due_at" TEXT,
    "status_code" INTEGER,
    "note" TEXT NOT NULL,
    "failed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "event_id" TEXT NOT NULL,
    "endpoint_id" TEXT NOT NULL,
    FOREIGN KEY ("event_id") REFERENCES "event" ("id"),
    FOREIGN KEY ("endpoint_id") REFERENCES "endpoint" ("id")
) STRICT;

CREATE INDEX "delivery_created" ON "delivery" ("created_at", "id");

CREATE INDEX "delivery_due_at" ON "delivery" ("due_at", "created_at", "id");

CREATE INDEX "delivery_event_id" ON "delivery" ("event_id", "created_at", "id");

CREATE INDEX "delivery_endpoint_id" ON "delivery" ("endpoint_id", "created_at", "id");

-- The requirements of the gate for artifacts, in one environment or in all.
CREATE TABLE "deployment_policy" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "flow_id" TEXT NOT NULL,
    "environment_id" TEXT,
    "enforce_provenance" INTEGER NOT NULL CHECK ("enforce_provenance" IN (0, 1)),
    "enforce_approvals" INTEGER NOT NULL CHECK ("enforce_approvals" IN (0, 1)),
    "required_attestation_types" TEXT NOT NULL,
    "is_active" INTEGER NOT NULL CHECK ("is_active" IN (0, 1)),
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "require_signature" INTEGER NOT NULL CHECK ("require_signature" IN (0, 1)),
    "block_on_failed_scan" INTEGER NOT NULL CHECK ("block_on_failed_scan" IN (0, 1)),
    "json" TEXT NOT NULL,
    FOREIGN KEY ("flow_id") REFERENCES "flow" ("id")
) STRICT;

CREATE INDEX "deployment_policy_flow_id" ON "deployment_policy" ("flow_id");

-- The drift of an environment from its baseline, recorded when it changes.
CREATE TABLE "drift_report" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "environment_id" TEXT NOT NULL,
    "baseline_id" TEXT,
    "snapshot_id" TEXT NOT NULL,
    "generated_at" TEXT NOT NULL,
    "has_drift" INTEGER NOT NULL CHECK ("has_drift" IN (0, 1)),
    "added" TEXT NOT NULL,
    "removed" TEXT NOT NULL,
    "updated" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("environment_id") REFERENCES "environment" ("id") ON DELETE CASCADE
) STRICT;

CREATE INDEX "drift_report_environment_id" ON "drift_report" ("environment_id");

-- An engagement with a supplier or another party.
CREATE TABLE "party_engagement" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "engagement_key" TEXT NOT NULL,
    "engagement_kind" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "provider_party_id" TEXT,
    "status" TEXT NOT NULL,
    "owner_responsibility_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "party_engagement_created" ON "party_engagement" ("created_at", "id");

CREATE UNIQUE INDEX "party_engagement_key" ON "party_engagement" ("engagement_key");

CREATE INDEX "party_engagement_engagement_kind" ON "party_engagement" ("engagement_kind", "created_at", "id");

CREATE INDEX "party_engagement_status" ON "party_engagement" ("status", "created_at", "id");

-- A look at a party before or while engaging it.
CREATE TABLE "due_diligence_review" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "engagement_id" TEXT NOT NULL,
    "review_key" TEXT NOT NULL,
    "review_kind" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "performed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("engagement_id") REFERENCES "party_engagement" ("id")
) STRICT;

CREATE INDEX "due_diligence_review_created" ON "due_diligence_review" ("created_at", "id");

CREATE UNIQUE INDEX "due_diligence_review_key" ON "due_diligence_review" ("review_key");

CREATE INDEX "due_diligence_review_engagement_id" ON "due_diligence_review" ("engagement_id", "created_at", "id");

-- A review of the separation of development, test and production.
CREATE TABLE "environment_separation_review" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "review_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "owner_responsibility_id" TEXT,
    "performed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "environment_separation_review_created" ON "environment_separation_review" ("created_at", "id");

CREATE UNIQUE INDEX "environment_separation_review_key" ON "environment_separation_review" ("review_key");

CREATE INDEX "environment_separation_review_status" ON "environment_separation_review" ("status", "created_at", "id");

-- The artifacts that ran in an environment at one time.
CREATE TABLE "environment_snapshot" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "environment_id" TEXT NOT NULL,
    "snapshot_index" INTEGER NOT NULL,
    "recorded_at" TEXT NOT NULL,
    "recorded_by" TEXT NOT NULL,
    "artifacts" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("environment_id") REFERENCES "environment" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "environment_snapshot_key" ON "environment_snapshot" ("environment_id", "snapshot_index");

CREATE INDEX "environment_snapshot_environment_id" ON "environment_snapshot" ("environment_id");

-- A file that supports an attestation, identified by the SHA-256 of its bytes.
CREATE TABLE "evidence_file" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "attestation_id" TEXT NOT NULL,
    "file_name" TEXT NOT NULL,
    "sha256_hash" TEXT NOT NULL,
    "file_size_bytes" INTEGER NOT NULL,
    "content_type" TEXT NOT NULL,
    "stored_at" TEXT NOT NULL,
    "external_url" TEXT,
    "status" TEXT CHECK ("status" IN ('PASSED', 'FAILED')),
    "details" TEXT,
    "executed_tests" INTEGER,
    "minimum_tests" INTEGER,
    "file_path" TEXT,
    "subject" TEXT,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("attestation_id") REFERENCES "attestation" ("id")
) STRICT;

CREATE INDEX "evidence_file_attestation_id" ON "evidence_file" ("attestation_id");

CREATE INDEX "evidence_file_sha256_hash" ON "evidence_file" ("sha256_hash");

-- An encrypted piece of an evidence file; the file's hash is over all pieces.
CREATE TABLE "evidence_piece" (
    "id" INTEGER PRIMARY KEY,
    "evidence_file_id" TEXT NOT NULL,
    "number" INTEGER NOT NULL,
    "content" BLOB NOT NULL,
    FOREIGN KEY ("evidence_file_id") REFERENCES "evidence_file" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "evidence_piece_key" ON "evidence_piece" ("evidence_file_id", "number");

CREATE INDEX "evidence_piece_evidence_file_id" ON "evidence_piece" ("evidence_file_id");

-- A service account of the Factstore API, which owns API keys.
CREATE TABLE "machine_account" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "description" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "machine_account_key" ON "machine_account" ("name");

-- A gap, from its discovery by a person or a scanner to its closure.
CREATE TABLE "finding" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "finding_key" TEXT NOT NULL,
    "source_kind" TEXT NOT NULL CHECK ("source_kind" IN ('assessment', 'audit', 'evidence_gap', 'control_gap', 'obligation_gap', 'risk_review', 'manual', 'module_signal')),
    "source_module_key" TEXT,
    "source_resource_type" TEXT,
    "source_resource_id" TEXT,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "severity" TEXT NOT NULL CHECK ("severity" IN ('low', 'medium', 'high', 'critical')),
    "status" TEXT NOT NULL CHECK ("status" IN ('open', 'triaged', 'remediation_planned', 'remediating', 'verified', 'closed', 'accepted', 'archived')),
    "owner_responsibility_id" TEXT,
    "owner_member_user_id" TEXT,
    "due_at" TEXT,
    "closed_at" TEXT,
    "lifecycle_instance_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "finding_created" ON "finding" ("created_at", "id");

CREATE UNIQUE INDEX "finding_key" ON "finding" ("finding_key");

CREATE INDEX "finding_source_kind" ON "finding" ("source_kind", "created_at", "id");

CREATE INDEX "finding_status" ON "finding" ("status", "created_at", "id");

-- A body of requirements: a standard, a law, a policy of the house.
CREATE TABLE "framework" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "framework_key" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "description" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('draft', 'active', 'retired')),
    "source_kind" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "framework_created" ON "framework" ("created_at", "id");

CREATE UNIQUE INDEX "framework_key" ON "framework" ("framework_key");

CREATE INDEX "framework_status" ON "framework" ("status", "created_at", "id");

-- One edition of a framework; older ones remain readable.
CREATE TABLE "framework_version" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "framework_id" TEXT NOT NULL,
    "version_key" TEXT NOT NULL,
    "version_label" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "source_kind" TEXT NOT NULL,
    "published_at" TEXT,
    "effective_from" TEXT,
    "effective_until" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("framework_id") REFERENCES "framework" ("id")
) STRICT;

CREATE INDEX "framework_version_created" ON "framework_version" ("created_at", "id");

CREATE UNIQUE INDEX "framework_version_key" ON "framework_version" ("framework_id", "version_key");

CREATE INDEX "framework_version_framework_id" ON "framework_version" ("framework_id", "created_at", "id");

CREATE INDEX "framework_version_status" ON "framework_version" ("status", "created_at", "id");

-- One group or requirement in the hierarchy of a framework version.
CREATE TABLE "framework_node" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "framework_version_id" TEXT NOT NULL,
    "parent_node_id" TEXT,
    "node_key" TEXT NOT NULL,
    "reference_code" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "node_kind" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "sort_order" INTEGER NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("framework_version_id") REFERENCES "framework_version" ("id"),
    FOREIGN KEY ("parent_node_id") REFERENCES "framework_node" ("id")
) STRICT;

CREATE INDEX "framework_node_created" ON "framework_node" ("created_at", "id");

CREATE UNIQUE INDEX "framework_node_key" ON "framework_node" ("framework_version_id", "node_key");

CREATE INDEX "framework_node_framework_version_id" ON "framework_node" ("framework_version_id", "created_at", "id");

CREATE INDEX "framework_node_parent_node_id" ON "framework_node" ("parent_node_id", "created_at", "id");

-- The coverage of a requirement by a record of the register.
CREATE TABLE "framework_coverage_link" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "framework_version_id" TEXT NOT NULL,
    "framework_node_id" TEXT NOT NULL,
    "subject_module_key" TEXT NOT NULL,
    "subject_resource_type" TEXT NOT NULL,
    "subject_resource_id" TEXT NOT NULL,
    "coverage_kind" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("framework_version_id") REFERENCES "framework_version" ("id"),
    FOREIGN KEY ("framework_node_id") REFERENCES "framework_node" ("id")
) STRICT;

CREATE INDEX "framework_coverage_link_created" ON "framework_coverage_link" ("created_at", "id");

CREATE UNIQUE INDEX "framework_coverage_link_key" ON "framework_coverage_link" ("framework_node_id", "subject_module_key", "subject_resource_type", "subject_resource_id");

CREATE INDEX "framework_coverage_link_framework_version_id" ON "framework_coverage_link" ("framework_version_id", "created_at", "id");

CREATE INDEX "framework_coverage_link_framework_node_id" ON "framework_coverage_link" ("framework_node_id", "created_at", "id");

-- The decision of the gate about an artifact, with its reasons.
CREATE TABLE "gate_result" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "decision" TEXT NOT NULL CHECK ("decision" IN ('ALLOWED', 'BLOCKED')),
    "artifact_sha256" TEXT NOT NULL,
    "environment_id" TEXT,
    "evaluated_at" TEXT NOT NULL,
    "block_reasons" TEXT NOT NULL,
    "policies_evaluated" INTEGER NOT NULL,
    "signature_verified" INTEGER CHECK ("signature_verified" IN (0, 1)),
    "reason" TEXT NOT NULL,
    "policy_name" TEXT NOT NULL,
    "environment" TEXT NOT NULL,
    "requested_by" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "gate_result_environment_id" ON "gate_result" ("environment_id");

CREATE TRIGGER "gate_result_refuses_update" BEFORE UPDATE ON "gate_result" BEGIN SELECT RAISE(ABORT, 'gate_result only grows'); END;

CREATE TRIGGER "gate_result_refuses_delete" BEFORE DELETE ON "gate_result" BEGIN SELECT RAISE(ABORT, 'gate_result only grows'); END;

-- A deviation that was approved for a time.
CREATE TABLE "governance_exception" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "exception_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "exception_kind" TEXT NOT NULL,
    "status" TEXT NOT NULL CHECK ("status" IN ('proposed', 'approved', 'active', 'expired', 'superseded', 'revoked', 'archived')),
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "subject_version_id" TEXT,
    "approver_responsibility_assignment_id" TEXT,
    "valid_from" TEXT,
    "valid_until" TEXT,
    "review_due_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "governance_exception_created" ON "governance_exception" ("created_at", "id");

CREATE UNIQUE INDEX "governance_exception_key" ON "governance_exception" ("exception_key");

CREATE INDEX "governance_exception_exception_kind" ON "governance_exception" ("exception_kind", "created_at", "id");

CREATE INDEX "governance_exception_status" ON "governance_exception" ("status", "created_at", "id");

-- The response to a write with an Idempotency-Key, stored to answer its repeats.
CREATE TABLE "idempotency_record" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "fingerprint" TEXT NOT NULL,
    "status" INTEGER NOT NULL,
    "body" TEXT,
    "created_at" TEXT NOT NULL
) STRICT;

CREATE INDEX "idempotency_record_created" ON "idempotency_record" ("created_at", "id");

-- A metric with thresholds.
CREATE TABLE "indicator" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "indicator_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "indicator_kind" TEXT NOT NULL CHECK ("indicator_kind" IN ('kpi', 'kri', 'kci', 'kqi', 'maturity', 'custom')),
    "status" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "owner_responsibility_assignment_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "latest_measurement_value" TEXT,
    "latest_measurement_at" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "indicator_created" ON "indicator" ("created_at", "id");

CREATE UNIQUE INDEX "indicator_key" ON "indicator" ("indicator_key");

CREATE INDEX "indicator_indicator_kind" ON "indicator" ("indicator_kind", "created_at", "id");

CREATE INDEX "indicator_status" ON "indicator" ("status", "created_at", "id");

-- The value of an indicator at one time, as a decimal in text.
CREATE TABLE "indicator_measurement" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "indicator_definition_id" TEXT NOT NULL,
    "measurement_value" TEXT NOT NULL,
    "measured_at" TEXT NOT NULL,
    "threshold_state" TEXT,
    "source_kind" TEXT,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("indicator_definition_id") REFERENCES "indicator" ("id")
) STRICT;

CREATE INDEX "indicator_measurement_created" ON "indicator_measurement" ("created_at", "id");

CREATE UNIQUE INDEX "indicator_measurement_key" ON "indicator_measurement" ("indicator_definition_id", "measured_at");

CREATE INDEX "indicator_measurement_indicator_definition_id" ON "indicator_measurement" ("indicator_definition_id", "created_at", "id");

-- The server of Jira, and the user who creates tickets.
CREATE TABLE "jira_connection" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "jira_base_url" TEXT NOT NULL,
    "jira_username" TEXT NOT NULL,
    "jira_api_token" TEXT NOT NULL,
    "default_project_key" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

-- An issue in Jira that was requested here, or that Jira has yet to create.
CREATE TABLE "jira_ticket" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "ticket_key" TEXT NOT NULL,
    "summary" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "issue_type" TEXT NOT NULL,
    "project_key" TEXT NOT NULL,
    "trail_id" TEXT,
    "created_at" TEXT NOT NULL,
    "problem" TEXT,
    "synced_for" TEXT,
    "stage" TEXT NOT NULL,
    "refreshed_at" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "jira_ticket_key" ON "jira_ticket" ("synced_for");

CREATE INDEX "jira_ticket_lookup" ON "jira_ticket" ("stage", "refreshed_at");

CREATE INDEX "jira_ticket_trail_id" ON "jira_ticket" ("trail_id");

-- A ticket on its way to Jira.
CREATE TABLE "jira_posting" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "state" TEXT NOT NULL CHECK ("state" IN ('due', 'done', 'failed')),
    "attempts" INTEGER NOT NULL,
    "due_at" TEXT,
    "status_code" INTEGER,
    "note" TEXT NOT NULL,
    "failed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "connection_id" TEXT NOT NULL,
    "ticket_id" TEXT NOT NULL,
    FOREIGN KEY ("connection_id") REFERENCES "jira_connection" ("id"),
    FOREIGN KEY ("ticket_id") REFERENCES "jira_ticket" ("id")
) STRICT;

CREATE INDEX "jira_posting_due_at" ON "jira_posting" ("due_at");

CREATE INDEX "jira_posting_connection_id" ON "jira_posting" ("connection_id");

CREATE INDEX "jira_posting_ticket_id" ON "jira_posting" ("ticket_id");

-- The last use of a credential, apart from its record, which the ledger proves.
CREATE TABLE "last_use" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "at" TEXT NOT NULL
) STRICT;

-- The proof that a fact was recorded: the hash of its row, chained to the entry before.
CREATE TABLE "ledger_entry" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "entry_id" TEXT NOT NULL,
    "record_type" TEXT NOT NULL,
    "record_id" TEXT NOT NULL,
    "event_type" TEXT NOT NULL,
    "content_hash" TEXT NOT NULL,
    "previous_hash" TEXT NOT NULL,
    "timestamp" TEXT NOT NULL,
    "entry_hash" TEXT NOT NULL,
    "record_key" TEXT
) STRICT;

CREATE INDEX "ledger_entry_record_id" ON "ledger_entry" ("record_id");

CREATE TRIGGER "ledger_entry_refuses_update" BEFORE UPDATE ON "ledger_entry" BEGIN SELECT RAISE(ABORT, 'ledger_entry only grows'); END;

CREATE TRIGGER "ledger_entry_refuses_delete" BEFORE DELETE ON "ledger_entry" BEGIN SELECT RAISE(ABORT, 'ledger_entry only grows'); END;

-- A group of environments.
CREATE TABLE "logical_environment" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "logical_environment_key" ON "logical_environment" ("name");

-- The membership of an environment in a logical one.
CREATE TABLE "logical_member" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "logical_environment_id" TEXT NOT NULL,
    "environment_id" TEXT NOT NULL,
    "added_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("logical_environment_id") REFERENCES "logical_environment" ("id") ON DELETE CASCADE,
    FOREIGN KEY ("environment_id") REFERENCES "environment" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "logical_member_key" ON "logical_member" ("logical_environment_id", "environment_id");

CREATE INDEX "logical_member_logical_environment_id" ON "logical_member" ("logical_environment_id");

CREATE INDEX "logical_member_environment_id" ON "logical_member" ("environment_id");

-- A person, identified by the e-mail address.
CREATE TABLE "user" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "email" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "github_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "user_key" ON "user" ("email");

CREATE INDEX "user_github_id" ON "user" ("github_id");

-- A user's place in an organisation, and the role there.
CREATE TABLE "member" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "org_slug" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    "role" TEXT NOT NULL CHECK ("role" IN ('ADMIN', 'MEMBER', 'VIEWER', 'SERVICE_ACCOUNT')),
    "joined_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("user_id") REFERENCES "user" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "member_key" ON "member" ("org_slug", "user_id");

CREATE INDEX "member_user_id" ON "member" ("user_id");

-- A subject that is monitored periodically.
CREATE TABLE "monitor_definition" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "monitor_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('draft', 'active', 'paused', 'retired')),
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "owner_responsibility_assignment_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "last_run_at" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "monitor_definition_created" ON "monitor_definition" ("created_at", "id");

CREATE UNIQUE INDEX "monitor_definition_key" ON "monitor_definition" ("monitor_key");

CREATE INDEX "monitor_definition_status" ON "monitor_definition" ("status", "created_at", "id");

-- One run of a monitor over its population.
CREATE TABLE "monitor_run" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "monitor_definition_id" TEXT NOT NULL,
    "trigger_kind" TEXT NOT NULL,
    "aggregate_result" TEXT NOT NULL CHECK ("aggregate_result" IN ('pass', 'fail', 'warning', 'unknown')),
    "pass_count" INTEGER NOT NULL,
    "fail_count" INTEGER NOT NULL,
    "warning_count" INTEGER NOT NULL,
    "unknown_count" INTEGER NOT NULL,
    "started_at" TEXT NOT NULL,
    "completed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("monitor_definition_id") REFERENCES "monitor_definition" ("id")
) STRICT;

CREATE INDEX "monitor_run_created" ON "monitor_run" ("created_at", "id");

CREATE INDEX "monitor_run_monitor_definition_id" ON "monitor_run" ("monitor_definition_id", "created_at", "id");

CREATE INDEX "monitor_run_aggregate_result" ON "monitor_run" ("aggregate_result", "created_at", "id");

-- The result of a run for one member of the population.
CREATE TABLE "monitor_result_item" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "monitor_run_id" TEXT NOT NULL,
    "monitor_definition_id" TEXT NOT NULL,
    "population_member_key" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "result" TEXT NOT NULL CHECK ("result" IN ('pass', 'fail', 'warning', 'unknown')),
    "message" TEXT,
    "finding_id" TEXT,
    "evaluated_at" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("monitor_run_id") REFERENCES "monitor_run" ("id"),
    FOREIGN KEY ("monitor_definition_id") REFERENCES "monitor_definition" ("id")
) STRICT;

CREATE INDEX "monitor_result_item_created" ON "monitor_result_item" ("created_at", "id");

CREATE UNIQUE INDEX "monitor_result_item_key" ON "monitor_result_item" ("monitor_run_id", "population_member_key");

CREATE INDEX "monitor_result_item_monitor_run_id" ON "monitor_result_item" ("monitor_run_id", "created_at", "id");

CREATE INDEX "monitor_result_item_monitor_definition_id" ON "monitor_result_item" ("monitor_definition_id", "created_at", "id");

CREATE INDEX "monitor_result_item_result" ON "monitor_result_item" ("result", "created_at", "id");

-- A notification for people; it is never deleted.
CREATE TABLE "notification" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "title" TEXT NOT NULL,
    "message" TEXT NOT NULL,
    "severity" TEXT NOT NULL CHECK ("severity" IN ('INFO', 'WARNING', 'CRITICAL')),
    "is_read" INTEGER NOT NULL CHECK ("is_read" IN (0, 1)),
    "entity_type" TEXT,
    "entity_id" TEXT,
    "created_at" TEXT NOT NULL
) STRICT;

CREATE INDEX "notification_severity" ON "notification" ("severity");

CREATE INDEX "notification_is_read" ON "notification" ("is_read");

-- A rule: which events notify people in the product, by a webhook or in Slack.
CREATE TABLE "notification_rule" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "is_active" INTEGER NOT NULL CHECK ("is_active" IN (0, 1)),
    "trigger_event" TEXT NOT NULL CHECK ("trigger_event" IN ('ATTESTATION_FAILED', 'GATE_BLOCKED', 'DRIFT_DETECTED', 'APPROVAL_REQUIRED', 'TRAIL_NON_COMPLIANT', 'APPROVAL_REJECTED')),
    "channel_type" TEXT NOT NULL CHECK ("channel_type" IN ('SLACK', 'WEBHOOK', 'IN_APP')),
    "channel_config" TEXT NOT NULL,
    "filter_flow_id" TEXT,
    "filter_environment_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "notification_rule_lookup" ON "notification_rule" ("trigger_event", "is_active");

-- The final result of a notification by one rule.
CREATE TABLE "notification_delivery" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "rule_id" TEXT NOT NULL,
    "event_type" TEXT NOT NULL,
    "payload" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('SENT', 'FAILED', 'SKIPPED')),
    "sent_at" TEXT NOT NULL,
    "error" TEXT,
    "attempt_count" INTEGER NOT NULL,
    FOREIGN KEY ("rule_id") REFERENCES "notification_rule" ("id")
) STRICT;

CREATE INDEX "notification_delivery_rule_id" ON "notification_delivery" ("rule_id");

-- A notification to be sent to the channel of a rule.
CREATE TABLE "notification_errand" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "state" TEXT NOT NULL CHECK ("state" IN ('due', 'done', 'failed')),
    "attempts" INTEGER NOT NULL,
    "due_at" TEXT,
    "status_code" INTEGER,
    "note" TEXT NOT NULL,
    "failed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "rule_id" TEXT NOT NULL,
    "payload" TEXT NOT NULL,
    FOREIGN KEY ("rule_id") REFERENCES "notification_rule" ("id")
) STRICT;

CREATE INDEX "notification_errand_created" ON "notification_errand" ("created_at", "id");

CREATE INDEX "notification_errand_due_at" ON "notification_errand" ("due_at", "created_at", "id");

CREATE INDEX "notification_errand_rule_id" ON "notification_errand" ("rule_id", "created_at", "id");

-- An organisation, whose slug labels flows, trails and artifacts; not a tenant.
CREATE TABLE "organisation" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "slug" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "type" TEXT NOT NULL CHECK ("type" IN ('PERSONAL', 'SHARED')),
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "organisation_key" ON "organisation" ("slug");

-- The organization that owns the register.
CREATE TABLE "organization" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "slug" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "locale" TEXT NOT NULL,
    "timezone" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "organization_created" ON "organization" ("created_at", "id");

-- A weakness that could be exploited.
CREATE TABLE "vulnerability" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "vulnerability_key" TEXT NOT NULL,
    "vulnerability_kind" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "severity" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "owner_responsibility_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "vulnerability_created" ON "vulnerability" ("created_at", "id");

CREATE UNIQUE INDEX "vulnerability_key" ON "vulnerability" ("vulnerability_key");

CREATE INDEX "vulnerability_vulnerability_kind" ON "vulnerability" ("vulnerability_kind", "created_at", "id");

CREATE INDEX "vulnerability_status" ON "vulnerability" ("status", "created_at", "id");

-- A required patch, its due date and its owner.
CREATE TABLE "patch_requirement" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "patch_requirement_key" TEXT NOT NULL,
    "vulnerability_id" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "urgency" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "owner_responsibility_id" TEXT,
    "due_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("vulnerability_id") REFERENCES "vulnerability" ("id")
) STRICT;

CREATE INDEX "patch_requirement_created" ON "patch_requirement" ("created_at", "id");

CREATE UNIQUE INDEX "patch_requirement_key" ON "patch_requirement" ("patch_requirement_key");

CREATE INDEX "patch_requirement_vulnerability_id" ON "patch_requirement" ("vulnerability_id", "created_at", "id");

CREATE INDEX "patch_requirement_status" ON "patch_requirement" ("status", "created_at", "id");

-- The requirements for artifacts of the environments to which the policy is attached.
CREATE TABLE "policy" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "enforce_provenance" INTEGER NOT NULL CHECK ("enforce_provenance" IN (0, 1)),
    "enforce_trail_compliance" INTEGER NOT NULL CHECK ("enforce_trail_compliance" IN (0, 1)),
    "required_attestation_types" TEXT NOT NULL,
    "org_slug" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "policy_type" TEXT,
    "threshold" TEXT,
    "require_signature" INTEGER NOT NULL CHECK ("require_signature" IN (0, 1)),
    "policy_evaluator" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "policy_key" ON "policy" ("name");

CREATE INDEX "policy_org_slug" ON "policy" ("org_slug");

-- The attachment of a policy to an environment.
CREATE TABLE "policy_attachment" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "policy_id" TEXT NOT NULL,
    "environment_id" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("policy_id") REFERENCES "policy" ("id") ON DELETE CASCADE,
    FOREIGN KEY ("environment_id") REFERENCES "environment" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "policy_attachment_key" ON "policy_attachment" ("policy_id", "environment_id");

CREATE INDEX "policy_attachment_policy_id" ON "policy_attachment" ("policy_id");

CREATE INDEX "policy_attachment_environment_id" ON "policy_attachment" ("environment_id");

-- Rego modules that were uploaded together.
CREATE TABLE "policy_bundle" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "version" TEXT NOT NULL,
    "rego_content" TEXT NOT NULL,
    "status" TEXT NOT NULL CHECK ("status" IN ('INACTIVE', 'ACTIVE')),
    "org_slug" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "modules" TEXT NOT NULL,
    "syntax" TEXT NOT NULL,
    "flow_id" TEXT,
    "environment_id" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "policy_bundle_status" ON "policy_bundle" ("status");

-- The decision of a policy bundle about an input, with the exact text of the input.
CREATE TABLE "policy_decision" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "bundle_id" TEXT,
    "input_json" TEXT NOT NULL,
    "result_allow" INTEGER NOT NULL CHECK ("result_allow" IN (0, 1)),
    "deny_reasons" TEXT NOT NULL,
    "org_slug" TEXT,
    "evaluated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("bundle_id") REFERENCES "policy_bundle" ("id")
) STRICT;

CREATE INDEX "policy_decision_bundle_id" ON "policy_decision" ("bundle_id");

CREATE TRIGGER "policy_decision_refuses_update" BEFORE UPDATE ON "policy_decision" BEGIN SELECT RAISE(ABORT, 'policy_decision only grows'); END;

CREATE TRIGGER "policy_decision_refuses_delete" BEFORE DELETE ON "policy_decision" BEGIN SELECT RAISE(ABORT, 'policy_decision only grows'); END;

-- The WASM module of a policy, from an older version. Nothing evaluates it.
CREATE TABLE "policy_module" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "policy_id" TEXT NOT NULL,
    "wasm_content" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("policy_id") REFERENCES "policy" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "policy_module_key" ON "policy_module" ("policy_id");

CREATE INDEX "policy_module_policy_id" ON "policy_module" ("policy_id");

-- How often a principal read in one minute; reads are not audited one by one.
CREATE TABLE "read_count" (
    "id" INTEGER PRIMARY KEY,
    "actor" TEXT NOT NULL,
    "minute" TEXT NOT NULL,
    "count" INTEGER NOT NULL
) STRICT;

CREATE INDEX "read_count_actor" ON "read_count" ("actor");

-- Changes that go out together.
CREATE TABLE "release" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "release_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "owner_responsibility_id" TEXT,
    "change_request_ids" TEXT NOT NULL,
    "released_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "release_created" ON "release" ("created_at", "id");

CREATE UNIQUE INDEX "release_key" ON "release" ("release_key");

CREATE INDEX "release_status" ON "release" ("status", "created_at", "id");

-- The right to audit a party, and when it was used.
CREATE TABLE "right_to_audit_record" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "engagement_id" TEXT NOT NULL,
    "record_key" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "last_exercised_at" TEXT,
    "next_due_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("engagement_id") REFERENCES "party_engagement" ("id")
) STRICT;

CREATE INDEX "right_to_audit_record_created" ON "right_to_audit_record" ("created_at", "id");

CREATE UNIQUE INDEX "right_to_audit_record_key" ON "right_to_audit_record" ("record_key");

CREATE INDEX "right_to_audit_record_engagement_id" ON "right_to_audit_record" ("engagement_id", "created_at", "id");

-- A key of the workspace, wrapped by a key outside of the file.
CREATE TABLE "ring_key" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "wrapped" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "retired_at" TEXT
) STRICT;

CREATE INDEX "ring_key_created" ON "ring_key" ("created_at", "id");

-- A possible event with a negative effect, and its treatment.
CREATE TABLE "risk" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "risk_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "description" TEXT,
    "status" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "subject_version_id" TEXT,
    "owner_responsibility_assignment_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "risk_created" ON "risk" ("created_at", "id");

CREATE UNIQUE INDEX "risk_key" ON "risk" ("risk_key");

CREATE INDEX "risk_status" ON "risk" ("status", "created_at", "id");

-- The token of an organisation for its pull requests at one provider.
CREATE TABLE "scm_integration" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "org_slug" TEXT NOT NULL,
    "provider" TEXT NOT NULL CHECK ("provider" IN ('GITHUB', 'GITLAB', 'BITBUCKET', 'AZURE_DEVOPS')),
    "token" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "scm_integration_key" ON "scm_integration" ("org_slug", "provider");

-- The entry of the ledger up to which the index is current; without a row: none yet.
CREATE TABLE "search_position" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "entry" INTEGER NOT NULL
) STRICT;

-- The text of one record in the search index, with the record's table and id.
CREATE TABLE "search_record" (
    "place" INTEGER NOT NULL PRIMARY KEY,
    "kind" TEXT NOT NULL,
    "record" TEXT NOT NULL,
    "text" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "search_record_key" ON "search_record" ("kind", "record");

-- The findings of a scanner on a trail by severity, and the thresholds in force then.
CREATE TABLE "security_scan" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "trail_id" TEXT NOT NULL,
    "attestation_id" TEXT NOT NULL,
    "tool" TEXT NOT NULL,
    "tool_version" TEXT,
    "scan_type" TEXT CHECK ("scan_type" IN ('DAST', 'SAST', 'SCA', 'CONTAINER')),
    "target" TEXT,
    "critical_vulnerabilities" INTEGER NOT NULL,
    "high_vulnerabilities" INTEGER NOT NULL,
    "medium_vulnerabilities" INTEGER NOT NULL,
    "low_vulnerabilities" INTEGER NOT NULL,
    "informational" INTEGER NOT NULL,
    "unknown" INTEGER NOT NULL,
    "passed" INTEGER CHECK ("passed" IN (0, 1)),
    "scan_duration_seconds" INTEGER,
    "report_url" TEXT,
    "org_slug" TEXT,
    "created_at" TEXT NOT NULL,
    "thresholds" TEXT NOT NULL,
    "verdict" TEXT CHECK ("verdict" IN ('PASSED', 'FAILED')),
    "json" TEXT NOT NULL,
    FOREIGN KEY ("trail_id") REFERENCES "trail" ("id"),
    FOREIGN KEY ("attestation_id") REFERENCES "attestation" ("id")
) STRICT;

CREATE INDEX "security_scan_trail_id" ON "security_scan" ("trail_id");

CREATE INDEX "security_scan_attestation_id" ON "security_scan" ("attestation_id");

CREATE INDEX "security_scan_org_slug" ON "security_scan" ("org_slug");

CREATE TRIGGER "security_scan_refuses_update" BEFORE UPDATE ON "security_scan" BEGIN SELECT RAISE(ABORT, 'security_scan only grows'); END;

CREATE TRIGGER "security_scan_refuses_delete" BEFORE DELETE ON "security_scan" BEGIN SELECT RAISE(ABORT, 'security_scan only grows'); END;

-- The vulnerabilities of each severity that a flow accepts; one more is a breach.
CREATE TABLE "security_threshold" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "flow_id" TEXT NOT NULL,
    "max_critical" INTEGER NOT NULL,
    "max_high" INTEGER NOT NULL,
    "max_medium" INTEGER NOT NULL,
    "max_low" INTEGER NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("flow_id") REFERENCES "flow" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "security_threshold_key" ON "security_threshold" ("flow_id");

CREATE INDEX "security_threshold_flow_id" ON "security_threshold" ("flow_id");

-- An account of an integration: its scopes, and a keyed hash of its secret.
CREATE TABLE "service_account" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "secret_hash" TEXT NOT NULL,
    "scopes" TEXT NOT NULL,
    "contact" TEXT NOT NULL,
    "expires_at" TEXT,
    "disabled" INTEGER NOT NULL CHECK ("disabled" IN (0, 1)),
    "generation" INTEGER NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "service_account_created" ON "service_account" ("created_at", "id");

-- A look at how well a service was delivered.
CREATE TABLE "service_review" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "engagement_id" TEXT NOT NULL,
    "review_key" TEXT NOT NULL,
    "review_kind" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "performed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("engagement_id") REFERENCES "party_engagement" ("id")
) STRICT;

CREATE INDEX "service_review_created" ON "service_review" ("created_at", "id");

CREATE UNIQUE INDEX "service_review_key" ON "service_review" ("review_key");

CREATE INDEX "service_review_engagement_id" ON "service_review" ("engagement_id", "created_at", "id");

-- The Slack channel of an organisation, its bot, and the secret that signs Slack's requests.
CREATE TABLE "slack_config" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "org_slug" TEXT NOT NULL,
    "bot_token" TEXT NOT NULL,
    "signing_secret" TEXT NOT NULL,
    "channel" TEXT NOT NULL,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "approvers" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "slack_config_key" ON "slack_config" ("org_slug");

-- A text on its way to the channel of an organisation.
CREATE TABLE "slack_message" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "state" TEXT NOT NULL CHECK ("state" IN ('due', 'done', 'failed')),
    "attempts" INTEGER NOT NULL,
    "due_at" TEXT,
    "status_code" INTEGER,
    "note" TEXT NOT NULL,
    "failed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "config_id" TEXT NOT NULL,
    "text" TEXT NOT NULL,
    FOREIGN KEY ("config_id") REFERENCES "slack_config" ("id")
) STRICT;

CREATE INDEX "slack_message_due_at" ON "slack_message" ("due_at");

CREATE INDEX "slack_message_config_id" ON "slack_message" ("config_id");

-- A request from Slack that was answered, by its signature: a repeat does nothing.
CREATE TABLE "slack_request" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "expires_at" TEXT NOT NULL
) STRICT;

CREATE INDEX "slack_request_expires_at" ON "slack_request" ("expires_at");

-- An artifact of a snapshot, indexed by its digest.
CREATE TABLE "snapshot_artifact" (
    "id" INTEGER PRIMARY KEY,
    "snapshot_id" TEXT NOT NULL,
    "environment_id" TEXT NOT NULL,
    "artifact_sha256" TEXT NOT NULL,
    "artifact_name" TEXT NOT NULL,
    "artifact_tag" TEXT NOT NULL,
    "instance_count" INTEGER NOT NULL,
    FOREIGN KEY ("snapshot_id") REFERENCES "environment_snapshot" ("id") ON DELETE CASCADE
) STRICT;

CREATE INDEX "snapshot_artifact_lookup" ON "snapshot_artifact" ("artifact_sha256", "environment_id");

CREATE INDEX "snapshot_artifact_snapshot_id" ON "snapshot_artifact" ("snapshot_id");

-- The single sign-on of an organisation: its provider, and the roles for its groups.
CREATE TABLE "sso_config" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "org_slug" TEXT NOT NULL,
    "provider" TEXT NOT NULL CHECK ("provider" IN ('ENTRA_ID', 'OKTA')),
    "issuer_url" TEXT NOT NULL,
    "client_id" TEXT NOT NULL,
    "client_secret" TEXT,
    "attribute_mappings" TEXT NOT NULL,
    "group_role_mappings" TEXT NOT NULL,
    "is_mandatory" INTEGER NOT NULL CHECK ("is_mandatory" IN (0, 1)),
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "sso_config_key" ON "sso_config" ("org_slug");

-- A person at an issuer, who is a user here, even if e-mail addresses change.
CREATE TABLE "sso_identity" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "issuer" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "user_id" TEXT NOT NULL,
    FOREIGN KEY ("user_id") REFERENCES "user" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "sso_identity_key" ON "sso_identity" ("issuer", "subject");

CREATE INDEX "sso_identity_user_id" ON "sso_identity" ("user_id");

-- A pending sign-in, by a keyed hash of its state: valid once, for ten minutes.
CREATE TABLE "sso_login" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "slug" TEXT NOT NULL,
    "redirect_uri" TEXT NOT NULL,
    "nonce" TEXT NOT NULL,
    "code_verifier" TEXT NOT NULL,
    "expires_at" TEXT NOT NULL
) STRICT;

CREATE INDEX "sso_login_expires_at" ON "sso_login" ("expires_at");

-- A report that an authority or a customer requires.
CREATE TABLE "submission_requirement" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "requirement_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "submission_kind" TEXT NOT NULL,
    "status" TEXT NOT NULL CHECK ("status" IN ('draft', 'active', 'retired', 'archived')),
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "submission_requirement_created" ON "submission_requirement" ("created_at", "id");

CREATE UNIQUE INDEX "submission_requirement_key" ON "submission_requirement" ("requirement_key");

CREATE INDEX "submission_requirement_status" ON "submission_requirement" ("status", "created_at", "id");

-- A package for a submission, and its progress.
CREATE TABLE "submission_package" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "submission_requirement_id" TEXT NOT NULL,
    "package_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "due_at" TEXT,
    "submitted_at" TEXT,
    "acknowledged_at" TEXT,
    "accepted_at" TEXT,
    "external_reference" TEXT,
    "owner_responsibility_assignment_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("submission_requirement_id") REFERENCES "submission_requirement" ("id")
) STRICT;

CREATE INDEX "submission_package_created" ON "submission_package" ("created_at", "id");

CREATE UNIQUE INDEX "submission_package_key" ON "submission_package" ("package_key");

CREATE INDEX "submission_package_submission_requirement_id" ON "submission_package" ("submission_requirement_id", "created_at", "id");

CREATE INDEX "submission_package_status" ON "submission_package" ("status", "created_at", "id");

-- Something that happened to a package on its way.
CREATE TABLE "submission_event" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "submission_package_id" TEXT NOT NULL,
    "event_kind" TEXT NOT NULL CHECK ("event_kind" IN ('submission', 'receipt', 'acceptance', 'rejection', 'withdrawal', 'resubmission')),
    "occurred_at" TEXT NOT NULL,
    "external_reference" TEXT,
    "note" TEXT,
    "resulting_status" TEXT,
    "created_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("submission_package_id") REFERENCES "submission_package" ("id")
) STRICT;

CREATE INDEX "submission_event_created" ON "submission_event" ("created_at", "id");

CREATE INDEX "submission_event_submission_package_id" ON "submission_event" ("submission_package_id", "created_at", "id");

-- A review of the evidence that a supplier has of its own controls.
CREATE TABLE "supplier_assurance_review" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "engagement_id" TEXT NOT NULL,
    "review_key" TEXT NOT NULL,
    "review_kind" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "performed_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("engagement_id") REFERENCES "party_engagement" ("id")
) STRICT;

CREATE INDEX "supplier_assurance_review_created" ON "supplier_assurance_review" ("created_at", "id");

CREATE UNIQUE INDEX "supplier_assurance_review_key" ON "supplier_assurance_review" ("review_key");

CREATE INDEX "supplier_assurance_review_engagement_id" ON "supplier_assurance_review" ("engagement_id", "created_at", "id");

-- The acceptance of a system into service.
CREATE TABLE "system_acceptance" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "acceptance_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "subject_module_key" TEXT,
    "subject_resource_type" TEXT,
    "subject_resource_id" TEXT,
    "owner_responsibility_id" TEXT,
    "accepted_at" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "system_acceptance_created" ON "system_acceptance" ("created_at", "id");

CREATE UNIQUE INDEX "system_acceptance_key" ON "system_acceptance" ("acceptance_key");

CREATE INDEX "system_acceptance_status" ON "system_acceptance" ("status", "created_at", "id");

-- That an identity token was used: SHA-256 of its issuer and its id, never the token.
CREATE TABLE "used_token" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "used_at" TEXT NOT NULL
) STRICT;

-- A version of a document in the evidence vault; the newest may be marked as deleted.
CREATE TABLE "vault_document" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "entity_type" TEXT NOT NULL,
    "entity_id" TEXT NOT NULL,
    "evidence_type" TEXT NOT NULL,
    "version" INTEGER NOT NULL,
    "data" TEXT NOT NULL,
    "stored_at" TEXT NOT NULL,
    "deleted_at" TEXT,
    "json" TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX "vault_document_key" ON "vault_document" ("entity_type", "entity_id", "evidence_type", "version");

-- A version that Vault stored or deleted; its content is only in Vault.
CREATE TABLE "vault_write" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "action" TEXT NOT NULL CHECK ("action" IN ('STORED', 'DELETED')),
    "vault_path" TEXT NOT NULL,
    "version" INTEGER,
    "acknowledged_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "vault_write_vault_path" ON "vault_write" ("vault_path");

CREATE TRIGGER "vault_write_refuses_update" BEFORE UPDATE ON "vault_write" BEGIN SELECT RAISE(ABORT, 'vault_write only grows'); END;

CREATE TRIGGER "vault_write_refuses_delete" BEFORE DELETE ON "vault_write" BEGIN SELECT RAISE(ABORT, 'vault_write only grows'); END;

-- The severity of vulnerabilities in this organization.
CREATE TABLE "vulnerability_assessment" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "assessment_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "vulnerability_ids" TEXT NOT NULL,
    "exploitability" TEXT,
    "performed_at" TEXT,
    "owner_responsibility_id" TEXT,
    "created_at" TEXT NOT NULL,
    "updated_at" TEXT NOT NULL,
    "json" TEXT NOT NULL
) STRICT;

CREATE INDEX "vulnerability_assessment_created" ON "vulnerability_assessment" ("created_at", "id");

CREATE UNIQUE INDEX "vulnerability_assessment_key" ON "vulnerability_assessment" ("assessment_key");

CREATE INDEX "vulnerability_assessment_status" ON "vulnerability_assessment" ("status", "created_at", "id");

-- A CI system that may report on a flow, and the secret of its signatures.
CREATE TABLE "webhook_config" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "source" TEXT NOT NULL CHECK ("source" IN ('GITHUB', 'JENKINS', 'CIRCLECI', 'GITLAB', 'GENERIC')),
    "secret" TEXT NOT NULL,
    "flow_id" TEXT NOT NULL,
    "is_active" INTEGER NOT NULL CHECK ("is_active" IN (0, 1)),
    "created_at" TEXT NOT NULL,
    "allowed_types" TEXT,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("flow_id") REFERENCES "flow" ("id")
) STRICT;

CREATE INDEX "webhook_config_source" ON "webhook_config" ("source");

CREATE INDEX "webhook_config_flow_id" ON "webhook_config" ("flow_id");

-- A received webhook, by its sender's delivery id, and the result.
CREATE TABLE "webhook_delivery" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "webhook_config_id" TEXT NOT NULL,
    "delivery_id" TEXT NOT NULL,
    "event_type" TEXT,
    "status" TEXT NOT NULL CHECK ("status" IN ('SUCCESS', 'FAILED', 'DUPLICATE')),
    "status_message" TEXT,
    "received_at" TEXT NOT NULL,
    "body_digest" TEXT,
    "json" TEXT NOT NULL,
    FOREIGN KEY ("webhook_config_id") REFERENCES "webhook_config" ("id") ON DELETE CASCADE
) STRICT;

CREATE UNIQUE INDEX "webhook_delivery_key" ON "webhook_delivery" ("webhook_config_id", "delivery_id");

CREATE INDEX "webhook_delivery_lookup" ON "webhook_delivery" ("webhook_config_id", "body_digest");

CREATE INDEX "webhook_delivery_webhook_config_id" ON "webhook_delivery" ("webhook_config_id");

CREATE VIRTUAL TABLE "search" USING fts5(
    "text", content = 'search_record', content_rowid = 'place', columnsize = 0, tokenize = 'trigram'
);

CREATE VIRTUAL TABLE "search_term" USING fts5vocab("search", 'row');
