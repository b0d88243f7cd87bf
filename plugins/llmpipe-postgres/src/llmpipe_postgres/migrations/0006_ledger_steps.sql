-- Steps of many calls on one ledger in one transaction, and as fast for thousands of draws as for one.
-- Works with schema 5 and newer code.

-- Reserve and settle, as many as there are, each of another hold, one after the other as they are given.
--
-- Of each step: its hold; the lease of one that reserves; the mark of one that settles (NULL: it reserves),
-- and its rows for the journal. Of all draws and charges together: the number of their step, from 1, and what
-- they are. Settlements come first, so that the others find what they free.
--
-- Gives for each step a verdict. -1: held, or settled now by the one with this mark. -2: it was settled before.
-- -3: other holds have to be expired first (unless p_force). Else the number of the draw that is short, from 0,
-- with what is spent and held of its budget. What cannot be kept is an error, and then none was done.
--
-- Locks are taken in the order that 0001 says, over all steps: the holds' own in the order of their numbers,
-- the holds' rows, balances in the order of their keys, lines of the journal in the order of their ids.
--
-- The queries join nothing but what a LATERAL asks for row by row through an index, and one plan is kept for
-- them: so thousands of draws cost what they are, whatever the planner knows of the tables.
CREATE FUNCTION ledger_steps(
    p_ledger text, p_ahead double precision, p_force boolean,
    p_holds text[], p_leases double precision[], p_marks bigint[], p_rows json[],
    p_steps integer[], p_accounts text[], p_periods bigint[], p_nanos bigint[], p_limits bigint[],
    p_likelies bigint[], p_ends double precision[]
) RETURNS TABLE (verdict integer, was_spent bigint, was_held bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    steps integer := cardinality(p_holds);
    this_time double precision;
    own record;
    due boolean := false;
    lapsed boolean;
    -- Of each step.
    verdicts integer[] := array_fill(NULL::integer, ARRAY[steps]);
    short_spents bigint[] := array_fill(NULL::bigint, ARRAY[steps]);
    short_helds bigint[] := array_fill(NULL::bigint, ARRAY[steps]);
    states smallint[] := array_fill(NULL::smallint, ARRAY[steps]);
    untils double precision[] := array_fill(NULL::double precision, ARRAY[steps]);
    settling text[] := '{}';
    -- What the holds have.
    own_steps integer[] := '{}';
    own_accounts text[] := '{}';
    own_periods bigint[] := '{}';
    own_nanos bigint[] := '{}';
    own_likelies bigint[] := '{}';
    -- Of each step and balance one part: what is asked for (NULL if nothing is), and what the hold has.
    parts integer;
    part record;
    part_steps integer[];
    part_places bigint[];
    part_accounts text[];
    part_periods bigint[];
    part_keys integer[];
    nanos bigint[];
    limits bigint[];
    likelies bigint[];
    had_nanos bigint[];
    had_likelies bigint[];
    part_spents bigint[];
    part_helds bigint[];
    new_nanos bigint[];
    new_likelies bigint[];
    -- Of each balance, by its key.
    accounts text[] := '{}';
    periods bigint[] := '{}';
    spents bigint[] := '{}';
    helds bigint[] := '{}';
    changes double precision[] := '{}';  -- NULL: none; 0: one that does not touch it
    k integer;
    low integer;
    high integer := 0;
    sum_spent bigint;
    sum_held bigint;
    more bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(l.number)
    FROM (
        SELECT DISTINCT hashtextextended(p_ledger || E'\n' || w.hold, 7700) AS number
        FROM unnest(p_holds) AS w (hold) ORDER BY 1
    ) AS l;
    FOR own IN
        SELECT w.n::integer AS n, h.* FROM unnest(p_holds) WITH ORDINALITY AS w (name, n)
        CROSS JOIN LATERAL (
            SELECT o.state, o.until, o.mark, o.accounts, o.periods, o.nanos, o.likelies FROM holds o
            WHERE o.ledger = p_ledger AND o.hold = w.name FOR UPDATE
        ) AS h
    LOOP
        states[own.n] := own.state;
        untils[own.n] := own.until;
        IF own.state = 2 THEN
            verdicts[own.n] := CASE WHEN own.mark = p_marks[own.n] THEN -1 ELSE -2 END;
        ELSE
            own_steps := own_steps || array_fill(own.n, ARRAY[cardinality(own.accounts)]);
            own_accounts := own_accounts || own.accounts;
            own_periods := own_periods || own.periods;
            own_nanos := own_nanos || own.nanos;
            own_likelies := own_likelies || own.likelies;
        END IF;
    END LOOP;
    IF NOT p_force AND array_position(p_marks, NULL) IS NOT NULL THEN
        FOR s IN 1 .. steps LOOP
            IF p_marks[s] IS NOT NULL THEN
                settling := settling || p_holds[s];
            END IF;
        END LOOP;
        due := EXISTS (
            SELECT FROM holds h
            WHERE h.ledger = p_ledger AND h.state = 0
                AND h.until <= extract(epoch FROM clock_timestamp()) + p_ahead AND h.hold <> ALL (settling)
        );
        FOR s IN 1 .. steps LOOP
            IF due AND p_marks[s] IS NULL AND verdicts[s] IS NULL THEN
                verdicts[s] := -3;
            END IF;
        END LOOP;
    END IF;
    IF array_position(verdicts, NULL) IS NULL THEN
        RETURN QUERY SELECT w.verdict, NULL::bigint, NULL::bigint FROM unnest(verdicts) AS w (verdict);
        RETURN;
    END IF;
    PERFORM lock_balances(p_ledger, p_accounts || own_accounts, p_periods || own_periods, p_ends);
    this_time := extract(epoch FROM clock_timestamp()) + p_ahead;

    SELECT
        array_agg(p.step), array_agg(p.place), array_agg(p.account), array_agg(p.period), array_agg(p.key),
        array_agg(p.nano), array_agg(p.most), array_agg(p.likely), array_agg(p.had_nano),
        array_agg(p.had_likely), array_agg(p.spent), array_agg(p.held)
    INTO part_steps, part_places, part_accounts, part_periods, part_keys, nanos, limits, likelies, had_nanos,
        had_likelies, part_spents, part_helds
    FROM (
        SELECT g.*, b.spent, b.held
        FROM (
            SELECT
                e.step, min(e.place) AS place, e.account, e.period,
                (dense_rank() OVER (ORDER BY e.account, e.period))::integer AS key,
                sum(e.nano)::bigint AS nano, min(e.most) AS most, max(e.likely) AS likely,
                max(e.had_nano) AS had_nano, max(e.had_likely) AS had_likely
            FROM (
                SELECT d.step, d.place, d.account COLLATE "C" AS account, d.period, d.nano, d.most, d.likely,
                    NULL::bigint AS had_nano, NULL::bigint AS had_likely
                FROM unnest(p_steps, p_accounts, p_periods, p_nanos, p_limits, p_likelies)
                    WITH ORDINALITY AS d (step, account, period, nano, most, likely, place)
                UNION ALL
                SELECT o.step, NULL, o.account COLLATE "C", o.period, NULL, NULL, NULL, o.nano, o.likely
                FROM unnest(own_steps, own_accounts, own_periods, own_nanos, own_likelies)
                    AS o (step, account, period, nano, likely)
            ) AS e
            GROUP BY e.step, e.account, e.period
        ) AS g
        CROSS JOIN LATERAL (
            SELECT a.spent, a.held FROM balances a
            WHERE a.ledger = p_ledger AND a.account = g.account AND a.period = g.period OFFSET 0
        ) AS b
        ORDER BY g.step, g.place  -- what only the hold has comes last
    ) AS p;
    parts := coalesce(cardinality(part_steps), 0);
    new_nanos := array_fill(NULL::bigint, ARRAY[parts]);
    new_likelies := new_nanos;
    spents := new_nanos;  -- there are no more balances than parts
    helds := new_nanos;
    periods := new_nanos;
    accounts := array_fill(NULL::text, ARRAY[parts]);
    changes := array_fill(NULL::double precision, ARRAY[parts]);
    FOR r IN 1 .. parts LOOP
        k := part_keys[r];
        accounts[k] := part_accounts[r];
        periods[k] := part_periods[r];
        spents[k] := part_spents[r];
        helds[k] := part_helds[r];
    END LOOP;

    FOR s IN 1 .. steps LOOP
        low := high + 1;
        WHILE high < parts AND part_steps[high + 1] = s LOOP
            high := high + 1;
        END LOOP;
        CONTINUE WHEN verdicts[s] IS NOT NULL;
        IF p_marks[s] IS NOT NULL THEN
            FOR r IN low .. high LOOP
                k := part_keys[r];
                IF had_nanos[r] IS NOT NULL THEN
                    spents[k] := spents[k] - CASE states[s] WHEN 1 THEN had_likelies[r] ELSE 0 END;
                    helds[k] := helds[k] - CASE states[s] WHEN 0 THEN had_nanos[r] ELSE 0 END;
                    changes[k] := coalesce(changes[k], 0);
                END IF;
                IF nanos[r] IS NOT NULL THEN
                    spents[k] := spents[k] + nanos[r];
                    changes[k] := this_time;
                END IF;
            END LOOP;
            verdicts[s] := -1;
            CONTINUE;
        END IF;

        lapsed := coalesce(states[s] = 1 OR untils[s] <= this_time, false);
        FOR r IN low .. high LOOP
            CONTINUE WHEN limits[r] IS NULL;
            k := part_keys[r];
            sum_spent := spents[k];
            sum_held := helds[k];
            more := nanos[r];
            IF had_nanos[r] IS NOT NULL THEN
                -- What is held already is held, whatever others have spent since.
                CONTINUE WHEN NOT lapsed AND more <= had_nanos[r];
                IF states[s] = 1 THEN
                    sum_spent := sum_spent - had_likelies[r];
                ELSE
                    sum_held := sum_held - had_nanos[r];
                END IF;
                more := greatest(more, had_nanos[r]);
            END IF;
            IF sum_spent + sum_held + more > limits[r] THEN
                verdicts[s] := part_places[r] - part_places[low];
                short_spents[s] := sum_spent;
                short_helds[s] := sum_held;
                EXIT;
            END IF;
        END LOOP;
        CONTINUE WHEN verdicts[s] IS NOT NULL;

        FOR r IN low .. high LOOP
            k := part_keys[r];
            -- One that has lapsed is open again with what is named now, and nothing besides.
            IF nanos[r] IS NOT NULL OR NOT lapsed THEN
                new_nanos[r] := greatest(nanos[r], had_nanos[r]);  -- NULL counts for nothing
                new_likelies[r] := greatest(likelies[r], had_likelies[r], 0);
            END IF;
            more := coalesce(new_nanos[r], 0);
            IF had_nanos[r] IS NOT NULL THEN
                IF states[s] = 1 THEN
                    spents[k] := spents[k] - had_likelies[r];
                ELSE
                    more := more - had_nanos[r];
                END IF;
            END IF;
            helds[k] := helds[k] + more;
            IF new_nanos[r] > coalesce(had_nanos[r], 0) THEN
                changes[k] := this_time;
            ELSIF more <> 0 OR lapsed THEN
                changes[k] := coalesce(changes[k], 0);
            END IF;
        END LOOP;
        verdicts[s] := -1;
        states[s] := 0;
    END LOOP;

    -- Of each step that was done now: those that were settled before have had their verdict from the beginning.
    FOR s IN 1 .. steps LOOP
        states[s] := CASE
            WHEN verdicts[s] <> -1 OR states[s] = 2 THEN NULL WHEN p_marks[s] IS NULL THEN 0 ELSE 2
        END;
    END LOOP;
    INSERT INTO holds AS h (ledger, hold, state, until, accounts, periods, nanos, likelies, mark)
    SELECT
        p_ledger, p_holds[w.step], states[w.step], this_time + coalesce(p_leases[w.step], 0),
        coalesce(array_agg(w.account) FILTER (WHERE w.nano IS NOT NULL), '{}'),
        coalesce(array_agg(w.period) FILTER (WHERE w.nano IS NOT NULL), '{}'),
        coalesce(array_agg(w.nano) FILTER (WHERE w.nano IS NOT NULL), '{}'),
        coalesce(array_agg(w.likely) FILTER (WHERE w.nano IS NOT NULL), '{}'),
        p_marks[w.step]
    FROM (
        SELECT a.step::integer, NULL::text AS account, NULL::bigint AS period, NULL::bigint AS nano,
            NULL::bigint AS likely
        FROM unnest(states) WITH ORDINALITY AS a (state, step) WHERE a.state IS NOT NULL
        UNION ALL
        SELECT p.* FROM unnest(part_steps, part_accounts, part_periods, new_nanos, new_likelies)
            AS p (step, account, period, nano, likely)
        WHERE p.nano IS NOT NULL
    ) AS w
    GROUP BY w.step
    ON CONFLICT (ledger, hold) DO UPDATE SET
        state = excluded.state, until = excluded.until, accounts = excluded.accounts,
        periods = excluded.periods, nanos = excluded.nanos, likelies = excluded.likelies, mark = excluded.mark;
    IF NOT FOUND THEN
        PERFORM set_config('synchronous_commit', 'off', true);  -- nothing changed that could be lost
    END IF;
    INSERT INTO balances AS b (ledger, account, period, spent, held, touched)
    SELECT p_ledger, w.account, w.period, w.spent, w.held, w.touched
    FROM unnest(accounts, periods, spents, helds, changes) AS w (account, period, spent, held, touched)
    WHERE w.touched IS NOT NULL
    ON CONFLICT (ledger, account, period) DO UPDATE SET
        spent = excluded.spent, held = excluded.held, touched = greatest(b.touched, excluded.touched);
    IF p_rows IS NOT NULL THEN
        INSERT INTO journal
        SELECT r.*
        FROM unnest(p_rows, states) WITH ORDINALITY AS w (lines, state, step)
        CROSS JOIN LATERAL json_populate_recordset(NULL::journal, w.lines) AS r
        WHERE w.state = 2 ORDER BY r.id COLLATE "C", w.step
        ON CONFLICT (ledger, id) DO NOTHING;
    END IF;
    RETURN QUERY SELECT * FROM unnest(verdicts, short_spents, short_helds);
END $$;
