"""Which schema has the store, and in which ordered steps did it come about?

A step that was released is never edited: a change is a new step at the end.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a schema to the next: statements applied together or not at all."""

    name: str
    statements: tuple[str, ...]


SPEND_WIDTHS_US = (86_400_000_000, 900_000_000)
"""Widths of the rows of `spend_sums`, the widest first: a day of UTC, and 15 min, on whose boundary every zone's
midnight falls today. Written into m004 as numbers; to change them takes a migration that rebuilds the table."""

_OWNERS = """
CREATE TABLE owners (
    id                INTEGER PRIMARY KEY,
    pid               INTEGER NOT NULL,
    process_started_s REAL NOT NULL,
    opened_at_us      INTEGER NOT NULL,
    closed_at_us      INTEGER
)"""

_REQUESTS = """
CREATE TABLE requests (
    id                      TEXT PRIMARY KEY,
    owner_id                INTEGER NOT NULL REFERENCES owners (id),
    created_at_us           INTEGER NOT NULL,
    closed_at_us            INTEGER,
    outcome                 TEXT NOT NULL DEFAULT 'open',
    dialect                 TEXT NOT NULL,
    requested_model         TEXT NOT NULL,
    client_key              TEXT,
    tag                     TEXT,
    is_stream               INTEGER NOT NULL,
    route                   TEXT,
    model                   TEXT,
    provider                TEXT,
    reason                  TEXT,
    degraded                TEXT,
    error_code              TEXT,
    confidence              REAL,
    is_calibrated           INTEGER NOT NULL DEFAULT 0,
    prompt_tokens           INTEGER,
    completion_tokens       INTEGER,
    cached_tokens           INTEGER,
    local_prompt_tokens     INTEGER NOT NULL DEFAULT 0,
    local_completion_tokens INTEGER NOT NULL DEFAULT 0,
    cloud_prompt_tokens     INTEGER NOT NULL DEFAULT 0,
    cloud_completion_tokens INTEGER NOT NULL DEFAULT 0,
    cost_nusd               INTEGER,
    saved_nusd              INTEGER,
    queue_s                 REAL,
    ttft_s                  REAL,
    total_s                 REAL,
    overhead_s              REAL,
    decision_json           TEXT
)"""

# request_id is no foreign key: a paid call must be on record even where its request row was lost to a full backlog.
_RESERVATIONS = """
CREATE TABLE reservations (
    id             TEXT PRIMARY KEY,
    request_id     TEXT NOT NULL,
    owner_id       INTEGER NOT NULL REFERENCES owners (id),
    provider       TEXT NOT NULL,
    model          TEXT NOT NULL,
    reserved_at_us INTEGER NOT NULL,
    reserved_nusd  INTEGER NOT NULL CHECK (reserved_nusd >= 0),
    settled_at_us  INTEGER,
    settled_nusd   INTEGER CHECK (settled_nusd >= 0),
    settled_by     TEXT CHECK (settled_by IN ('usage', 'estimate', 'release', 'recovery')),
    CHECK ((settled_at_us IS NULL) = (settled_nusd IS NULL) AND (settled_nusd IS NULL) = (settled_by IS NULL))
)"""

_SPEND_BUCKETS = """
CREATE TABLE spend_buckets (
    start_us     INTEGER PRIMARY KEY,
    settled_nusd INTEGER NOT NULL
)"""

# A trigger and not our code, so that whatever settles a reservation, one statement moves both figures or neither.
_SETTLED_INTO_BUCKET = """
CREATE TRIGGER reservation_settled AFTER UPDATE OF settled_nusd ON reservations
WHEN OLD.settled_nusd IS NULL AND NEW.settled_nusd IS NOT NULL
BEGIN
    INSERT INTO spend_buckets (start_us, settled_nusd)
    VALUES (NEW.reserved_at_us / 900000000 * 900000000, NEW.settled_nusd)
    ON CONFLICT (start_us) DO UPDATE SET settled_nusd = settled_nusd + excluded.settled_nusd;
END"""

_SETTLED_IS_FINAL = """
CREATE TRIGGER reservation_is_final BEFORE UPDATE ON reservations
WHEN OLD.settled_nusd IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a settled reservation never changes'); END"""

_NEVER_DELETED = """
CREATE TRIGGER reservation_is_kept BEFORE DELETE ON reservations
BEGIN SELECT RAISE(ABORT, 'a reservation is never deleted'); END"""

