//! The story that the demo tells: each chapter says what happens, shows the command, and shows what came of it.

use super::children::Children;
use super::compare::{self, Listing};
use super::shop;
use crate::cli::app::App;
use crate::cli::render::{self, Table};
use crate::error::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// The server is named by PGHOST, as for every program of PostgreSQL.
const SNAPSHOT: [&str; 5] = ["snapshot", "postgres:///shop", "uploads", "--project", "shop"];

/// What things were like at one time.
struct Moment {
    dump: (blake3::Hash, u64),
    uploads: Listing,
}

/// The story.
pub(super) struct Story<'a> {
    app: &'a App,
    children: Children,
    place: PathBuf,
    uploads: PathBuf,
    began: Instant,
}

impl<'a> Story<'a> {
    /// A story that happens in `place`.
    pub(super) fn new(app: &'a App, children: Children, place: PathBuf) -> Self {
        Self {
            app,
            children,
            uploads: place.join("uploads"),
            place,
            began: Instant::now(),
        }
    }

    /// Tells it to its end.
    ///
    /// # Errors
    /// `Differs` if anything is not as it was, `Source` if a program fails, `Cancelled`.
    pub(super) async fn tell(self) -> Result<()> {
        self.title("A shop: a PostgreSQL database and a directory of uploads")?;
        self.say("A throwaway server was started; now its tables are filled. This takes a moment.")?;
        // The uploads first: what was written just before a snapshot is read again by the next, to be on the safe side.
        shop::make_uploads(&self.uploads)?;
        self.children
            .run(self.children.postgres("createdb", &["shop"]))
            .await?;
        self.sql(shop::TABLES).await?;
        let size = self
            .children
            .run(self.children.postgres("psql", &["-XAtc", shop::SIZE, "shop"]))
            .await?;
        let size = String::from_utf8_lossy(&size).trim().parse::<u64>().unwrap_or(0);
        let first = self.look().await?;
        let counted = format!(
            "Tables and indexes: {}; as text: {}; uploads: {}.",
            render::bytes(size),
            render::bytes(first.dump.1),
            render::count(first.uploads.len() as u64, "file"),
        );
        self.say(&counted)?;

        self.title("1. A new repository, opened by a key file; everything in it is encrypted")?;
        self.holdall(
            &["init", "--generate-key-file", "shop.key"],
            &["init", "--generate-key-file", "shop.key"],
        )
        .await?;

        self.title("2. The first snapshot: database and directory together, no temporary file is written")?;
        self.say(&format!(
            "$ export PGHOST={} PGUSER=postgres",
            self.children.socket().display()
        ))?;
        self.holdall(&SNAPSHOT, &SNAPSHOT).await?;

        self.title("3. A day passes: orders move on, customers write, photographs come and go")?;
        self.sql(shop::DAY).await?;
        shop::change_uploads(&self.uploads)?;
        let second = self.look().await?;
        self.say("600 new orders, 1,000 changed, 3,000 events; 3 new photographs, one edited, one deleted, one renamed.")?;

        self.title(
            "4. The second snapshot asks the server where rows changed, and reads and stores only that",
        )?;
        self.holdall(&SNAPSHOT, &SNAPSHOT).await?;
        self.holdall(&["ls", "latest", "--long"], &["ls", "latest", "--long"])
            .await?;
        self.holdall(&["list"], &["list"]).await?;

        self.title("5. Is it all there? Every stored byte is read, decrypted and compared with its name")?;
        self.holdall(&["check", "--read-data"], &["check", "--read-data"])
            .await?;

        self.title("6. Both snapshots come back, into new databases and directories")?;
        self.restore("latest~1", "then", &first).await?;
        self.restore("latest", "now", &second).await?;
        self.figures().await
    }

    /// A line of the story, unless only JSON is wanted.
    fn say(&self, text: &str) -> Result<()> {
        if self.app.json() {
            return Ok(());
        }
        render::print(&format!("{text}\n"))
            .map_err(|e| Error::new(ErrorKind::Source, "cannot tell the story").because(e))
    }

