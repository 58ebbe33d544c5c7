-- +goose Up

-- A hub that knows no policy touches none of these tables, and lets through what
-- one refuses.
-- oldest program: 3

-- The policy documents that were in use, the last one now. text is the document
-- as it was given, body what was made of it: the whole of it, as JSON. epoch
-- grows with each, for nodes, which never go back.
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

-- What was decided about images, for a person who asks why. node is who decided,
-- '' for the hub, as account claims, which has told the hub of it; that is '' for
-- the hub's own and for whoever has not said who they are. Each is there once, with
-- how often it was told of and when last; body is the decision as JSON.
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
CREATE INDEX policy_decisions_last ON policy_decisions (last_at, id, node);
CREATE INDEX policy_decisions_name ON policy_decisions (name, last_at);
CREATE INDEX policy_decisions_node ON policy_decisions (node, last_at);
CREATE INDEX policy_decisions_account ON policy_decisions (account, last_at) WHERE node <> '';

-- Which images were pulled by whom, for trying out a document. repo is where the
-- hub has it.
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
CREATE INDEX policy_pulls_last ON policy_pulls (last_at);
CREATE INDEX policy_pulls_caller ON policy_pulls (caller, last_at) WHERE node <> '';

-- Which workloads run an image on a node, as account claims of the node.
CREATE TABLE policy_workloads (
    digest   TEXT   NOT NULL,
    name     TEXT   NOT NULL,
    node     TEXT   NOT NULL,
    account  TEXT   NOT NULL,
    workload TEXT   NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (digest, name, node, account, workload)
);
CREATE INDEX policy_workloads_last ON policy_workloads (last_at);
CREATE INDEX policy_workloads_account ON policy_workloads (account, last_at);
