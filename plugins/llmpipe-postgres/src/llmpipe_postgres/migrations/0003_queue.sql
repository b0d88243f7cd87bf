-- Queues: items, leased one after another with fencing tokens.
-- Works with schema 3 and newer code.

CREATE SEQUENCE queue_tokens;
CREATE SEQUENCE queue_numbers;

CREATE TABLE queue_totals (
    queue text COLLATE "C" PRIMARY KEY,
    items bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE queue_items (
    queue text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,  -- in the order they came
    state text NOT NULL DEFAULT 'pending',
    ordering text NOT NULL,
    priority bigint NOT NULL,
    payload bytea NOT NULL,
    result bytea,
    reason text NOT NULL DEFAULT '',
    attempts bigint NOT NULL DEFAULT 0,
    max_attempts bigint NOT NULL,
    came double precision NOT NULL,
    due double precision NOT NULL,
    expires double precision,
    token bigint NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT '',
    leased_until double precision NOT NULL DEFAULT 0,
    ended double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, id)
);
CREATE INDEX queue_items_next ON queue_items (queue, priority DESC, number) WHERE state = 'pending';
CREATE INDEX queue_items_order ON queue_items (queue, ordering, number)
    WHERE ordering <> '' AND state IN ('pending', 'leased');
CREATE INDEX queue_items_leased ON queue_items (queue, leased_until) WHERE state = 'leased';
CREATE INDEX queue_items_expires ON queue_items (queue, expires)
    WHERE state = 'pending' AND expires IS NOT NULL;
CREATE INDEX queue_items_over ON queue_items (queue, ended) WHERE state IN ('done', 'dead', 'expired');

-- End leases that are over, and what is out of attempts or time: at most so many of each. Waits for
-- nobody. How many there were, of the one or the other.
CREATE FUNCTION end_leases(p_queue text, p_ahead double precision, p_most integer)
RETURNS integer LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at double precision := extract(epoch FROM clock_timestamp()) + p_ahead;
    leases integer;
    expired integer;
BEGIN
    UPDATE queue_items q SET
        reason = CASE q.reason WHEN '' THEN 'its lease ended' ELSE q.reason END,
        state = CASE WHEN q.attempts >= q.max_attempts THEN 'dead'
            WHEN q.expires <= at THEN 'expired' ELSE 'pending' END,
        ended = CASE WHEN q.attempts >= q.max_attempts THEN q.leased_until
            ELSE greatest(q.expires, q.leased_until) END
    FROM (
        SELECT o.id FROM queue_items o
        WHERE o.queue = p_queue AND o.state = 'leased' AND o.leased_until <= at
        ORDER BY o.leased_until LIMIT p_most FOR UPDATE SKIP LOCKED
    ) AS over
    WHERE q.queue = p_queue AND q.id = over.id;
    GET DIAGNOSTICS leases = ROW_COUNT;
    UPDATE queue_items q SET state = 'expired', ended = greatest(q.expires, q.leased_until)
    FROM (
        SELECT o.id FROM queue_items o
        WHERE o.queue = p_queue AND o.state = 'pending' AND o.expires IS NOT NULL AND o.expires <= at
        ORDER BY o.expires LIMIT p_most FOR UPDATE SKIP LOCKED
    ) AS over
    WHERE q.queue = p_queue AND q.id = over.id;
    GET DIAGNOSTICS expired = ROW_COUNT;
    RETURN greatest(leases, expired);
END $$;