_CLIENT_KEYS = """
CREATE TABLE client_keys (
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL,
    secret_sha256 TEXT NOT NULL UNIQUE,
    created_at_us INTEGER NOT NULL,
    revoked_at_us INTEGER
)"""

# What m001 kept for all spend together, now also for each client key and tag, and in days as well.
_SPEND_SUMS = """
CREATE TABLE spend_sums (
    scope        TEXT NOT NULL,
    width_us     INTEGER NOT NULL,
    start_us     INTEGER NOT NULL,
    settled_nusd INTEGER NOT NULL,
    PRIMARY KEY (scope, width_us, start_us)
) WITHOUT ROWID"""

_SETTLED_INTO_SUMS = """
CREATE TRIGGER reservation_settled AFTER UPDATE OF settled_nusd ON reservations
WHEN OLD.settled_nusd IS NULL AND NEW.settled_nusd IS NOT NULL
BEGIN
    INSERT INTO spend_sums (scope, width_us, start_us, settled_nusd)
    SELECT scope, width_us, NEW.reserved_at_us / width_us * width_us, NEW.settled_nusd
    FROM (SELECT '' AS scope UNION ALL SELECT 'key:' || NEW.client_key UNION ALL SELECT 'tag:' || NEW.tag),
        (SELECT 900000000 AS width_us UNION ALL SELECT 86400000000)
    WHERE scope IS NOT NULL
    ON CONFLICT DO UPDATE SET settled_nusd = settled_nusd + excluded.settled_nusd;
END"""

_SUM_UP = """
WITH scoped AS (
    SELECT '' AS scope, reserved_at_us, settled_nusd FROM reservations
    UNION ALL SELECT 'key:' || client_key, reserved_at_us, settled_nusd FROM reservations
    UNION ALL SELECT 'tag:' || tag, reserved_at_us, settled_nusd FROM reservations
), widths AS (SELECT 900000000 AS width_us UNION ALL SELECT 86400000000)
INSERT INTO spend_sums (scope, width_us, start_us, settled_nusd)
SELECT scope, width_us, reserved_at_us / width_us * width_us AS start_us, SUM(settled_nusd)
FROM scoped, widths WHERE scope IS NOT NULL AND settled_nusd IS NOT NULL
GROUP BY scope, width_us, reserved_at_us / width_us"""

_WHOSE_MONEY = """
UPDATE reservations SET
    client_key = (SELECT client_key FROM requests WHERE id = reservations.request_id),
    tag = (SELECT lower(tag) FROM requests WHERE id = reservations.request_id)"""

_SAMPLES = """
CREATE TABLE samples (
    id      INTEGER PRIMARY KEY,
    at_us   INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    value   REAL NOT NULL
)"""

# request_id is no foreign key: a label outlives a request row that was lost to a full backlog.
_LABELS = """
CREATE TABLE labels (
    id                   INTEGER PRIMARY KEY,
    request_id           TEXT NOT NULL UNIQUE,
    made_at_us           INTEGER NOT NULL,
    origin               TEXT NOT NULL CHECK (origin IN ('escalation', 'audit', 'hedge')),
    weight               REAL NOT NULL CHECK (weight >= 1),
    rate                 REAL NOT NULL CHECK (rate BETWEEN 0 AND 1),
    kind                 TEXT NOT NULL,
    task                 TEXT,
    calibration          TEXT,
    fingerprint          TEXT NOT NULL,
    template_fingerprint TEXT NOT NULL,
    provider             TEXT NOT NULL,
    model                TEXT NOT NULL,
    p_local              REAL,
    p_cloud              REAL,
    score                REAL,
    is_accepted          INTEGER NOT NULL,
    is_flawed            INTEGER NOT NULL,
    agrees               INTEGER NOT NULL,
    features_json        TEXT NOT NULL
)"""

_STANDINGS = """
CREATE TABLE standings (
    calibration TEXT PRIMARY KEY,
    task        TEXT NOT NULL,
    at_us       INTEGER NOT NULL,
    facts_json  TEXT NOT NULL
)"""

# Money set aside ahead of the reservations that draw on it; see escrow.py. "" is nobody's in particular.
_ESCROW = """
CREATE TABLE escrow (
    client_key TEXT NOT NULL,
    tag        TEXT NOT NULL,
    owner_id   INTEGER NOT NULL REFERENCES owners (id),
    boot_id    TEXT NOT NULL,
    start_us   INTEGER NOT NULL,
    size_nusd  INTEGER NOT NULL CHECK (size_nusd >= 0),
    left_nusd  INTEGER NOT NULL CHECK (left_nusd BETWEEN 0 AND size_nusd),
    PRIMARY KEY (client_key, tag)
) WITHOUT ROWID"""

