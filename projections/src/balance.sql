CREATE TABLE balances (
    team_id          TEXT   NOT NULL,
    currency         TEXT   NOT NULL,
    purchased        BIGINT NOT NULL,
    consumed         BIGINT NOT NULL,
    held             BIGINT NOT NULL,
    credit_limit     BIGINT NOT NULL,
    open_since       BIGINT NOT NULL,
    open_usage       TEXT   NOT NULL,
    changed_position BIGINT NOT NULL,
    PRIMARY KEY (team_id, currency)
);

CREATE TABLE transactions (
    team_id        TEXT   NOT NULL,
    position       BIGINT NOT NULL,
    epoch          BIGINT NOT NULL,
    at             BIGINT NOT NULL,
    kind           TEXT   NOT NULL,
    meter          TEXT,
    units          BIGINT,
    amount         BIGINT NOT NULL,
    balance_before BIGINT NOT NULL,
    balance_after  BIGINT NOT NULL,
    last_position  BIGINT NOT NULL,
    last_at        BIGINT NOT NULL,
    payment_id     TEXT,
    note           TEXT,
    PRIMARY KEY (team_id, position)
);
CREATE INDEX transactions_kind ON transactions (team_id, kind, position);

CREATE TABLE balance_days (
    team_id      TEXT   NOT NULL,
    day          BIGINT NOT NULL,
    purchased    BIGINT NOT NULL,
    adjusted     BIGINT NOT NULL,
    consumed     BIGINT NOT NULL,
    transactions BIGINT NOT NULL,
    PRIMARY KEY (team_id, day)
);
