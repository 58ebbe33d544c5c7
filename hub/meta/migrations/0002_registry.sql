-- +goose Up

-- Garbage collection. review_at is when a blob is to be looked at, 0 for not
-- due: it may have lost its last reference. quarantined_at is when it was found
-- to be nobody's, 0 for not: it is still live, and whoever names it again
-- revives it, but its bytes go when the quarantine has passed. Only a 'doomed'
-- blob is unknown.
ALTER TABLE blobs ADD COLUMN review_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN quarantined_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX blobs_review ON blobs (review_at, id) WHERE state = 'live' AND review_at > 0;

-- What was deleted and can be brought back. The rows of one deletion share op:
-- a subject goes with its signatures, and comes back with them. A tag's row has
-- name and digest; a manifest's has all that its row in manifests had.
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
CREATE INDEX trash_op ON trash (op);
CREATE INDEX trash_deleted ON trash (deleted_at, id);
CREATE INDEX trash_repo ON trash (repo_id, digest);

-- What manifests in the trash name: garbage collection spares it.
CREATE TABLE trash_refs (
    trash_id BIGINT NOT NULL REFERENCES trash (id) ON DELETE CASCADE,
    digest   TEXT   NOT NULL,
    PRIMARY KEY (trash_id, digest)
);
CREATE INDEX trash_refs_digest ON trash_refs (digest, trash_id);

-- Hubs that share this database. One that was not seen for a while is dead, and
-- with it its leases, its holds on uploads, and its fills.
CREATE TABLE replicas (
    id         TEXT   NOT NULL PRIMARY KEY,
    url        TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);
CREATE INDEX replicas_seen ON replicas (seen_at);

-- What one replica does for all: name is "fill/<digest>", "gc", ...
CREATE TABLE leases (
    name     TEXT   NOT NULL PRIMARY KEY,
    holder   TEXT   NOT NULL,
    taken_at BIGINT NOT NULL
);
CREATE INDEX leases_holder ON leases (holder);

-- driver_state is what the storage driver needs to go on with an upload: parts
-- and what is not a whole part yet. holder is the replica that is at it. A doomed
-- upload never becomes a blob: its bytes are being deleted.
ALTER TABLE uploads ADD COLUMN driver_state BYTEA;
ALTER TABLE uploads ADD COLUMN holder TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN doomed BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE fills ADD COLUMN holder TEXT NOT NULL DEFAULT '';
-- A doomed fill never becomes a blob: its bytes are being deleted.
ALTER TABLE fills ADD COLUMN doomed BOOLEAN NOT NULL DEFAULT FALSE;

-- rights is a JSON array of {"repository": pattern, "actions": [...]}.
ALTER TABLE users ADD COLUMN rights TEXT NOT NULL DEFAULT '[]';
ALTER TABLE users ADD COLUMN disabled BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX users_admins ON users (id) WHERE admin;
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

-- redirect says whether blobs are fetched from the storage directly: '' as the
-- hub's configuration has it.
ALTER TABLE projects ADD COLUMN redirect TEXT NOT NULL DEFAULT '' CHECK (redirect IN ('', 'on', 'off'));

-- Small facts of the whole hub, by name.
CREATE TABLE facts (
    name       TEXT   NOT NULL PRIMARY KEY,
    value      TEXT   NOT NULL,
    updated_at BIGINT NOT NULL
);
