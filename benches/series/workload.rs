//! The database of the series: what `pgbench` makes, and a shop whose rows look like real ones; and what happens to it between two
//! snapshots.

use holdall::testkit::PostgresServer;

/// Rows of each table at full scale: with `pgbench -s 60` about 880 MB of text.
const TABLES: [(&str, u64); 4] = [
    ("customers", 150_000),
    ("orders", 500_000),
    ("events", 600_000),
    ("messages", 120_000),
];
const PGBENCH_SCALE: u64 = 60;

const SCHEMA: &str = "
CREATE TABLE customers (id bigint PRIMARY KEY, name text, email text, city text, created timestamptz, balance numeric, version int);
CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint, at timestamptz, status text, total numeric, body jsonb, version int);
CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz, kind text, payload jsonb, version int);
CREATE TABLE messages (id bigint PRIMARY KEY, author bigint, at timestamptz, body text, version int);
CREATE FUNCTION new_customers(a bigint, b bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO customers SELECT g, 'Customer ' || substr(md5(g::text), 1, 10), substr(md5((g * 3)::text), 1, 12) || '@example.com',
    (ARRAY['Berlin','Lagos','Lima','Osaka','Oslo'])[1 + g % 5], timestamptz '2026-01-01' + g * interval '7 s',
    (random() * 10000)::numeric(10, 2), 0 FROM generate_series(a, b) g $$;
CREATE FUNCTION line() RETURNS jsonb LANGUAGE sql VOLATILE AS $$
  SELECT jsonb_build_object('sku', 'sku-' || (random() * 9999)::int, 'count', (random() * 9)::int, 'price', (random() * 100)::numeric(8, 2)) $$;
CREATE FUNCTION new_orders(a bigint, b bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO orders SELECT g, (random() * 150000)::int, timestamptz '2026-01-01' + g * interval '31 s',
    (ARRAY['open','paid','sent','returned'])[1 + (random() * 3)::int], (random() * 1000)::numeric(10, 2),
    jsonb_build_object('lines', jsonb_build_array(line(), line()), 'ship', (ARRAY['express','parcel','pickup'])[1 + (random() * 2)::int],
      'note', CASE WHEN random() < 0.2 THEN md5(random()::text) END), 0 FROM generate_series(a, b) g $$;
CREATE FUNCTION new_events(a bigint, b bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO events SELECT g, timestamptz '2026-01-01' + g * interval '5 s', (ARRAY['view','click','cart','buy','search'])[1 + (random() * 4)::int],
    jsonb_build_object('session', md5((random() * 1e9)::text), 'page', '/product/' || (random() * 9999)::int,
      'ms', (random() * 3000)::int, 'visitor', (random() * 1e12)::bigint, 'agent', (ARRAY['Firefox','Chrome','Safari'])[1 + (random() * 2)::int]), 0 FROM generate_series(a, b) g $$;
CREATE FUNCTION new_messages(a bigint, b bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO messages SELECT g, (random() * 150000)::int, timestamptz '2026-01-01' + g * interval '61 s',
    (SELECT string_agg((ARRAY['the','order','please','when','delivery','thanks','invoice','address','tomorrow','refund','late','package',
      'where','hello','still','waiting','need','change','color','size'])[1 + (random() * 19)::int]
      || CASE WHEN w % 6 = 0 THEN substr(md5(random()::text), 1, 5) ELSE '' END, ' ') FROM generate_series(1, 40 + (g % 40)::int) w),
    0 FROM generate_series(a, b) g $$;
";

const UPDATES: &str = "
UPDATE customers SET version = version + 1, balance = (random() * 10000)::numeric(10, 2) WHERE random() < 0.01;
UPDATE orders SET version = version + 1, status = 'changed', total = (random() * 1000)::numeric(10, 2) WHERE random() < 0.01;
UPDATE events SET version = version + 1 WHERE random() < 0.01;
UPDATE messages SET version = version + 1, body = body || ' edited' WHERE random() < 0.01;
UPDATE pgbench_accounts SET abalance = (random() * 1e6)::int WHERE random() < 0.01;
INSERT INTO pgbench_accounts SELECT g, g % 60 + 1, 0, '' FROM
  generate_series((SELECT max(aid) + 1 FROM pgbench_accounts), (SELECT max(aid) + count(*) / 100 FROM pgbench_accounts)) g;
";

/// Makes the database `shop` at so many hundredths of the full size. The same each time but for what `pgbench` draws.
pub(crate) fn create(server: &PostgresServer, percent: u64) {
    server.psql("postgres", "CREATE DATABASE shop").unwrap();
    let (port, scale) = (
        server.port().to_string(),
        (PGBENCH_SCALE * percent / 100).max(1).to_string(),
    );
    let made = std::process::Command::new(server.programs().join("pgbench"))
        .args([
            "-i",
            "-q",
            "-s",
            &scale,
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "shop",
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    server.psql("shop", SCHEMA).unwrap();
    let rows = TABLES.map(|(table, rows)| format!("SELECT new_{table}(1, {});", rows * percent / 100));
    server
        .psql("shop", &format!("SELECT setseed(0.5); {}", rows.concat()))
        .unwrap();
    server.psql("shop", "VACUUM (ANALYZE)").unwrap();
}

/// A hundredth of the rows of each table is updated at random, a hundredth is new.
pub(crate) fn change(server: &PostgresServer, round: usize) {
    let inserts = TABLES.map(|(table, _)| {
        format!("SELECT new_{table}((SELECT max(id) + 1 FROM {table}), (SELECT max(id) + count(*) / 100 FROM {table}));")
    });
    let seed = f64::from(u32::try_from(round).unwrap()) / 1000.0;
    server
        .psql(
            "shop",
            &format!("SELECT setseed({seed}); {UPDATES} {}", inserts.concat()),
        )
        .unwrap();
    server.psql("shop", "VACUUM").unwrap();
}
