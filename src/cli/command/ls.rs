//! `holdall ls`.

use super::Filter;
use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended, Failure};
use crate::cli::parse;
use crate::cli::render;
use crate::connector::files::Attributes;
use crate::connector::postgres::{self, key::Place, record::How, record::ReportLine};
use crate::error::{Error, ErrorKind, escape};
use crate::ops;
use crate::snapshot::entry::{EntryKind, EntryRecord, Key};
use crate::snapshot::{SnapshotReader, SnapshotSpec};
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Write;

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall ls latest\n  \
    holdall ls latest:/srv/shop/uploads -l\n  \
    holdall ls 3f1c:/etc --recursive\n\n\
    A snapshot is a prefix of its id, latest, latest:PROJECT, or one of them with ~N for the N-th before it. With --json, a path that \
    is not UTF-8 comes with its bytes in hex, as path_bytes.")]
pub(in crate::cli) struct Args {
    /// The snapshot, and with :PATH a place in it
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = parse::snapshot())]
    snapshot: SnapshotSpec,
    /// The place in it, if it is not given with the snapshot
    #[arg(value_name = "PATH")]
    path: Option<OsString>,
    /// Show mode, owner, size and time; of tables rows, size and what of them was read
    #[arg(short, long)]
    long: bool,
    /// Show all that lies below
    #[arg(long)]
    recursive: bool,
    /// Only what is in this database of the snapshot
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    #[command(flatten)]
    filter: Filter,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let path = place(&args.snapshot, args.path.as_deref())?;
    let snapshot = super::open_snapshot(app, &args.snapshot, &args.filter).await?;
    let mut records = ops::ls(&snapshot, path, args.database.as_deref(), args.recursive).await?;
    let tables = Tables::read(&snapshot).await?;
    let mut out = render::lines();
    if app.json() {
        let record = snapshot.record();
        let head = json!({
            "message_type": "snapshot",
            "struct_type": "snapshot",
            "id": record.sid.name(),
            "short_id": record.sid.short(),
            "time": record.started.to_rfc3339(),
            "hostname": record.host,
            "tags": record.tags,
        });
        writeln!(out, "{head}").map_err(Failure::of_content)?;
    }
    while let Some(record) = records.try_next().await? {
        app.context.check_cancelled()?;
        if app.json() {
            writeln!(out, "{}", node(&record, &tables)).map_err(Failure::of_content)?;
        } else if args.long {
            writeln!(out, "{}", long(&record, &tables)).map_err(Failure::of_content)?;
        } else {
            writeln!(out, "{}", short(&record, &tables)).map_err(Failure::of_content)?;
        }
    }
    out.flush().map_err(Failure::of_content)?;
    Ok(DONE)
}

/// The path of a command: behind the snapshot's colon, or on its own.
///
/// # Errors
/// `Invalid` if it is given twice.
pub(super) fn place<'a>(spec: &'a SnapshotSpec, path: Option<&'a OsStr>) -> Result<Option<&'a OsStr>, Error> {
    match (spec.path.as_deref(), path) {
        (Some(_), Some(_)) => Err(Error::new(ErrorKind::Invalid, "the path is given twice")),
        (behind, own) => Ok(behind.or(own)),
    }
}

/// What a snapshot says of the tables of its databases.
struct Tables(HashMap<Key, ReportLine>);

impl Tables {
    async fn read(snapshot: &SnapshotReader) -> Result<Self, Error> {
        let mut all = HashMap::new();
        for database in ops::databases(snapshot).await? {
            for line in ops::tables(snapshot, &database).await? {
                let place = Place::Table(line.table.clone());
                all.insert(postgres::key::key(&database, &place), line);
            }
        }
        Ok(Self(all))
    }

    fn of(&self, key: &Key) -> Option<&ReportLine> {
        self.0.get(key)
    }
}

/// The name alone; of a table also what is in it.
fn short(record: &EntryRecord, tables: &Tables) -> String {
    let name = ops::name_of(&record.key);
    match tables.of(&record.key) {
        Some(line) => format!(
            "{name}  {}, {}",
            render::count(line.rows, "row"),
            render::bytes(line.bytes)
        ),
        None => name,
    }
}

fn type_letter(kind: EntryKind) -> char {
    match kind {
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
        EntryKind::Socket => 's',
        _ => '-',
    }
}

