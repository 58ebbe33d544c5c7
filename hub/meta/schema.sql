CREATE TABLE blobs (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    digest       TEXT   NOT NULL,
    size_bytes   BIGINT NOT NULL CHECK (size_bytes >= 0),
    storage_key  TEXT   NOT NULL UNIQUE,
    state        TEXT   NOT NULL CHECK (state IN ('live', 'doomed')),
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL
, review_at BIGINT NOT NULL DEFAULT 0, quarantined_at BIGINT NOT NULL DEFAULT 0);

CREATE INDEX blobs_doomed ON blobs (id) WHERE state = 'doomed';

CREATE UNIQUE INDEX blobs_live ON blobs (digest) WHERE state = 'live';

CREATE INDEX blobs_oldest ON blobs (last_used_at, id) WHERE state = 'live';

CREATE INDEX blobs_review ON blobs (review_at, id) WHERE state = 'live' AND review_at > 0;

CREATE TABLE facts (
    name       TEXT   NOT NULL PRIMARY KEY,
    value      TEXT   NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE fills (
    storage_key TEXT   NOT NULL PRIMARY KEY,
    digest      TEXT   NOT NULL,
    size_bytes  BIGINT NOT NULL,
    started_at  BIGINT NOT NULL
, holder TEXT NOT NULL DEFAULT '', doomed BOOLEAN NOT NULL DEFAULT FALSE);

CREATE TABLE leases (
    name     TEXT   NOT NULL PRIMARY KEY,
    holder   TEXT   NOT NULL,
    taken_at BIGINT NOT NULL
);

CREATE INDEX leases_holder ON leases (holder);

CREATE TABLE manifest_refs (
    manifest_id BIGINT NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    position    BIGINT NOT NULL,
    kind        TEXT   NOT NULL CHECK (kind IN ('blob', 'child')),
    digest      TEXT   NOT NULL,
    media_type  TEXT   NOT NULL,
    size_bytes  BIGINT NOT NULL CHECK (size_bytes >= 0),
    PRIMARY KEY (manifest_id, position)
);

CREATE INDEX manifest_refs_digest ON manifest_refs (digest, manifest_id);

CREATE TABLE manifests (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    repo_id       BIGINT NOT NULL REFERENCES repos (id),
    digest        TEXT   NOT NULL,
    media_type    TEXT   NOT NULL,
    artifact_type TEXT   NOT NULL DEFAULT '',
    subject       TEXT   NOT NULL DEFAULT '',
    annotations   TEXT   NOT NULL DEFAULT '',
    size_bytes    BIGINT NOT NULL CHECK (size_bytes >= 0),
    created_at    BIGINT NOT NULL,
    last_pull_at  BIGINT NOT NULL DEFAULT 0,
    body          BYTEA  NOT NULL, attached BIGINT NOT NULL DEFAULT 0,
    UNIQUE (repo_id, digest)
);

CREATE INDEX manifests_digest ON manifests (digest, repo_id);

CREATE INDEX manifests_subject ON manifests (repo_id, subject, digest) WHERE subject <> '';

CREATE TABLE policies (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    revision   BIGINT NOT NULL,
    epoch      BIGINT NOT NULL UNIQUE,
    digest     TEXT   NOT NULL,
    source     TEXT   NOT NULL CHECK (source IN ('file', 'api')),
    author     TEXT   NOT NULL,
    text       TEXT   NOT NULL,
    body       TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE policy_decisions (
    id       TEXT   NOT NULL,
    node     TEXT   NOT NULL,
    account  TEXT   NOT NULL,
    name     TEXT   NOT NULL,
    digest   TEXT   NOT NULL,
    outcome  TEXT   NOT NULL,
    would    TEXT   NOT NULL,
    body     TEXT   NOT NULL,
    times    BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (id, node, account)
);

CREATE INDEX policy_decisions_account ON policy_decisions (account, last_at) WHERE node <> '';

CREATE INDEX policy_decisions_last ON policy_decisions (last_at, id, node);

CREATE INDEX policy_decisions_name ON policy_decisions (name, last_at);

CREATE INDEX policy_decisions_node ON policy_decisions (node, last_at);

CREATE TABLE policy_pulls (
    name    TEXT   NOT NULL,
    digest  TEXT   NOT NULL,
    caller  TEXT   NOT NULL,
    node    TEXT   NOT NULL,
    repo    TEXT   NOT NULL,
    tag     TEXT   NOT NULL,
    times   BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (name, digest, caller, node)
);

CREATE INDEX policy_pulls_caller ON policy_pulls (caller, last_at) WHERE node <> '';

CREATE INDEX policy_pulls_last ON policy_pulls (last_at);

CREATE TABLE policy_workloads (
    digest   TEXT   NOT NULL,
    name     TEXT   NOT NULL,
    node     TEXT   NOT NULL,
    account  TEXT   NOT NULL,
    workload TEXT   NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (digest, name, node, account, workload)
);

CREATE INDEX policy_workloads_account ON policy_workloads (account, last_at);

CREATE INDEX policy_workloads_last ON policy_workloads (last_at);

CREATE TABLE projects (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    kind       TEXT    NOT NULL CHECK (kind IN ('local', 'proxy')),
    public     BOOLEAN NOT NULL,
    source     TEXT    NOT NULL CHECK (source IN ('file', 'api', 'auto')),
    created_at BIGINT  NOT NULL
, redirect TEXT NOT NULL DEFAULT '' CHECK (redirect IN ('', 'on', 'off')));

CREATE TABLE ref_checks (
    repo_id    BIGINT NOT NULL REFERENCES repos (id),
    digest     TEXT   NOT NULL,
    checked_at BIGINT NOT NULL,
    PRIMARY KEY (repo_id, digest)
);

CREATE TABLE replicas (
    id         TEXT   NOT NULL PRIMARY KEY,
    url        TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);

CREATE INDEX replicas_seen ON replicas (seen_at);

CREATE TABLE repo_blobs (
    repo_id     BIGINT NOT NULL REFERENCES repos (id),
    blob_digest TEXT   NOT NULL,
    size_bytes  BIGINT NOT NULL CHECK (size_bytes >= 0),
    learnt_at   BIGINT NOT NULL,
    PRIMARY KEY (repo_id, blob_digest)
);

CREATE INDEX repo_blobs_digest ON repo_blobs (blob_digest, repo_id);

CREATE TABLE repos (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id    BIGINT NOT NULL REFERENCES projects (id),
    name          TEXT   NOT NULL UNIQUE,
    visibility    TEXT   NOT NULL DEFAULT '' CHECK (visibility IN ('', 'public', 'private')),
    visibility_at BIGINT NOT NULL DEFAULT 0,
    created_at    BIGINT NOT NULL,
    last_pull_at  BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX repos_project ON repos (project_id, name);

CREATE TABLE robots (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT    NOT NULL UNIQUE,
    description  TEXT    NOT NULL,
    secret_hash  TEXT    NOT NULL,
    rights       TEXT    NOT NULL,
    disabled     BOOLEAN NOT NULL DEFAULT FALSE,
    created_by   TEXT    NOT NULL,
    created_at   BIGINT  NOT NULL,
    expires_at   BIGINT  NOT NULL DEFAULT 0,
    last_used_at BIGINT  NOT NULL DEFAULT 0
);

CREATE TABLE scan_analyses (
    key     TEXT   NOT NULL,
    layer   TEXT   NOT NULL,
    diff_id TEXT   NOT NULL,
    body    BYTEA  NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (key, layer)
);

CREATE INDEX scan_analyses_used ON scan_analyses (used_at);

CREATE TABLE scan_databases (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    revision TEXT   NOT NULL,
    source   TEXT   NOT NULL,
    made_at  BIGINT NOT NULL,
    added_at BIGINT NOT NULL
);

CREATE INDEX scan_databases_revision ON scan_databases (revision, id);

CREATE TABLE scan_findings (
    digest      TEXT   NOT NULL PRIMARY KEY REFERENCES scan_inventories (digest) ON DELETE CASCADE,
    database_id BIGINT NOT NULL DEFAULT 0,
    claimed_at  BIGINT NOT NULL DEFAULT 0,
    matched_at  BIGINT NOT NULL DEFAULT 0,
    verdict     TEXT   NOT NULL DEFAULT '',
    critical    BIGINT NOT NULL DEFAULT 0,
    high        BIGINT NOT NULL DEFAULT 0,
    medium      BIGINT NOT NULL DEFAULT 0,
    low         BIGINT NOT NULL DEFAULT 0,
    unknown     BIGINT NOT NULL DEFAULT 0,
    body        BYTEA,
    publish_at  BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX scan_findings_database ON scan_findings (database_id, digest);

CREATE INDEX scan_findings_publish ON scan_findings (publish_at, digest) WHERE publish_at > 0;

CREATE TABLE scan_inventories (
    digest     TEXT   NOT NULL PRIMARY KEY,
    scanner    TEXT   NOT NULL,
    body       BYTEA  NOT NULL,
    packages   BIGINT NOT NULL,
    scanned_at BIGINT NOT NULL
);

CREATE TABLE scans (
    digest     TEXT   NOT NULL PRIMARY KEY,
    repo       TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
    cause      TEXT   NOT NULL CHECK (cause IN ('pull', 'hand', 'push', 'schedule')),
    priority   BIGINT NOT NULL,
    attempts   BIGINT NOT NULL DEFAULT 0,
    run        BIGINT NOT NULL DEFAULT 0,
    holder     TEXT   NOT NULL DEFAULT '',
    reason     TEXT   NOT NULL DEFAULT '',
    message    TEXT   NOT NULL DEFAULT '',
    queued_at  BIGINT NOT NULL,
    next_at    BIGINT NOT NULL,
    started_at BIGINT NOT NULL DEFAULT 0,
    ended_at   BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX scans_queue ON scans (priority, queued_at, digest) WHERE state = 'queued';

CREATE INDEX scans_running ON scans (digest) WHERE state = 'running';

CREATE INDEX scans_state ON scans (state, digest);

CREATE TABLE tags (
    repo_id    BIGINT NOT NULL REFERENCES repos (id),
    name       TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    media_type TEXT   NOT NULL,
    size_bytes BIGINT NOT NULL CHECK (size_bytes >= 0),
    updated_at BIGINT NOT NULL,
    checked_at BIGINT NOT NULL,
    PRIMARY KEY (repo_id, name)
);

CREATE INDEX tags_digest ON tags (repo_id, digest);

CREATE TABLE trash (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    op           TEXT   NOT NULL,
    cause        TEXT   NOT NULL CHECK (cause IN ('tag', 'manifest', 'repository', 'untagged')),
    kind         TEXT   NOT NULL CHECK (kind IN ('tag', 'manifest')),
    repo_id      BIGINT NOT NULL REFERENCES repos (id),
    name         TEXT   NOT NULL DEFAULT '',
    digest       TEXT   NOT NULL,
    media_type   TEXT   NOT NULL,
    size_bytes   BIGINT NOT NULL CHECK (size_bytes >= 0),
    created_at   BIGINT NOT NULL,
    last_pull_at BIGINT NOT NULL DEFAULT 0,
    body         BYTEA,
    deleted_by   TEXT   NOT NULL,
    deleted_at   BIGINT NOT NULL
);

CREATE INDEX trash_deleted ON trash (deleted_at, id);

CREATE INDEX trash_op ON trash (op);

CREATE INDEX trash_repo ON trash (repo_id, digest);

CREATE TABLE trash_refs (
    trash_id BIGINT NOT NULL REFERENCES trash (id) ON DELETE CASCADE,
    digest   TEXT   NOT NULL,
    PRIMARY KEY (trash_id, digest)
);

CREATE INDEX trash_refs_digest ON trash_refs (digest, trash_id);

CREATE TABLE uploads (
    id           TEXT   NOT NULL PRIMARY KEY,
    repo_id      BIGINT NOT NULL REFERENCES repos (id),
    storage_key  TEXT   NOT NULL UNIQUE,
    offset_bytes BIGINT NOT NULL CHECK (offset_bytes >= 0),
    alg          TEXT   NOT NULL,
    hash_state   BYTEA  NOT NULL,
    started_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
, driver_state BYTEA, holder TEXT NOT NULL DEFAULT '', doomed BOOLEAN NOT NULL DEFAULT FALSE);

CREATE INDEX uploads_repo ON uploads (repo_id);

CREATE INDEX uploads_updated ON uploads (updated_at);

CREATE TABLE users (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT    NOT NULL UNIQUE,
    password_hash TEXT    NOT NULL,
    admin         BOOLEAN NOT NULL,
    created_at    BIGINT  NOT NULL
, rights TEXT NOT NULL DEFAULT '[]', disabled BOOLEAN NOT NULL DEFAULT FALSE);

CREATE INDEX users_admins ON users (id) WHERE admin;
