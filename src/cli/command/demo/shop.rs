//! What the demo keeps: the tables of a shop and its directory of uploads, the same on every machine, and a day of changes to both.

use crate::error::{Error, ErrorKind, Result};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// More than 200 MB of tables and indexes.
pub(super) const TABLES: &str = "
CREATE TABLE customers (id bigint PRIMARY KEY, email text UNIQUE NOT NULL, name text NOT NULL, address jsonb NOT NULL, created_at timestamptz NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, status text NOT NULL, total numeric(10,2) NOT NULL, details jsonb NOT NULL, created_at timestamptz NOT NULL);
CREATE TABLE events (id bigint PRIMARY KEY, customer_id bigint NOT NULL, kind text NOT NULL, session uuid NOT NULL, url text NOT NULL, at timestamptz NOT NULL);
CREATE TABLE messages (id bigint PRIMARY KEY, order_id bigint NOT NULL, author text NOT NULL, body text NOT NULL, sent_at timestamptz NOT NULL);

CREATE FUNCTION words(seed bigint, n int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT string_agg((string_to_array('the order parcel arrived today with our thanks please return refund blue large lamp chair table is was not yet paid sent broken new price invoice number address street city door box label week monday friday hello regards team customer service help soon late early again missing part color size photo attached', ' '))[1 + abs(hashint8(seed * 131 + i)) % 52], ' ') FROM generate_series(1, n) i $$;

CREATE FUNCTION add_customers(a bigint, b bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO customers SELECT i, 'user' || i || '@' || (ARRAY['example.com','mail.example','post.example'])[1 + i % 3], initcap(words(i, 2)),
    jsonb_build_object('street', initcap(words(i * 7, 2)), 'no', abs(hashint8(i)) % 200, 'zip', 10000 + abs(hashint8(i * 3)) % 89999, 'country', (ARRAY['DE','FR','IT','ES','PL'])[1 + i % 5]),
    '2024-01-01'::timestamptz + i * interval '7 minutes' FROM generate_series(a, b) i $$;
CREATE FUNCTION add_orders(a bigint, b bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO orders SELECT i, 1 + abs(hashint8(i)) % 50000, (ARRAY['open','paid','sent','done'])[1 + abs(hashint8(i * 5)) % 4], (abs(hashint8(i * 11)) % 100000) / 100.0,
    jsonb_build_object('items', jsonb_build_array(jsonb_build_object('sku', 'SKU-' || abs(hashint8(i * 13)) % 5000, 'qty', 1 + i % 4), jsonb_build_object('sku', 'SKU-' || abs(hashint8(i * 17)) % 5000, 'qty', 1 + i % 2)), 'note', words(i * 19, 6), 'ref', md5(i::text)),
    '2024-06-01'::timestamptz + i * interval '2 minutes' FROM generate_series(a, b) i $$;
CREATE FUNCTION add_events(a bigint, b bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO events SELECT i, 1 + abs(hashint8(i * 3)) % 50000, (ARRAY['view','view','view','search','cart','login'])[1 + abs(hashint8(i)) % 6], md5('s' || i / 9)::uuid,
    '/product/' || abs(hashint8(i * 7)) % 5000 || '?ref=' || i % 17, '2025-01-01'::timestamptz + i * interval '20 seconds' FROM generate_series(a, b) i $$;
CREATE FUNCTION add_messages(a bigint, b bigint) RETURNS void LANGUAGE sql AS $$
  INSERT INTO messages SELECT i, 1 + abs(hashint8(i * 23)) % 200000, CASE WHEN i % 2 = 0 THEN 'customer' ELSE 'team' END, words(i * 29, 40), '2025-01-01'::timestamptz + i * interval '5 minutes' FROM generate_series(a, b) i $$;

SELECT add_customers(1, 50000), add_orders(1, 230000), add_events(1, 600000), add_messages(1, 60000);

CREATE INDEX ON orders (customer_id);
CREATE INDEX ON orders USING gin (details jsonb_path_ops);
CREATE INDEX ON events (customer_id, at);
CREATE INDEX ON messages (order_id);
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers;
CREATE VIEW open_orders AS SELECT o.id, c.email, o.total FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.status = 'open';
";

/// The size of the database in bytes.
pub(super) const SIZE: &str = "SELECT pg_database_size('shop')";

/// A day: the newest orders move on, a few customers change, and there is more of everything.
pub(super) const DAY: &str = "
UPDATE orders SET status = 'done', details = details || '{\"shipped\": true}' WHERE id > 229000;
UPDATE customers SET address = address || '{\"checked\": \"today\"}' WHERE id % 997 = 0;
DELETE FROM messages WHERE id % 5003 = 0;
SELECT add_customers(50001, 50100), add_orders(230001, 230600), add_events(600001, 603000), add_messages(60001, 60300);
";

/// Files of uploads.
const FILES: u32 = 120;

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Source, "cannot write the demo's uploads").because(error)
}

/// Writes `len` bytes that follow from `seed`, as incompressible as photographs.
fn photo(path: &Path, seed: u32, len: u64) -> Result<()> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut file = std::fs::File::create(path).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        let Some(part) = buffer.get_mut(..part) else { break };
        reader.fill(part);
        file.write_all(part).map_err(failed)?;
        left -= part.len() as u64;
    }
    Ok(())
}

