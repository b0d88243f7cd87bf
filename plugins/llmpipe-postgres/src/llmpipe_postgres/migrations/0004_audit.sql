-- The audit trail: records in one chain for each writer.
-- Works with schema 4 and newer code.

CREATE TABLE audit (
    trail text COLLATE "C" NOT NULL,
    writer text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    at double precision NOT NULL,
    call text COLLATE "C" NOT NULL,
    tenant text NOT NULL,
    "user" text NOT NULL,
    outcome text NOT NULL,
    body json NOT NULL,  -- not jsonb, which writes numbers in another way than they were hashed
    previous text NOT NULL,
    hash text NOT NULL,
    PRIMARY KEY (trail, writer, seq)
);
CREATE INDEX audit_at ON audit (trail, at, writer, seq);
CREATE INDEX audit_call ON audit (trail, call);

-- Begins of calls that no end was there of when they came. See the view `unended`.
CREATE TABLE audit_unended (
    trail text COLLATE "C" NOT NULL,
    writer text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    call text COLLATE "C" NOT NULL,
    PRIMARY KEY (trail, writer, seq)
);
CREATE INDEX audit_unended_call ON audit_unended (trail, call);

-- Begins of calls that have not ended. Of an end and its begin that came in two transactions at once neither
-- saw the other; so whether there is an end is asked once more.
CREATE VIEW unended AS SELECT * FROM audit_unended u
WHERE NOT EXISTS (SELECT FROM audit a WHERE a.trail = u.trail AND a.call = u.call AND a.kind = 'end');

CREATE TABLE audit_writers (
    trail text COLLATE "C" NOT NULL,
    writer text COLLATE "C" NOT NULL,
    anchor_seq bigint NOT NULL DEFAULT 0,
    anchor_hash text NOT NULL DEFAULT '',
    alive_until double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (trail, writer)
);

-- All are kept, or none: one that is there with another hash is an error of class LP001.
CREATE FUNCTION append_records(
    p_trail text, p_writers text[], p_seqs bigint[], p_kinds text[], p_ats double precision[],
    p_calls text[], p_tenants text[], p_users text[], p_outcomes text[], p_bodies json[],
    p_previous text[], p_hashes text[]
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    kept bigint;
    other record;
BEGIN
    -- Beside one another, but not beside pruning: what it drops would come back.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_trail || E'\n' || w.writer, 7702))
    FROM (SELECT DISTINCT g.writer FROM unnest(p_writers) AS g (writer)) AS w;
    WITH given AS (
        SELECT * FROM unnest(
            p_writers, p_seqs, p_kinds, p_ats, p_calls, p_tenants, p_users, p_outcomes, p_bodies,
            p_previous, p_hashes
        ) AS g (writer, seq, kind, at, call, tenant, "user", outcome, body, previous, hash)
    )
    INSERT INTO audit
    SELECT p_trail, g.* FROM given g
    WHERE g.seq > coalesce(
        (SELECT w.anchor_seq FROM audit_writers w WHERE w.trail = p_trail AND w.writer = g.writer), 0
    )
    ORDER BY g.writer COLLATE "C", g.seq
    ON CONFLICT (trail, writer, seq) DO NOTHING;
    GET DIAGNOSTICS kept = ROW_COUNT;
    IF kept < cardinality(p_seqs) THEN
        SELECT g.writer, g.seq INTO other
        FROM unnest(p_writers, p_seqs, p_hashes) AS g (writer, seq, hash)
        JOIN audit a ON a.trail = p_trail AND a.writer = g.writer AND a.seq = g.seq AND a.hash <> g.hash
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'LP001', MESSAGE = format(
                'record %s of writer %L is there, and is another one', other.seq, other.writer
            );
        END IF;
        IF kept = 0 THEN
            RETURN;
        END IF;
    END IF;
    INSERT INTO audit_unended
    SELECT p_trail, g.writer, g.seq, g.call
    FROM unnest(p_writers, p_seqs, p_kinds, p_calls) AS g (writer, seq, kind, call)
    WHERE g.kind = 'begin'
        AND EXISTS (
            SELECT FROM audit a WHERE a.trail = p_trail AND a.writer = g.writer AND a.seq = g.seq
        )
        AND NOT EXISTS (
            SELECT FROM audit a WHERE a.trail = p_trail AND a.call = g.call AND a.kind = 'end'
        )
    ORDER BY g.writer COLLATE "C", g.seq
    ON CONFLICT (trail, writer, seq) DO NOTHING;
    DELETE FROM audit_unended u
    USING unnest(p_kinds, p_calls) AS g (kind, call)
    WHERE g.kind = 'end' AND u.trail = p_trail AND u.call = g.call;
END $$;

-- Drop the oldest of one writer, at most so many, up to what is not before that time or has not ended.
CREATE FUNCTION prune_writer(p_trail text, p_writer text, p_before double precision, p_most integer)
RETURNS integer LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    last record;
    gone integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_trail || E'\n' || p_writer, 7702));
    INSERT INTO audit_writers AS w (trail, writer) VALUES (p_trail, p_writer)
    ON CONFLICT (trail, writer) DO UPDATE SET anchor_seq = w.anchor_seq WHERE false;
    SELECT o.seq, o.hash INTO last
    FROM (
        SELECT a.seq, a.hash, bool_and(a.at < p_before AND u.seq IS NULL) OVER (ORDER BY a.seq) AS goes
        FROM (
            SELECT * FROM audit c WHERE c.trail = p_trail AND c.writer = p_writer
            ORDER BY c.seq LIMIT p_most
        ) AS a
        LEFT JOIN unended u ON u.trail = p_trail AND u.writer = p_writer AND u.seq = a.seq
    ) AS o
    WHERE o.goes ORDER BY o.seq DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    -- What an end that goes now has ended stays so.
    DELETE FROM audit_unended u USING audit a
    WHERE a.trail = p_trail AND a.writer = p_writer AND a.seq <= last.seq
        AND u.trail = p_trail AND (u.call = a.call AND a.kind = 'end' OR u.writer = a.writer AND u.seq = a.seq);
    DELETE FROM audit a WHERE a.trail = p_trail AND a.writer = p_writer AND a.seq <= last.seq;
    GET DIAGNOSTICS gone = ROW_COUNT;
    UPDATE audit_writers w SET anchor_seq = last.seq, anchor_hash = last.hash
    WHERE w.trail = p_trail AND w.writer = p_writer;
    RETURN gone;
END $$;