-- 'new', 'same', 'conflict' or 'full'. Only putting locks the totals before the items, and then waits
-- for no item: whoever puts the same id waits for the totals.
CREATE FUNCTION put_item(
    p_queue text, p_ahead double precision, p_max_items bigint, p_max_bytes bigint,
    p_id text, p_payload bytea, p_ordering text, p_priority bigint, p_expires_in double precision,
    p_delay double precision, p_attempts bigint,
    OUT verdict text, OUT items bigint, OUT bytes bigint
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    found_payload bytea;
    at double precision;
BEGIN
    INSERT INTO queue_totals AS t (queue) VALUES (p_queue)
    ON CONFLICT (queue) DO UPDATE SET items = t.items WHERE false;
    SELECT t.items, t.bytes INTO items, bytes FROM queue_totals t WHERE t.queue = p_queue;
    SELECT q.payload INTO found_payload FROM queue_items q WHERE q.queue = p_queue AND q.id = p_id;
    IF FOUND THEN
        verdict := CASE WHEN found_payload = p_payload THEN 'same' ELSE 'conflict' END;
        RETURN;
    END IF;
    IF items >= p_max_items OR bytes + length(p_payload) > p_max_bytes THEN
        verdict := 'full';
        RETURN;
    END IF;
    at := extract(epoch FROM clock_timestamp()) + p_ahead;
    INSERT INTO queue_items
        (queue, id, number, ordering, priority, payload, max_attempts, came, due, expires)
    VALUES (
        p_queue, p_id, nextval('queue_numbers'), p_ordering, p_priority, p_payload, p_attempts, at,
        at + p_delay, at + p_expires_in
    );
    UPDATE queue_totals t SET items = t.items + 1, bytes = t.bytes + length(p_payload)
    WHERE t.queue = p_queue;
    verdict := 'new';
END $$;

CREATE FUNCTION lease_items(
    p_queue text, p_ahead double precision, p_owner text, p_count integer, p_seconds double precision
) RETURNS TABLE (id text, payload bytea, token bigint, attempt bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at double precision;
    next record;
BEGIN
    PERFORM end_leases(p_queue, p_ahead, 2000);
    at := extract(epoch FROM clock_timestamp()) + p_ahead;
    FOR next IN
        SELECT q.id, q.ordering, q.number FROM queue_items q
        WHERE q.queue = p_queue AND q.state = 'pending' AND q.due <= at
            AND (q.expires IS NULL OR q.expires > at) AND q.attempts < q.max_attempts
            AND (q.ordering = '' OR NOT EXISTS (
                SELECT FROM queue_items o
                WHERE o.queue = p_queue AND o.ordering = q.ordering AND o.ordering <> ''
                    AND (o.state = 'leased' OR (o.state = 'pending' AND o.number < q.number))
            ))
        ORDER BY q.priority DESC, q.number LIMIT p_count FOR UPDATE OF q SKIP LOCKED
    LOOP
        -- What is above saw the order as it was when it began; one that was revived since may be leased to
        -- another just now. So one at a time leases of an order, and looks again.
        IF next.ordering <> '' THEN
            CONTINUE WHEN NOT pg_try_advisory_xact_lock(
                hashtextextended(p_queue || E'\n' || next.ordering, 7701)
            );
            CONTINUE WHEN EXISTS (
                SELECT FROM queue_items o
                WHERE o.queue = p_queue AND o.ordering = next.ordering AND o.ordering <> ''
                    AND (o.state = 'leased' OR (o.state = 'pending' AND o.number < next.number))
            );
        END IF;
        RETURN QUERY UPDATE queue_items q SET
            state = 'leased', token = nextval('queue_tokens'), owner = p_owner,
            leased_until = at + p_seconds, attempts = q.attempts + 1
        WHERE q.queue = p_queue AND q.id = next.id
        RETURNING q.id::text, q.payload, q.token, q.attempts;
    END LOOP;
END $$;

CREATE FUNCTION renew_item(
    p_queue text, p_ahead double precision, p_id text, p_token bigint, p_seconds double precision
) RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at double precision := extract(epoch FROM clock_timestamp()) + p_ahead;
BEGIN
    UPDATE queue_items q SET leased_until = at + p_seconds
    WHERE q.queue = p_queue AND q.id = p_id AND q.state = 'leased' AND q.token = p_token
        AND q.leased_until > at;
    RETURN FOUND;
END $$;

-- `p_again`: whoever says it lost the answer to the same; then done by this very lease is done.
CREATE FUNCTION finish_item(
    p_queue text, p_ahead double precision, p_id text, p_token bigint, p_result bytea, p_again boolean
) RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at double precision := extract(epoch FROM clock_timestamp()) + p_ahead;
BEGIN
    UPDATE queue_items q SET state = 'done', result = p_result, ended = at
    WHERE q.queue = p_queue AND q.id = p_id AND q.state = 'leased' AND q.token = p_token
        AND q.leased_until > at;
    IF NOT FOUND THEN
        RETURN p_again AND EXISTS (
            SELECT FROM queue_items q
            WHERE q.queue = p_queue AND q.id = p_id AND q.state = 'done' AND q.token = p_token
        );
    END IF;
    IF length(p_result) > 0 THEN
        UPDATE queue_totals t SET bytes = t.bytes + length(p_result) WHERE t.queue = p_queue;
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION fail_item(
    p_queue text, p_ahead double precision, p_id text, p_token bigint, p_reason text,
    p_delay double precision, p_final boolean, p_again boolean
) RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at double precision := extract(epoch FROM clock_timestamp()) + p_ahead;
BEGIN
    UPDATE queue_items q SET
        reason = p_reason, due = at + p_delay, ended = at, leased_until = at,
        state = CASE WHEN p_final OR q.attempts >= q.max_attempts THEN 'dead'
            WHEN q.expires <= at THEN 'expired' ELSE 'pending' END
    WHERE q.queue = p_queue AND q.id = p_id AND q.state = 'leased' AND q.token = p_token
        AND q.leased_until > at;
    RETURN FOUND OR (p_again AND EXISTS (
        SELECT FROM queue_items q
        WHERE q.queue = p_queue AND q.id = p_id AND q.state IN ('pending', 'dead', 'expired')
            AND q.token = p_token AND q.reason = p_reason
    ));
END $$;

CREATE FUNCTION revive_item(p_queue text, p_ahead double precision, p_id text)
RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at double precision := extract(epoch FROM clock_timestamp()) + p_ahead;
BEGIN
    UPDATE queue_items q SET state = 'pending', attempts = 0, due = at, expires = NULL, reason = ''
    WHERE q.queue = p_queue AND q.id = p_id AND q.state IN ('dead', 'expired');
    RETURN FOUND;
END $$;

-- Drop what has been over for so long, at most so many.
CREATE FUNCTION forget_items(
    p_queue text, p_ahead double precision, p_older_than double precision, p_most integer
) RETURNS integer LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    at double precision := extract(epoch FROM clock_timestamp()) + p_ahead;
    gone bigint;
    size bigint;
BEGIN
    WITH over AS (
        SELECT o.id FROM queue_items o
        WHERE o.queue = p_queue AND o.state IN ('done', 'dead', 'expired') AND o.ended <= at - p_older_than
        ORDER BY o.ended LIMIT p_most FOR UPDATE SKIP LOCKED
    ), dropped AS (
        DELETE FROM queue_items q USING over WHERE q.queue = p_queue AND q.id = over.id
        RETURNING length(q.payload) + coalesce(length(q.result), 0) AS size
    )
    SELECT count(*), coalesce(sum(dropped.size), 0) INTO gone, size FROM dropped;
    IF gone > 0 THEN
        UPDATE queue_totals t SET items = t.items - gone, bytes = t.bytes - size WHERE t.queue = p_queue;
    END IF;
    RETURN gone;
END $$;
