-- The vault, and the provider table.
-- Works with schema 5 and newer code.

CREATE TABLE vault (
    vault text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    master text NOT NULL,
    data_key bytea NOT NULL,
    secret bytea NOT NULL,
    created_at double precision NOT NULL,
    hint text NOT NULL,
    PRIMARY KEY (vault, tenant, provider, name)
);

-- People write here too, with INSERT and UPDATE: so there are defaults, and the revision rises by itself.
CREATE TABLE llm_providers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    registry text COLLATE "C" NOT NULL DEFAULT 'providers',
    name text COLLATE "C" NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    api_key_name text NOT NULL DEFAULT '',  -- in the vault; no key lies here, encrypted or not
    key_version integer NOT NULL DEFAULT 1,
    account_id text COLLATE "C",  -- NULL: of all accounts
    is_default boolean NOT NULL DEFAULT false,
    use_case text[] NOT NULL DEFAULT '{}',
    max_tokens bigint NOT NULL DEFAULT 4096,
    is_active boolean NOT NULL DEFAULT true,
    base_url text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (registry, name)
);

CREATE TABLE llm_providers_revision (
    registry text COLLATE "C" PRIMARY KEY,
    revision bigint NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION count_revision() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO llm_providers_revision AS r
    SELECT DISTINCT w.registry, 1 FROM (
        SELECT OLD.registry WHERE TG_OP <> 'INSERT'
        UNION SELECT NEW.registry WHERE TG_OP <> 'DELETE'
    ) AS w ORDER BY 1
    ON CONFLICT (registry) DO UPDATE SET revision = r.revision + 1;
    RETURN NULL;
END $$;

CREATE TRIGGER llm_providers_changed AFTER INSERT OR UPDATE OR DELETE ON llm_providers
    FOR EACH ROW EXECUTE FUNCTION count_revision();