# Which clouds rest: the provider as a whole ("") or one model of it. The fingerprint is of its address and keys.
_CLOUD_RESTS = """
CREATE TABLE cloud_rests (
    provider    TEXT NOT NULL,
    model       TEXT NOT NULL,
    until_us    INTEGER NOT NULL,
    is_asked    INTEGER NOT NULL,
    openings    INTEGER NOT NULL,
    why         TEXT NOT NULL,
    salt        TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    PRIMARY KEY (provider, model)
) WITHOUT ROWID"""

# Which API keys providers refused, by salted hash: no key can be read out of it.
_REFUSED_KEYS = """
CREATE TABLE refused_keys (
    provider      TEXT NOT NULL,
    salt          TEXT NOT NULL,
    fingerprint   TEXT NOT NULL,
    status        INTEGER NOT NULL,
    refused_at_us INTEGER NOT NULL,
    PRIMARY KEY (provider, fingerprint)
) WITHOUT ROWID"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "m001_ledger",
        (
            _OWNERS,
            _REQUESTS,
            "CREATE INDEX requests_by_time ON requests (created_at_us)",
            "CREATE INDEX requests_open ON requests (owner_id) WHERE outcome = 'open'",
            _RESERVATIONS,
            "CREATE INDEX reservations_by_request ON reservations (request_id)",
            "CREATE INDEX reservations_by_time ON reservations (reserved_at_us, settled_nusd)",
            "CREATE INDEX reservations_open ON reservations (owner_id, reserved_nusd) WHERE settled_nusd IS NULL",
            _SPEND_BUCKETS,
            _SETTLED_INTO_BUCKET,
            _SETTLED_IS_FINAL,
            _NEVER_DELETED,
        ),
    ),
    Migration(
        "m002_client_keys",
        (_CLIENT_KEYS, "CREATE UNIQUE INDEX client_keys_active ON client_keys (name) WHERE revoked_at_us IS NULL"),
    ),
    Migration(
        "m003_latency",
        (
            _SAMPLES,
            "CREATE INDEX samples_by_subject ON samples (kind, subject, id)",
            "ALTER TABLE requests ADD COLUMN hedge TEXT",
            "ALTER TABLE requests ADD COLUMN double_nusd INTEGER",
        ),
    ),
    Migration(
        "m004_spend_by_key_and_tag",
        (
            "ALTER TABLE reservations ADD COLUMN client_key TEXT",
            "ALTER TABLE reservations ADD COLUMN tag TEXT",
            "DROP TRIGGER reservation_is_final",
            _WHOSE_MONEY,
            _SETTLED_IS_FINAL,
            "DROP TRIGGER reservation_settled",
            "DROP TABLE spend_buckets",
            _SPEND_SUMS,
            _SUM_UP,
            _SETTLED_INTO_SUMS,
            "CREATE INDEX reservations_by_key ON reservations (client_key, reserved_at_us, settled_nusd)"
            " WHERE client_key IS NOT NULL",
            "CREATE INDEX reservations_by_tag ON reservations (tag, reserved_at_us, settled_nusd)"
            " WHERE tag IS NOT NULL",
        ),
    ),
    Migration(
        "m005_key_rules",
        (
            "ALTER TABLE client_keys ADD COLUMN usd_per_day_nusd INTEGER",
            "ALTER TABLE client_keys ADD COLUMN usd_per_month_nusd INTEGER",
            "ALTER TABLE client_keys ADD COLUMN requests_per_minute INTEGER",
            "ALTER TABLE client_keys ADD COLUMN tokens_per_minute INTEGER",
            "ALTER TABLE client_keys ADD COLUMN concurrency INTEGER",
            "ALTER TABLE client_keys ADD COLUMN models TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE client_keys ADD COLUMN is_private INTEGER NOT NULL DEFAULT 0",
        ),
    ),
    Migration("m006_labels", (_LABELS, "CREATE INDEX labels_by_calibration ON labels (calibration)", _STANDINGS)),
    Migration("m007_escrow", (_ESCROW,)),
    Migration("m008_rests", (_CLOUD_RESTS, _REFUSED_KEYS)),
    Migration("m009_unanswered", ("ALTER TABLE labels ADD COLUMN is_answered INTEGER NOT NULL DEFAULT 1",)),
)