/// `rwxr-x--x`, with the special bits where `ls` shows them.
fn permissions(mode: u32) -> String {
    let mut text = String::with_capacity(9);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// How the snapshot came to the rows of a table.
fn how(line: &ReportLine) -> String {
    match line.how {
        How::Full => "read in full".to_owned(),
        How::Changes => format!("read {} of {} ranges", line.ranges_read, line.ranges),
        How::TakenOver => "taken over".to_owned(),
    }
}

fn long(record: &EntryRecord, tables: &Tables) -> String {
    let name = ops::name_of(&record.key);
    let attributes = Attributes::from_metadata(&record.metadata).ok();
    let Some(attributes) =
        attributes.filter(|_| record.key.starts_with(&crate::connector::files::PREFIX.into()))
    else {
        let (rows, size) = match tables.of(&record.key) {
            Some(line) => (render::count(line.rows, "row"), line.bytes),
            None => (String::new(), record.size),
        };
        return format!(
            "{:12} {rows:>15} {:>10} {:24} {name}",
            record.kind.word(),
            render::bytes(size),
            tables.of(&record.key).map(how).unwrap_or_default(),
        );
    };
    let owner = |name: &Option<String>, id: u32| name.clone().unwrap_or_else(|| id.to_string());
    let target = attributes
        .target
        .as_ref()
        .map(|t| format!(" -> {}", escape(&String::from_utf8_lossy(t))));
    let first = attributes
        .first
        .as_ref()
        .map(|(first, _)| format!(" (same file as {})", ops::name_of(first)));
    format!(
        "{}{} {:>8} {:>8} {:>10} {:24} {name}{}{}",
        type_letter(record.kind),
        permissions(attributes.mode),
        escape(&owner(&attributes.user, attributes.uid)),
        escape(&owner(&attributes.group, attributes.gid)),
        render::bytes(record.size),
        render::local_time(attributes.mtime),
        target.unwrap_or_default(),
        first.unwrap_or_default(),
    )
}

/// Adds the bytes of what is not UTF-8 as lower-case hex: a program cannot get them back from the text.
pub(super) fn insert_bytes(value: &mut Value, name: &str, bytes: &[u8]) {
    if let (Err(_), Some(object)) = (std::str::from_utf8(bytes), value.as_object_mut()) {
        object.insert(name.into(), crate::format::id::hex(bytes).into());
    }
}

fn node(record: &EntryRecord, tables: &Tables) -> Value {
    let path = ops::name_of(&record.key);
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(&path);
    let mut value = json!({
        "message_type": "node",
        "struct_type": "node",
        "name": name,
        "type": record.kind.word(),
        "path": path,
        "size": record.size,
    });
    if let (Some((database, place)), Some(object)) =
        (postgres::key::parse(&record.key), value.as_object_mut())
    {
        object.insert("name".into(), path.clone().into());
        object.insert("database".into(), String::from_utf8_lossy(&database).into());
        if let Place::Table(table) = place {
            object.insert("schema".into(), String::from_utf8_lossy(&table.schema).into());
            object.insert("table".into(), String::from_utf8_lossy(&table.table).into());
        }
        if let Some(line) = tables.of(&record.key) {
            object.insert("rows".into(), line.rows.into());
            object.insert("size".into(), line.bytes.into());
            object.insert("ranges".into(), line.ranges.into());
            object.insert("ranges_read".into(), line.ranges_read.into());
            let read = match line.how {
                How::Full => "full",
                How::Changes => "changes",
                How::TakenOver => "taken over",
            };
            object.insert("read".into(), read.into());
            object.insert("why".into(), line.why.clone().into());
        }
        return value;
    }
    insert_bytes(&mut value, "path_bytes", ops::path_of(&record.key));
    let files = record.key.starts_with(&crate::connector::files::PREFIX.into());
    if let (true, Ok(a), Some(object)) = (
        files,
        Attributes::from_metadata(&record.metadata),
        value.as_object_mut(),
    ) {
        object.insert("uid".into(), a.uid.into());
        object.insert("gid".into(), a.gid.into());
        object.insert("user".into(), a.user.into());
        object.insert("group".into(), a.group.into());
        object.insert("mode".into(), a.mode.into());
        object.insert(
            "permissions".into(),
            format!("{}{}", type_letter(record.kind), permissions(a.mode)).into(),
        );
        object.insert("mtime".into(), a.mtime.to_rfc3339().into());
        if let Some(target) = a.target {
            object.insert(
                "linktarget".into(),
                String::from_utf8_lossy(&target).into_owned().into(),
            );
            insert_bytes(&mut value, "linktarget_bytes", &target);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_as_ls_shows_them() {
        for (mode, text) in [
            (0o755, "rwxr-xr-x"),
            (0o4711, "rws--x--x"),
            (0o2644, "rw-r-Sr--"),
            (0o1777, "rwxrwxrwt"),
            (0o1000, "--------T"),
        ] {
            assert_eq!(permissions(mode), text, "{mode:o}");
        }
    }
}
