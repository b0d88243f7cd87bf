-- Limits: rates as GCRA buckets, slots as leases, and the tickets that took them.
-- Works with schema 2 and newer code.

CREATE TABLE buckets (
    name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    tat double precision NOT NULL DEFAULT 0,  -- theoretical arrival time; in the past when it is full
    PRIMARY KEY (name, key)
) WITH (fillfactor = 50);

CREATE TABLE tickets (
    name text COLLATE "C" NOT NULL,
    ticket text COLLATE "C" NOT NULL,
    until double precision NOT NULL,
    keys text[] NOT NULL,
    amounts double precision[] NOT NULL,
    seconds double precision[] NOT NULL,  -- per unit; 0 for slots
    PRIMARY KEY (name, ticket)
);
CREATE INDEX tickets_until ON tickets (name, until);

CREATE TABLE slots (
    name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    ticket text COLLATE "C" NOT NULL,
    amount double precision NOT NULL,
    until double precision NOT NULL,
    PRIMARY KEY (name, key, ticket)
);
CREATE INDEX slots_until ON slots (name, until);

-- As `lock_balances`: in the order of the keys, and without a trace.
CREATE FUNCTION lock_buckets(p_name text, p_keys text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO buckets AS b (name, key)
    SELECT DISTINCT p_name, w.key COLLATE "C" FROM unnest(p_keys) AS w (key) ORDER BY 2
    ON CONFLICT (name, key) DO UPDATE SET tat = b.tat WHERE false;
END $$;

-- How these limits stand: arrival times of rates, what is held of slots, and the time.
CREATE FUNCTION levels(
    p_name text, p_ahead double precision, p_keys text[], p_periods double precision[],
    OUT at double precision, OUT tats double precision[], OUT helds double precision[]
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    at := extract(epoch FROM clock_timestamp()) + p_ahead;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        tats[i] := 0;
        helds[i] := 0;
        IF p_periods[i] > 0 THEN
            tats[i] := coalesce(
                (SELECT b.tat FROM buckets b WHERE b.name = p_name AND b.key = p_keys[i]), 0
            );
        ELSE
            helds[i] := coalesce(
                (SELECT sum(s.amount) FROM slots s
                WHERE s.name = p_name AND s.key = p_keys[i] AND s.until > at),
                0
            );
        END IF;
    END LOOP;
END $$;

-- The arithmetic of llmpipe/state/gcra.py, in its order, so that both round alike.
-- Locks: buckets in the order of their keys, then the ticket. `refused` is the number of an ask, from 0.
CREATE FUNCTION take(
    p_name text, p_ticket text, p_lease double precision, p_ahead double precision,
    p_keys text[], p_amounts double precision[], p_limits double precision[],
    p_periods double precision[], p_bursts double precision[],
    OUT refused integer, OUT at double precision, OUT tats double precision[], OUT helds double precision[]
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    before text[];
    step double precision;
    lacking double precision;
    later double precision;
    steps double precision[] := '{}';
BEGIN
    -- A bucket that a crash of the server sets back by its last half second is fuller than it should be
    -- by what was taken in that time; waiting for the disk each time would cost far more than that.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT t.keys INTO before FROM tickets t WHERE t.name = p_name AND t.ticket = p_ticket;
    PERFORM lock_buckets(p_name, p_keys || before);
    SELECT l.at, l.tats, l.helds INTO at, tats, helds FROM levels(p_name, p_ahead, p_keys, p_periods) l;
    UPDATE tickets t SET until = at + p_lease
    WHERE t.name = p_name AND t.ticket = p_ticket AND t.until > at
    RETURNING t.keys INTO before;
    IF FOUND THEN  -- granted before: nothing more is taken, whatever is asked
        UPDATE slots s SET until = at + p_lease
        WHERE s.name = p_name AND s.ticket = p_ticket AND s.key = ANY (before);
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        IF p_periods[i] > 0 THEN
            step := p_periods[i] / p_limits[i];
            lacking := least(p_amounts[i], p_bursts[i]) * step
                - (at - greatest(tats[i], at) + p_bursts[i] * step);
            IF lacking > p_bursts[i] * step * 1e-9 + at * 1e-15 THEN
                refused := i - 1;
                RETURN;
            END IF;
            steps[i] := step;
        ELSE
            IF helds[i] + p_amounts[i] > p_limits[i] THEN
                refused := i - 1;
                RETURN;
            END IF;
            steps[i] := 0;
        END IF;
    END LOOP;
    DELETE FROM slots s WHERE s.name = p_name AND s.ticket = p_ticket AND s.key = ANY (p_keys);
    FOR i IN 1 .. cardinality(p_keys) LOOP
        IF p_periods[i] > 0 THEN
            UPDATE buckets b SET tat = greatest(b.tat, at) + p_amounts[i] * p_periods[i] / p_limits[i]
            WHERE b.name = p_name AND b.key = p_keys[i] RETURNING b.tat INTO later;
            tats[i] := later;
        ELSE
            INSERT INTO slots AS s VALUES (p_name, p_keys[i], p_ticket, p_amounts[i], at + p_lease)
            ON CONFLICT (name, key, ticket) DO UPDATE SET amount = s.amount + excluded.amount;
            helds[i] := helds[i] + p_amounts[i];
        END IF;
    END LOOP;
    INSERT INTO tickets VALUES (p_name, p_ticket, at + p_lease, p_keys, p_amounts, steps)
    ON CONFLICT (name, ticket) DO UPDATE SET
        until = excluded.until, keys = excluded.keys, amounts = excluded.amounts, seconds = excluded.seconds;
END $$;

CREATE FUNCTION settle_ticket(
    p_name text, p_ticket text, p_ahead double precision, p_keys text[], p_units double precision[]
) RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    wanted text[];
    own tickets;
    at double precision;
    more double precision;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT t.keys INTO wanted FROM tickets t WHERE t.name = p_name AND t.ticket = p_ticket;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM lock_buckets(p_name, wanted);
    at := extract(epoch FROM clock_timestamp()) + p_ahead;
    DELETE FROM tickets t WHERE t.name = p_name AND t.ticket = p_ticket RETURNING * INTO own;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM slots s WHERE s.name = p_name AND s.ticket = p_ticket AND s.key = ANY (own.keys);
    IF own.until <= at THEN
        RETURN false;
    END IF;
    FOR i IN 1 .. cardinality(own.keys) LOOP
        CONTINUE WHEN own.seconds[i] = 0;
        FOR k IN 1 .. cardinality(p_keys) LOOP
            CONTINUE WHEN p_keys[k] <> own.keys[i];
            more := (p_units[k] - own.amounts[i]) * own.seconds[i];
            UPDATE buckets b
            SET tat = CASE WHEN more > 0 THEN greatest(b.tat, at) ELSE b.tat END + more
            WHERE b.name = p_name AND b.key = own.keys[i];
        END LOOP;
    END LOOP;
    RETURN true;
END $$;

CREATE FUNCTION reset_limits(p_name text, p_keys text[])
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM lock_buckets(p_name, p_keys);
    DELETE FROM slots s WHERE s.name = p_name AND s.key = ANY (p_keys);
    UPDATE tickets t SET (keys, amounts, seconds) = (
        SELECT coalesce(array_agg(w.key), '{}'), coalesce(array_agg(w.amount), '{}'),
            coalesce(array_agg(w.second), '{}')
        FROM unnest(t.keys, t.amounts, t.seconds) AS w (key, amount, second)
        WHERE w.key <> ALL (p_keys)
    )
    WHERE t.name = p_name AND t.keys && p_keys;
    DELETE FROM buckets b WHERE b.name = p_name AND b.key = ANY (p_keys);
END $$;

-- Drop what is full again and whose lease has ended, at most so many of each; waits for nobody.
CREATE FUNCTION sweep_limits(p_name text, p_ahead double precision, p_most integer)
RETURNS integer LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at double precision := extract(epoch FROM clock_timestamp()) + p_ahead;
    gone integer;
    total integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM tickets t USING (
        SELECT o.ticket FROM tickets o
        WHERE o.name = p_name AND o.until <= at LIMIT p_most FOR UPDATE SKIP LOCKED
    ) AS over WHERE t.name = p_name AND t.ticket = over.ticket;
    GET DIAGNOSTICS total = ROW_COUNT;
    DELETE FROM slots s USING (
        SELECT o.key, o.ticket FROM slots o
        WHERE o.name = p_name AND o.until <= at LIMIT p_most FOR UPDATE SKIP LOCKED
    ) AS over WHERE s.name = p_name AND s.key = over.key AND s.ticket = over.ticket;
    GET DIAGNOSTICS gone = ROW_COUNT;
    total := total + gone;
    DELETE FROM buckets b USING (
        SELECT o.key FROM buckets o
        WHERE o.name = p_name AND o.tat <= at LIMIT p_most FOR UPDATE SKIP LOCKED
    ) AS over WHERE b.name = p_name AND b.key = over.key;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN total + gone;
END $$;
