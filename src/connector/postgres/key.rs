//! Keys of the entries of databases (`format-spec/61-keys-of-entries.md`): what a key names, and back.

use crate::snapshot::entry::Key;

/// The first component of every key of this connector.
pub const SPACE: &[u8] = b"database/";

/// What an entry of a database is, by its key. The order is that of the keys, which is the order of a restore.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The database itself; the group entry of everything below it.
    Database,
    /// Roles, and settings of roles and of the database.
    Globals,
    /// Statements before the data.
    Schema,
    /// A table; the group entry of its segments.
    Table(TableName),
    /// Rows of a table.
    Segment(TableName, Segment),
    /// A large object, by its oid.
    LargeObject(u32),
    /// Values of sequences.
    Sequences,
    /// Statements after the data.
    Constraints,
    /// Materialized views to fill.
    Refresh,
    /// What was read of each table.
    Report,
}

/// The name of a table, as the server's bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Its schema.
    pub schema: Vec<u8>,
    /// Its own name.
    pub table: Vec<u8>,
}

/// Which rows of a table: a range of heap blocks, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// The first block of the range.
    pub block: u64,
    /// The part of the range: 0 has the key of the range.
    pub part: u32,
}

/// The beginning of the keys of everything in the database `name`, and the key of its own entry.
pub fn database(name: &[u8]) -> Key {
    let mut key = SPACE.to_vec();
    key.extend_from_slice(name);
    key.push(0);
    Key::new(key)
}

/// The key of `place` in the database `name`.
pub fn key(name: &[u8], place: &Place) -> Key {
    let mut key = database(name).as_bytes().to_vec();
    match place {
        Place::Database => {}
        Place::Globals => key.extend(b"0-globals"),
        Place::Schema => key.extend(b"1-schema"),
        Place::Table(table) => table.append(&mut key),
        Place::Segment(table, segment) => {
            table.append(&mut key);
            key.extend(segment.block.to_be_bytes());
            if segment.part > 0 {
                key.extend(segment.part.to_be_bytes());
            }
        }
        Place::LargeObject(oid) => {
            key.extend(b"3-large-objects/");
            key.extend(oid.to_be_bytes());
        }
        Place::Sequences => key.extend(b"4-sequences"),
        Place::Constraints => key.extend(b"5-constraints"),
        Place::Refresh => key.extend(b"6-refresh"),
        Place::Report => key.extend(b"7-tables"),
    }
    Key::new(key)
}

/// The database that a key lies in and what it names; nothing if it is no key of this connector, or of a later version's grammar.
pub fn parse(key: &Key) -> Option<(Vec<u8>, Place)> {
    let rest = key.as_bytes().strip_prefix(SPACE)?;
    let (name, rest) = until_nul(rest)?;
    let place = match rest {
        b"" => Place::Database,
        b"0-globals" => Place::Globals,
        b"1-schema" => Place::Schema,
        b"4-sequences" => Place::Sequences,
        b"5-constraints" => Place::Constraints,
        b"6-refresh" => Place::Refresh,
        b"7-tables" => Place::Report,
        _ => match rest.strip_prefix(b"3-large-objects/") {
            Some(oid) => Place::LargeObject(u32::from_be_bytes(oid.try_into().ok()?)),
            None => parse_table(rest.strip_prefix(b"2-data/")?)?,
        },
    };
    Some((name.to_vec(), place))
}

fn parse_table(rest: &[u8]) -> Option<Place> {
    let (schema, rest) = until_nul(rest)?;
    let (table, rest) = until_nul(rest)?;
    let name = TableName {
        schema: schema.to_vec(),
        table: table.to_vec(),
    };
    if rest.is_empty() {
        return Some(Place::Table(name));
    }
    let (block, part) = rest.split_first_chunk::<8>()?;
    let part = match part {
        [] => 0,
        // Part 0 has the key of the range: written out, it would be a second key for it.
        part => u32::from_be_bytes(part.try_into().ok()?).checked_sub(1)? + 1,
    };
    let block = u64::from_be_bytes(*block);
    Some(Place::Segment(name, Segment { block, part }))
}

fn until_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

impl TableName {
    /// A name of text.
    pub fn new(schema: &str, table: &str) -> Self {
        Self {
            schema: schema.as_bytes().to_vec(),
            table: table.as_bytes().to_vec(),
        }
    }

    fn append(&self, key: &mut Vec<u8>) {
        key.extend(b"2-data/");
        for name in [&self.schema, &self.table] {
            key.extend_from_slice(name);
            key.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_what_they_were_made_of_and_sort_as_a_restore_goes() {
        let orders = TableName::new("public", "orders");
        let dotted = TableName::new("public", "orders.old");
        let segment = |block, part| Segment { block, part };
        let places = [
            Place::Database,
            Place::Globals,
            Place::Schema,
            Place::Table(orders.clone()),
            Place::Segment(orders.clone(), segment(0, 0)),
            Place::Segment(orders.clone(), segment(0, 1)),
            Place::Segment(orders.clone(), segment(0, 256)),
            Place::Segment(orders, segment(16, 0)),
            Place::Table(dotted),
            Place::LargeObject(7),
            Place::LargeObject(16_384),
            Place::Sequences,
            Place::Constraints,
            Place::Refresh,
            Place::Report,
        ];
        let keys: Vec<Key> = places.iter().map(|place| key(b"shop", place)).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{keys:?}");
        for (key, place) in keys.iter().zip(&places) {
            assert_eq!(parse(key), Some((b"shop".to_vec(), place.clone())));
        }
    }

    #[test]
    fn what_no_place_has_is_no_key() {
        let strange: [&[u8]; 5] = [
            b"files/a",
            b"database/shop",
            b"database/shop\x008-new",
            b"database/shop\x002-data/public\0t\0\0\0\0\0\0\0\0",
            b"database/shop\x002-data/public\0t\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ];
        for key in strange {
            assert_eq!(parse(&Key::new(key.to_vec())), None, "{key:?}");
        }
    }
}
