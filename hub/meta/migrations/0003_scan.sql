-- +goose Up

-- Which repositories hold a manifest.
CREATE INDEX manifests_digest ON manifests (digest, repo_id);

-- 1 for a manifest that the hub itself has put beside an image and nobody else has
-- pushed.
ALTER TABLE manifests ADD COLUMN attached BIGINT NOT NULL DEFAULT 0;

-- The scan of an image for one platform, named by its manifest's digest, which
-- is the same in each repository: the job is the state. repo is where its bytes
-- can be read. Of those queued the lowest priority goes first, once next_at has
-- come. Who claims one is its holder, as run counts: a hub that stood still
-- finds that its run is over. reason says why it failed, '' that it did not.
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

-- What was found in one layer: body is compressed JSON of the scanner's. The key
-- names the analysis, with all that makes it come out so; layer is the digest of
-- the bytes that were analysed (a manifest's own for what is of its config), and
-- diff_id what an image claims their content to be. An image that lies about
-- that has analyses of its own, and spoils nobody else's.
CREATE TABLE scan_analyses (
    key     TEXT   NOT NULL,
    layer   TEXT   NOT NULL,
    diff_id TEXT   NOT NULL,
    body    BYTEA  NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (key, layer)
);
CREATE INDEX scan_analyses_used ON scan_analyses (used_at);

-- What is in an image: body is compressed JSON, see hub/scan/scanproto.
CREATE TABLE scan_inventories (
    digest     TEXT   NOT NULL PRIMARY KEY,
    scanner    TEXT   NOT NULL,
    body       BYTEA  NOT NULL,
    packages   BIGINT NOT NULL,
    scanned_at BIGINT NOT NULL
);

-- The vulnerability databases that were used, the newest last. revision names
-- one's content, made_at is when its maker says it was made.
CREATE TABLE scan_databases (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    revision TEXT   NOT NULL,
    source   TEXT   NOT NULL,
    made_at  BIGINT NOT NULL,
    added_at BIGINT NOT NULL
);
CREATE INDEX scan_databases_revision ON scan_databases (revision, id);

-- What an image's inventory comes to by a database; 0 is none yet. claimed_at is
-- until when somebody is at it. body is compressed JSON, verdict its hash.
-- publish_at is when the hub is to state it to others, 0 for never.
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
