//! The tables, and how they change. Sizes are of the text that `COPY` gives.

/// A table of the workload.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) create: &'static str,
    /// Sets something that every row has.
    update: &'static str,
    /// `SELECT` of new rows, numbered from `n.id`.
    rows: &'static str,
}

impl Table {
    /// A change with the table's own words in it.
    pub(crate) fn statement(&self, change: &str) -> String {
        change
            .replace("{table}", self.name)
            .replace("{update}", self.update)
            .replace("{rows}", self.rows)
    }
}

/// What happens before each snapshot. Random updates come last: they leave hardly a range of blocks untouched.
pub(crate) const CHANGES: &[(&str, Option<&str>)] = &[
    ("first", None),
    ("unchanged", None),
    (
        "1 % appended",
        Some(
            "INSERT INTO {table} SELECT {rows} FROM (SELECT (SELECT max(id) FROM {table}) + g AS id \
             FROM generate_series(1, (SELECT count(*) / 100 FROM {table})) g) n",
        ),
    ),
    (
        "1 % clustered",
        Some(
            "UPDATE {table} SET {update} WHERE id BETWEEN (SELECT max(id) * 0.40 FROM {table}) \
             AND (SELECT max(id) * 0.41 FROM {table})",
        ),
    ),
    (
        "0.1 % random",
        Some("UPDATE {table} SET {update} WHERE id % 1000 = 3"),
    ),
    (
        "1 % random",
        Some("UPDATE {table} SET {update} WHERE id % 100 = 7"),
    ),
];

macro_rules! table {
    ($name:literal, $what:literal, $columns:literal, $count:literal, $update:literal, $rows:literal, $index:literal) => {
        Table {
            name: $name,
            what: $what,
            create: concat!(
                "CREATE TABLE ",
                $name,
                " (id bigint PRIMARY KEY, ",
                $columns,
                "); INSERT INTO ",
                $name,
                " SELECT ",
                $rows,
                " FROM generate_series(1::bigint, ",
                $count,
                ") n(id); ",
                $index
            ),
            update: $update,
            rows: $rows,
        }
    };
}

/// About 900 MB of text.
pub(crate) const TABLES: &[Table] = &[
    table!(
        "narrow",
        "2,000,000 rows of about 90 bytes",
        "account int, amount numeric, at timestamptz, note text",
        "2000000",
        "amount = amount + 1",
        "n.id, (n.id * 7919) % 50000, ((n.id * 104729) % 1000000)::numeric / 100, \
         timestamptz '2026-01-01' + n.id * interval '7 seconds', left(md5(n.id::text), 24)",
        "CREATE INDEX ON narrow (account)"
    ),
    table!(
        "wide",
        "300,000 rows of about 800 bytes",
        "hits int, a text, b text, c text, d text, e uuid, at timestamptz",
        "300000",
        "hits = hits + 1",
        "n.id, 0, repeat(md5(n.id::text), 7), repeat(md5((n.id + 1)::text), 7), repeat(md5((n.id * 3)::text), 8), \
         'city ' || n.id % 400, md5(n.id::text)::uuid, timestamptz '2026-01-01' + n.id * interval '1 minute'",
        "CREATE INDEX ON wide (at)"
    ),
    table!(
        "documents",
        "500,000 rows of jsonb",
        "version int, body jsonb",
        "500000",
        "version = version + 1",
        "n.id, 1, jsonb_build_object('id', n.id, 'status', (ARRAY['open','paid','sent'])[1 + n.id % 3], 'customer', md5((n.id % 9999)::text), \
         'lines', jsonb_build_array(jsonb_build_object('sku', md5((n.id % 777)::text), 'count', n.id % 9), \
         jsonb_build_object('sku', md5((n.id % 555)::text), 'count', n.id % 5)), 'total', (n.id * 31) % 100000)",
        "CREATE INDEX ON documents USING gin (body jsonb_path_ops)"
    ),
    table!(
        "articles",
        "40,000 rows of about 5 kB, out of line",
        "views int, body text",
        "40000",
        "views = views + 1",
        "n.id, 0, (SELECT string_agg(md5((n.id * 151 + g)::text), ' ') FROM generate_series(1, 150) g)",
        ""
    ),
    table!(
        "events",
        "1,000,000 rows of about 120 bytes",
        "kind text, at timestamptz, payload text",
        "1000000",
        "kind = 'seen'",
        "n.id, (ARRAY['click','view','buy'])[1 + n.id % 3], timestamptz '2026-01-01' + n.id * interval '3 seconds', \
         md5(n.id::text) || md5((n.id * 17)::text)",
        "CREATE INDEX ON events (at)"
    ),
];