    fn title(&self, text: &str) -> Result<()> {
        self.say(&format!("\n{}", render::bold(text)))
    }

    async fn sql(&self, text: &str) -> Result<()> {
        let command = self
            .children
            .postgres("psql", &["-Xqv", "ON_ERROR_STOP=1", "-c", text, "shop"]);
        self.children.run(command).await.map(drop)
    }

    async fn look(&self) -> Result<Moment> {
        Ok(Moment {
            dump: compare::database(&self.children, "shop").await?,
            uploads: compare::directory(&self.uploads)?,
        })
    }

    /// Shows and runs a command of this program.
    async fn holdall(&self, shown: &[&str], arguments: &[&str]) -> Result<()> {
        self.say(&format!("$ holdall {}", shown.join(" ")))?;
        let out = self.children.run(self.children.holdall(arguments)).await?;
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
        self.say(lines.join("\n").trim_end())
    }

    /// Restores one snapshot and compares everything with what it was.
    async fn restore(&self, snapshot: &str, suffix: &str, moment: &Moment) -> Result<()> {
        let database = format!("shop_{suffix}");
        let target = format!("uploads_{suffix}");
        self.say(&format!("$ createdb {database}"))?;
        self.children
            .run(self.children.postgres("createdb", &[&database]))
            .await?;
        let address = format!("postgres:///{database}");
        let arguments = ["restore", snapshot, "--target", &address];
        self.holdall(&arguments, &arguments).await?;
        let place = format!("{snapshot}:{}", self.uploads.display());
        let arguments = ["restore", &place, "--target", &target, "--verify"];
        self.holdall(&arguments, &arguments).await?;
        if compare::database(&self.children, &database).await? != moment.dump {
            return Err(
                Error::new(ErrorKind::Differs, "the restored database differs").with("snapshot", snapshot)
            );
        }
        let restored = compare::directory(&self.place.join(&target))?;
        if let Some(path) = compare::difference(&moment.uploads, &restored) {
            let error = Error::new(ErrorKind::Differs, "the restored directory differs");
            return Err(error.with("snapshot", snapshot).with("path", path));
        }
        self.say(&format!(
            "    equal: {} of rows and statements, {} files, links and directories with content, mode, owner and time",
            render::bytes(moment.dump.1),
            moment.uploads.len(),
        ))
    }

    /// The last chapter.
    async fn figures(&self) -> Result<()> {
        let out = self
            .children
            .run(self.children.holdall(&["list", "--json"]))
            .await?;
        let listed: Vec<Value> = serde_json::from_slice(&out)
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot read the list of snapshots").because(e))?;
        let number = |snapshot: &Value, name: &str| {
            snapshot
                .pointer(&format!("/summary/{name}"))
                .and_then(Value::as_u64)
                .unwrap_or(0)
        };
        let seconds = self.began.elapsed().as_secs_f64();
        if self.app.json() {
            let value = json!({"message_type": "summary", "equal": true, "snapshots": listed, "total_duration": seconds});
            return render::line(&value)
                .map_err(|e| Error::new(ErrorKind::Source, "cannot print").because(e));
        }
        self.title("Everything compared equal.")?;
        let mut table = Table::new(&["", "READ", "NEW", "STORED", "RATIO"], &[1, 2, 3, 4]);
        for (name, snapshot) in ["first snapshot", "second snapshot"].iter().zip(&listed) {
            let (read, stored) = (
                number(snapshot, "bytes_read"),
                number(snapshot, "data_added_packed"),
            );
            table.row(vec![
                (*name).to_owned(),
                render::bytes(read),
                render::bytes(number(snapshot, "data_added")),
                render::bytes(stored),
                render::ratio(read, stored),
            ]);
        }
        self.say(table.text(None).trim_end())?;
        self.say(&format!(
            "\nAll of it took {}. Next: `holdall help`, and the README for your own project.",
            render::seconds(seconds)
        ))
    }
}
