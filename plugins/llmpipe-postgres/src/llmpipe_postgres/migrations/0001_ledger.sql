-- Budgets: what is spent and held of each, the holds, and the journal of what was spent.
-- Works with schema 1 and newer code.

CREATE TABLE balances (
    ledger text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    period bigint NOT NULL,
    spent bigint NOT NULL DEFAULT 0,  -- nano-USD
    held bigint NOT NULL DEFAULT 0,
    ends double precision,  -- when the period is over, seconds since the epoch
    touched double precision NOT NULL DEFAULT 0,  -- when it last changed, by the server's clock
    PRIMARY KEY (ledger, account, period)
) WITH (fillfactor = 50);  -- half a page stays free, so that an update finds room on its own page
CREATE INDEX balances_ends ON balances (ledger, ends) WHERE ends IS NOT NULL;

CREATE TABLE holds (
    ledger text COLLATE "C" NOT NULL,
    hold text COLLATE "C" NOT NULL,
    state smallint NOT NULL,  -- 0 open, 1 expired, 2 settled
    until double precision NOT NULL,  -- when the lease ends; of a settled one, when that was
    accounts text[] NOT NULL,
    periods bigint[] NOT NULL,
    nanos bigint[] NOT NULL,
    likelies bigint[] NOT NULL,
    mark bigint,  -- who settled it, so that the one who lost the answer knows that it was he
    PRIMARY KEY (ledger, hold)
) WITH (fillfactor = 80);
CREATE INDEX holds_until ON holds (ledger, state, until);

CREATE TABLE journal (
    ledger text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    at double precision NOT NULL,
    nano bigint,
    estimated boolean NOT NULL,
    call text NOT NULL,
    tenant text NOT NULL,
    "user" text NOT NULL,
    project text NOT NULL,
    key text NOT NULL,
    use_case text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    status text NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    asked_tokens bigint,
    seconds double precision NOT NULL,
    prompt text NOT NULL,
    prefix text NOT NULL,
    request_id text NOT NULL,
    PRIMARY KEY (ledger, id)
);
CREATE INDEX journal_at ON journal (ledger, at, id);
CREATE INDEX journal_tenant ON journal (ledger, tenant, at, id);

