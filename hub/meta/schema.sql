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
    body          BYTEA  NOT NULL,
    UNIQUE (repo_id, digest)
);

CREATE INDEX manifests_subject ON manifests (repo_id, subject, digest) WHERE subject <> '';

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