/// Makes the directory of uploads: photographs, texts, a link, and what this machine has under `/usr/share/doc`, as far as it goes.
///
/// # Errors
/// `Source` if it cannot be written.
pub(super) fn make_uploads(directory: &Path) -> Result<()> {
    for n in 0..FILES {
        let album = directory.join(format!("photos/{:02}", n % 8));
        std::fs::create_dir_all(&album).map_err(failed)?;
        photo(
            &album.join(format!("{n:03}.jpg")),
            n,
            150_000 + u64::from(n) * 2_000,
        )?;
    }
    std::os::unix::fs::symlink("photos/00/000.jpg", directory.join("cover.jpg")).map_err(failed)?;
    let secret = directory.join("contracts.txt");
    std::fs::write(&secret, "Signed on paper; see the third shelf.\n".repeat(400)).map_err(failed)?;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let mut left = 20 << 20;
    copy_some(Path::new("/usr/share/doc"), &directory.join("manuals"), &mut left)
}

/// Copies regular files until `left` bytes are used up. What cannot be read is left out: only a supply of real files is wanted.
fn copy_some(from: &Path, to: &Path, left: &mut u64) -> Result<()> {
    std::fs::create_dir_all(to).map_err(failed)?;
    let Ok(entries) = std::fs::read_dir(from) else {
        return Ok(());
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if *left == 0 {
            return Ok(());
        }
        let (Ok(kind), target) = (entry.file_type(), to.join(entry.file_name())) else {
            continue;
        };
        if kind.is_dir() {
            copy_some(&entry.path(), &target, left)?;
        } else if kind.is_file()
            && let Ok(bytes) = std::fs::read(entry.path())
        {
            std::fs::write(&target, &bytes).map_err(failed)?;
            *left = left.saturating_sub(bytes.len() as u64);
        }
    }
    Ok(())
}

/// A day in the uploads: new photographs, one edited, one gone, one renamed, another mode, a longer text.
///
/// # Errors
/// `Source` if a file cannot be changed.
pub(super) fn change_uploads(directory: &Path) -> Result<()> {
    for n in 0..3 {
        photo(
            &directory.join(format!("photos/00/new-{n}.jpg")),
            9000 + n,
            300_000,
        )?;
    }
    photo(&directory.join("photos/01/001.jpg"), 7777, 160_000)?;
    std::fs::remove_file(directory.join("photos/02/002.jpg")).map_err(failed)?;
    let renamed = directory.join("photos/03/renamed.jpg");
    std::fs::rename(directory.join("photos/03/003.jpg"), renamed).map_err(failed)?;
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(directory.join("photos/04/004.jpg"), mode).map_err(failed)?;
    let mut text = std::fs::OpenOptions::new()
        .append(true)
        .open(directory.join("contracts.txt"))
        .map_err(failed)?;
    text.write_all(b"And one more, signed today.\n").map_err(failed)
}