-- The rows of these balances, made where they are missing, locked in the order of their keys: whoever
-- locks several does so here and in this order, so that no two can wait for one another. The update
-- that never happens (WHERE false) locks a row all the same, and leaves no dead one behind.
CREATE FUNCTION lock_balances(
    p_ledger text, p_accounts text[], p_periods bigint[], p_ends double precision[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO balances AS b (ledger, account, period, ends)
    SELECT p_ledger, w.account COLLATE "C", w.period, max(w.ends)
    FROM unnest(p_accounts, p_periods, p_ends) AS w (account, period, ends)
    GROUP BY 2, 3 ORDER BY 2, 3
    ON CONFLICT (ledger, account, period) DO UPDATE SET held = b.held WHERE false;
END $$;

-- One operation at a time on one hold, whether or not it has a row yet.
CREATE FUNCTION lock_hold(p_ledger text, p_hold text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_ledger || E'\n' || p_hold, 7700));
END $$;

-- Locks are taken in this order everywhere: a hold's own, then balances in the order of their keys. The
-- sweeper takes holds it need not wait for (SKIP LOCKED).
--
-- `verdict`: -1 held, -2 settled before, -3 other holds have to be expired first (unless p_force), else
-- the number of the draw that is short, from 0, with what is spent and held of its budget.
CREATE FUNCTION reserve(
    p_ledger text, p_hold text, p_lease double precision, p_ahead double precision, p_force boolean,
    p_accounts text[], p_periods bigint[], p_nanos bigint[], p_limits bigint[], p_likelies bigint[],
    p_ends double precision[],
    OUT verdict integer, OUT spent bigint, OUT held bigint
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    own holds;
    again holds;
    n integer;
    j integer;
    more bigint;
    has boolean;
    named boolean;
    lapsed boolean;
BEGIN
    PERFORM lock_hold(p_ledger, p_hold);
    SELECT * INTO own FROM holds h WHERE h.ledger = p_ledger AND h.hold = p_hold FOR UPDATE;
    IF own.state = 2 THEN
        verdict := -2;
        RETURN;
    END IF;
    IF NOT p_force AND EXISTS (
        SELECT FROM holds h
        WHERE h.ledger = p_ledger AND h.state = 0 AND h.hold <> p_hold
            AND h.until <= extract(epoch FROM clock_timestamp()) + p_ahead
    ) THEN
        verdict := -3;
        RETURN;
    END IF;
    own.accounts := coalesce(own.accounts, '{}');
    own.periods := coalesce(own.periods, '{}');
    own.nanos := coalesce(own.nanos, '{}');
    own.likelies := coalesce(own.likelies, '{}');
    again := own;
    again.accounts := '{}';
    again.periods := '{}';
    again.nanos := '{}';
    again.likelies := '{}';
    lapsed := own.until <= extract(epoch FROM clock_timestamp()) + p_ahead OR own.state = 1;
    PERFORM lock_balances(p_ledger, p_accounts || own.accounts, p_periods || own.periods, p_ends);

    FOR i IN 1 .. cardinality(p_accounts) LOOP
        CONTINUE WHEN p_limits[i] IS NULL;
        SELECT b.spent, b.held INTO spent, held FROM balances b
        WHERE b.ledger = p_ledger AND b.account = p_accounts[i] AND b.period = p_periods[i];
        more := p_nanos[i];
        has := false;
        FOR k IN 1 .. cardinality(own.accounts) LOOP
            IF own.accounts[k] = p_accounts[i] AND own.periods[k] = p_periods[i] THEN
                IF own.state = 1 THEN
                    spent := spent - own.likelies[k];
                ELSE
                    held := held - own.nanos[k];
                END IF;
                more := greatest(more, own.nanos[k]);
                has := NOT lapsed AND p_nanos[i] <= own.nanos[k];
            END IF;
        END LOOP;
        -- What is held already is held, whatever others have spent since.
        IF NOT has AND spent + held + more > p_limits[i] THEN
            verdict := i - 1;
            PERFORM set_config('synchronous_commit', 'off', true);  -- nothing changed that could be lost
            RETURN;
        END IF;
    END LOOP;

    IF lapsed THEN  -- open again, with what is named now and nothing besides
        FOR k IN 1 .. cardinality(own.accounts) LOOP
            named := false;
            FOR i IN 1 .. cardinality(p_accounts) LOOP
                named := named OR (own.accounts[k] = p_accounts[i] AND own.periods[k] = p_periods[i]);
            END LOOP;
            more := CASE WHEN named THEN own.nanos[k] ELSE 0 END;
            UPDATE balances b SET
                spent = b.spent - CASE own.state WHEN 1 THEN own.likelies[k] ELSE 0 END,
                held = b.held + more - CASE own.state WHEN 0 THEN own.nanos[k] ELSE 0 END
            WHERE b.ledger = p_ledger AND b.account = own.accounts[k] AND b.period = own.periods[k];
            IF named THEN
                n := cardinality(again.accounts) + 1;
                again.accounts[n] := own.accounts[k];
                again.periods[n] := own.periods[k];
                again.nanos[n] := own.nanos[k];
                again.likelies[n] := own.likelies[k];
            END IF;
        END LOOP;
        own := again;
    END IF;
    FOR i IN 1 .. cardinality(p_accounts) LOOP
        n := cardinality(own.accounts);
        j := n + 1;
        FOR k IN 1 .. n LOOP
            IF own.accounts[k] = p_accounts[i] AND own.periods[k] = p_periods[i] THEN
                j := k;
            END IF;
        END LOOP;
        more := p_nanos[i];
        IF j > n THEN
            own.accounts[j] := p_accounts[i];
            own.periods[j] := p_periods[i];
            own.nanos[j] := p_nanos[i];
            own.likelies[j] := greatest(0, p_likelies[i]);
        ELSE
            more := greatest(0, more - own.nanos[j]);
            own.nanos[j] := own.nanos[j] + more;
            own.likelies[j] := greatest(own.likelies[j], p_likelies[i]);
        END IF;
        IF more > 0 THEN
            UPDATE balances b SET held = b.held + more, touched = extract(epoch FROM clock_timestamp()) + p_ahead
            WHERE b.ledger = p_ledger AND b.account = p_accounts[i] AND b.period = p_periods[i];
        END IF;
    END LOOP;
    INSERT INTO holds AS h (ledger, hold, state, until, accounts, periods, nanos, likelies)
    VALUES (
        p_ledger, p_hold, 0, extract(epoch FROM clock_timestamp()) + p_ahead + p_lease,
        own.accounts, own.periods, own.nanos, own.likelies
    )
    ON CONFLICT (ledger, hold) DO UPDATE SET
        state = 0, until = excluded.until, accounts = excluded.accounts, periods = excluded.periods,
        nanos = excluded.nanos, likelies = excluded.likelies;
    verdict := -1;
END $$;

-- Whether it was done now: by the one with this mark.
CREATE FUNCTION settle(
    p_ledger text, p_hold text, p_ahead double precision, p_mark bigint,
    p_accounts text[], p_periods bigint[], p_nanos bigint[], p_ends double precision[], p_rows json
) RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    own holds;
BEGIN
    PERFORM lock_hold(p_ledger, p_hold);
    SELECT * INTO own FROM holds h WHERE h.ledger = p_ledger AND h.hold = p_hold FOR UPDATE;
    IF own.state = 2 THEN
        RETURN own.mark IS NOT DISTINCT FROM p_mark;
    END IF;
    own.accounts := coalesce(own.accounts, '{}');
    PERFORM lock_balances(p_ledger, p_accounts || own.accounts, p_periods || own.periods, p_ends);
    FOR k IN 1 .. cardinality(own.accounts) LOOP
        UPDATE balances b SET
            spent = b.spent - CASE own.state WHEN 1 THEN own.likelies[k] ELSE 0 END,
            held = b.held - CASE own.state WHEN 0 THEN own.nanos[k] ELSE 0 END
        WHERE b.ledger = p_ledger AND b.account = own.accounts[k] AND b.period = own.periods[k];
    END LOOP;
    FOR i IN 1 .. cardinality(p_accounts) LOOP
        UPDATE balances b SET spent = b.spent + p_nanos[i], touched = extract(epoch FROM clock_timestamp()) + p_ahead
        WHERE b.ledger = p_ledger AND b.account = p_accounts[i] AND b.period = p_periods[i];
    END LOOP;
    INSERT INTO holds AS h (ledger, hold, state, until, accounts, periods, nanos, likelies, mark)
    VALUES (
        p_ledger, p_hold, 2, extract(epoch FROM clock_timestamp()) + p_ahead, '{}', '{}', '{}', '{}', p_mark
    )
    ON CONFLICT (ledger, hold) DO UPDATE SET
        state = 2, until = excluded.until, accounts = '{}', periods = '{}', nanos = '{}', likelies = '{}',
        mark = excluded.mark;
    IF p_rows IS NOT NULL THEN
        INSERT INTO journal SELECT * FROM json_populate_recordset(NULL::journal, p_rows)
        ON CONFLICT (ledger, id) DO NOTHING;
    END IF;
    RETURN true;
END $$;

-- Expire holds whose lease has ended, at most so many; how many there were.
CREATE FUNCTION sweep(p_ledger text, p_ahead double precision, p_most integer)
RETURNS integer LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    names text[] := '{}';
    accounts text[] := '{}';
    periods bigint[] := '{}';
    nanos bigint[] := '{}';
    likelies bigint[] := '{}';
    due record;
    part record;
BEGIN
    FOR due IN
        SELECT h.hold, h.accounts, h.periods, h.nanos, h.likelies FROM holds h
        WHERE h.ledger = p_ledger AND h.state = 0
            AND h.until <= extract(epoch FROM clock_timestamp()) + p_ahead
        ORDER BY h.until LIMIT p_most FOR UPDATE SKIP LOCKED
    LOOP
        names := names || due.hold;
        accounts := accounts || due.accounts;
        periods := periods || due.periods;
        nanos := nanos || due.nanos;
        likelies := likelies || due.likelies;
    END LOOP;
    IF cardinality(names) > 0 THEN
        PERFORM lock_balances(p_ledger, accounts, periods, '{}');
        FOR part IN
            SELECT w.account, w.period, sum(w.nano)::bigint AS nano, sum(w.likely)::bigint AS likely
            FROM unnest(accounts, periods, nanos, likelies) AS w (account, period, nano, likely)
            GROUP BY w.account, w.period
        LOOP
            UPDATE balances b SET held = b.held - part.nano, spent = b.spent + part.likely
            WHERE b.ledger = p_ledger AND b.account = part.account AND b.period = part.period;
        END LOOP;
        UPDATE holds h SET state = 1 WHERE h.ledger = p_ledger AND h.hold = ANY (names);
    END IF;
    RETURN cardinality(names);
END $$;

-- Drop balances of periods that are over, at most so many: those that for a period and a week more nobody
-- has touched.
CREATE FUNCTION drop_balances(p_ledger text, p_ahead double precision, p_most integer)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    old double precision := extract(epoch FROM clock_timestamp()) + p_ahead - 604800;
BEGIN
    DELETE FROM balances b USING (
        SELECT o.account, o.period FROM balances o
        WHERE o.ledger = p_ledger AND o.held = 0 AND o.ends < old
            AND o.touched < old - greatest(0, o.ends - o.period)
        LIMIT p_most FOR UPDATE SKIP LOCKED
    ) AS over
    WHERE b.ledger = p_ledger AND b.account = over.account AND b.period = over.period;
END $$;
