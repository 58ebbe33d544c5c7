-- +goose Up

-- One text for SQLite and Postgres. What a Postgres runner spells otherwise is
-- "INTEGER PRIMARY KEY AUTOINCREMENT" (an identity column: both never give an
-- id twice) and the collation of names, which must sort by byte ("C").
-- BYTEA and BOOLEAN are Postgres's names for what SQLite takes as it comes.
-- Times are microseconds since 1970, UTC; 0 is never. Digests are text.

CREATE TABLE projects (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    kind       TEXT    NOT NULL CHECK (kind IN ('local', 'proxy')),
    public     BOOLEAN NOT NULL,
    source     TEXT    NOT NULL CHECK (source IN ('file', 'api', 'auto')),
    created_at BIGINT  NOT NULL
);

-- name is the whole path. visibility is what an anonymous probe of a proxy's
-- upstream showed; of a local repository it is '', its project decides.
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

-- A doomed blob's bytes are being deleted: it is unknown, and the same digest
-- may be pushed anew beside it under a storage key of its own.
CREATE TABLE blobs (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    digest       TEXT   NOT NULL,
    size_bytes   BIGINT NOT NULL CHECK (size_bytes >= 0),
    storage_key  TEXT   NOT NULL UNIQUE,
    state        TEXT   NOT NULL CHECK (state IN ('live', 'doomed')),
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX blobs_live ON blobs (digest) WHERE state = 'live';
CREATE INDEX blobs_oldest ON blobs (last_used_at, id) WHERE state = 'live';
CREATE INDEX blobs_doomed ON blobs (id) WHERE state = 'doomed';

-- Grants: what may be read through a repository. The bytes of a proxied
-- repository's blob may not be here yet, so the digest is no foreign key.
CREATE TABLE repo_blobs (
    repo_id     BIGINT NOT NULL REFERENCES repos (id),
    blob_digest TEXT   NOT NULL,
    size_bytes  BIGINT NOT NULL CHECK (size_bytes >= 0),
    learnt_at   BIGINT NOT NULL,
    PRIMARY KEY (repo_id, blob_digest)
);
CREATE INDEX repo_blobs_digest ON repo_blobs (blob_digest, repo_id);

-- annotations is the manifest's own as a JSON object, '' for none, so that a
-- list of referrers need not read their bodies.
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

-- A proxy's tag may name a manifest that is not stored yet.
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

-- When an upstream last confirmed that a digest can be read in a repository.
CREATE TABLE ref_checks (
    repo_id    BIGINT NOT NULL REFERENCES repos (id),
    digest     TEXT   NOT NULL,
    checked_at BIGINT NOT NULL,
    PRIMARY KEY (repo_id, digest)
);

CREATE TABLE uploads (
    id           TEXT   NOT NULL PRIMARY KEY,
    repo_id      BIGINT NOT NULL REFERENCES repos (id),
    storage_key  TEXT   NOT NULL UNIQUE,
    offset_bytes BIGINT NOT NULL CHECK (offset_bytes >= 0),
    alg          TEXT   NOT NULL,
    hash_state   BYTEA  NOT NULL,
    started_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
);
CREATE INDEX uploads_updated ON uploads (updated_at);
CREATE INDEX uploads_repo ON uploads (repo_id);

-- Storage keys that a proxy is writing to.
CREATE TABLE fills (
    storage_key TEXT   NOT NULL PRIMARY KEY,
    digest      TEXT   NOT NULL,
    size_bytes  BIGINT NOT NULL,
    started_at  BIGINT NOT NULL
);

CREATE TABLE users (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT    NOT NULL UNIQUE,
    password_hash TEXT    NOT NULL,
    admin         BOOLEAN NOT NULL,
    created_at    BIGINT  NOT NULL
);
