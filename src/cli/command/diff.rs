//! `holdall diff`.

use super::Filter;
use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended, Failure};
use crate::cli::parse;
use crate::cli::render;
use crate::cli::repo::{self, Access};
use crate::error::{Error, ErrorKind};
use crate::ops::{self, DiffLine, DiffSide, Difference};
use crate::snapshot::SnapshotSpec;
use crate::snapshot::entry::EntryKind;
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::io::Write;

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall diff latest~1 latest\n  \
    holdall diff 3f1c 4f2a:/srv/shop/uploads\n  \
    holdall diff latest~7 latest:public.orders --metadata\n\n\
    + is in the second snapshot only, - in the first only; M differs in content, T is something else now, U differs only in times, \
    owners or columns. Rows are counted by table.")]
pub(in crate::cli) struct Args {
    /// The snapshot before
    #[arg(value_name = "SNAPSHOT", value_parser = parse::snapshot())]
    before: SnapshotSpec,
    /// The snapshot after, and with :PATH a place in both
    #[arg(value_name = "SNAPSHOT[:PATH]", value_parser = parse::snapshot())]
    after: SnapshotSpec,
    /// Also show entries whose content is the same
    #[arg(long)]
    metadata: bool,
    /// The database of the place, if several have it
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    #[command(flatten)]
    filter: Filter,
}

/// What was counted.
#[derive(Default)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
    metadata: u64,
    added_bytes: u64,
    removed_bytes: u64,
    added_rows: u64,
    removed_rows: u64,
    tables: u64,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let path = match (&args.before.path, &args.after.path) {
        (None, path) | (path, None) => path.as_deref(),
        (before, after) if before == after => after.as_deref(),
        _ => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "two paths are given, and one place is compared",
            )
            .hint("name it once: holdall diff BEFORE AFTER:PATH")
            .into());
        }
    };
    let repository = repo::open(app, Access::ReadOnly).await?;
    let filter = args.filter.to_filter();
    let before = ops::open_snapshot(&app.context, &repository, &args.before, &filter).await?;
    let after = ops::open_snapshot(&app.context, &repository, &args.after, &filter).await?;
    let mut lines = ops::diff(&before, &after, path, args.database.as_deref()).await?;
    let mut counts = Counts::default();
    let mut out = render::lines();
    while let Some(line) = lines.try_next().await? {
        app.context.check_cancelled()?;
        counts.add(&line);
        if line.difference == Difference::Metadata && !args.metadata {
            continue;
        }
        if app.json() {
            writeln!(out, "{}", value(&line)).map_err(Failure::of_content)?;
        } else {
            writeln!(out, "{}", text(&line)).map_err(Failure::of_content)?;
        }
    }
    let (from, to) = (before.record().sid, after.record().sid);
    if app.json() {
        let summary = counts.value(&from.name(), &to.name());
        writeln!(out, "{summary}").map_err(Failure::of_content)?;
    } else {
        let text = counts.text();
        writeln!(out, "\n{} to {}: {text}", from.short(), to.short()).map_err(Failure::of_content)?;
    }
    out.flush().map_err(Failure::of_content)?;
    Ok(DONE)
}

fn modifier(difference: Difference) -> char {
    match difference {
        Difference::Added => '+',
        Difference::Removed => '-',
        Difference::Content => 'M',
        Difference::Kind => 'T',
        Difference::Metadata => 'U',
    }
}

fn name(line: &DiffLine) -> String {
    line.key().map(ops::name_of).unwrap_or_default()
}

fn rows(side: Option<&DiffSide>) -> Option<u64> {
    side.and_then(|side| side.rows)
}

/// `M    public.orders  1,000 rows to 1,010`.
fn text(line: &DiffLine) -> String {
    let mut text = format!("{}    {}", modifier(line.difference), name(line));
    match (rows(line.before.as_ref()), rows(line.after.as_ref())) {
        (Some(before), Some(after)) if before == after => {
            text.push_str(&format!("  {}, as before", render::count(after, "row")));
        }
        (Some(before), Some(after)) => {
            text.push_str(&format!("  {before} to {}", render::count(after, "row")));
        }
        (Some(rows), None) | (None, Some(rows)) => {
            text.push_str(&format!("  {}", render::count(rows, "row")));
        }
        (None, None) => {}
    }
    text
}

fn value(line: &DiffLine) -> Value {
    let mut value = json!({
        "message_type": "change",
        "path": name(line),
        "modifier": modifier(line.difference).to_string(),
    });
    let sides = [("before", &line.before), ("after", &line.after)];
    if let Some(object) = value.as_object_mut() {
        for (name, side) in sides {
            if let Some(side) = side {
                let mut told = json!({ "type": side.kind.word(), "size": side.bytes });
                if let (Some(rows), Some(told)) = (side.rows, told.as_object_mut()) {
                    told.insert("rows".into(), rows.into());
                }
                object.insert(name.into(), told);
            }
        }
    }
    if let Some(key) = line.key().filter(|_| line.kind() != Some(EntryKind::Table)) {
        super::ls::insert_bytes(&mut value, "path_bytes", ops::path_of(key));
    }
    value
}

impl Counts {
    fn add(&mut self, line: &DiffLine) {
        match line.difference {
            Difference::Added => self.added += 1,
            Difference::Removed => self.removed += 1,
            Difference::Metadata => self.metadata += 1,
            Difference::Content | Difference::Kind => self.changed += 1,
        }
        if line.difference == Difference::Metadata {
            return;
        }
        let bytes = |side: &Option<DiffSide>| side.as_ref().map_or(0, |side| side.bytes);
        self.removed_bytes += bytes(&line.before);
        self.added_bytes += bytes(&line.after);
        let before = rows(line.before.as_ref()).unwrap_or(0);
        let after = rows(line.after.as_ref()).unwrap_or(0);
        self.added_rows += after.saturating_sub(before);
        self.removed_rows += before.saturating_sub(after);
        self.tables += u64::from(line.kind() == Some(EntryKind::Table));
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} added, {} removed, {} changed",
            self.added, self.removed, self.changed
        );
        if self.metadata > 0 {
            text.push_str(&format!(", {} in metadata only", self.metadata));
        }
        text.push_str(&format!(
            "; {} before, {} after",
            render::bytes(self.removed_bytes),
            render::bytes(self.added_bytes)
        ));
        if self.tables > 0 {
            text.push_str(&format!(
                "; {} differ, rows +{} -{}",
                render::count(self.tables, "table"),
                self.added_rows,
                self.removed_rows
            ));
        }
        text
    }

    fn value(&self, from: &str, to: &str) -> Value {
        json!({
            "message_type": "statistics",
            "source_snapshot": from,
            "target_snapshot": to,
            "added": { "entries": self.added, "bytes": self.added_bytes, "rows": self.added_rows },
            "removed": { "entries": self.removed, "bytes": self.removed_bytes, "rows": self.removed_rows },
            "changed_entries": self.changed,
            "changed_metadata": self.metadata,
            "tables_different": self.tables,
        })
    }
}
