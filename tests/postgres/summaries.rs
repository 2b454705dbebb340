//! Large tables on servers that keep WAL summaries: nothing is looked at that they do not name, and nothing is missed for that. Where it
//! can be shown, a test first shows that the summaries alone would miss what changed.

use crate::soak::kill_a_process;
use crate::source::{Taken, assert_same_rows, request, take};
use crate::source_durable::freeze;
use crate::wire::{Harm, Wire};
use holdall::connector::postgres::PostgresRequest;
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::connector::postgres::key::{self, Place};
use holdall::connector::postgres::record::How;
use holdall::snapshot::entry::EntryRecord;
use holdall::testkit::PostgresServer;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SETTINGS: &str = "fsync = on\nautovacuum = off\nsummarize_wal = on\nmax_prepared_transactions = 5";
/// 2,000 blocks, and some behind them for what is written again.
const FILL: &str = "CREATE TABLE t (id int, note text) WITH (fillfactor = 20);
    INSERT INTO t SELECT g, repeat('x', 700) FROM generate_series(1, 4000) g";

struct Summarized {
    server: PostgresServer,
    request: PostgresRequest,
}

impl Summarized {
    fn new(major: u32) -> Self {
        let server = PostgresServer::start(major, SETTINGS).unwrap();
        server.psql("postgres", FILL).unwrap();
        let mut request = request(&server, "postgres");
        request.session.summarized_blocks = 0;
        let summarized = Self { server, request };
        // Where blocks have checksums, the first who looks at rows writes to them.
        summarized.sql("VACUUM t");
        summarized.checkpoint();
        summarized
    }

    fn sql(&self, sql: &str) -> String {
        self.server.psql("postgres", sql).unwrap().trim().to_owned()
    }

    /// Takes the next snapshot, after a checkpoint if wanted, and fails unless it holds what a full one holds.
    async fn next(&self, prior: &Taken, checkpoint: bool) -> Taken {
        let mut request = self.request.clone();
        request.session.checkpoint = checkpoint;
        let taken = take(&request, Some(prior), 2).await.unwrap();
        assert_same_rows(&taken, &take(&self.request, None, 2).await.unwrap());
        taken
    }

    async fn first(&self) -> Taken {
        take(&self.request, None, 1).await.unwrap()
    }

    /// How many blocks of the table the server was asked for so far.
    async fn blocks_read(&self) -> u64 {
        // What a session did is counted when it has ended.
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdall'";
        let begun = Instant::now();
        while self.sql(sessions) != "0" {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let blocks = "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relname = 't'";
        self.sql(blocks).parse().unwrap()
    }

    /// Whether summaries from a position on name a block of the table.
    fn names_anything_since(&self, position: &str) -> bool {
        let sql = format!(
            "SELECT count(*) > 0 FROM pg_available_wal_summaries() s, pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c
             WHERE s.start_lsn >= '{position}' AND c.relfilenode = pg_relation_filenode('t') AND c.relforknumber = 0"
        );
        self.sql(&sql) == "t"
    }

    /// From where the server would redo its log.
    fn redo(&self) -> String {
        self.sql("SELECT redo_lsn FROM pg_control_checkpoint()")
    }

    /// A checkpoint, once there are summaries up to it. Gives the file of the last.
    fn checkpoint(&self) -> PathBuf {
        self.sql("CHECKPOINT");
        let reached = "SELECT count(*) FROM pg_available_wal_summaries(), pg_control_checkpoint() WHERE end_lsn >= redo_lsn";
        let begun = Instant::now();
        while self.sql(reached) == "0" {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        let dir = self.server.data().join("pg_wal/summaries");
        let files = fs_err::read_dir(&dir).unwrap();
        files.map(|file| file.unwrap().path()).max().unwrap()
    }
}

/// The first block of an entry that is a segment.
fn place(record: &EntryRecord) -> Option<u64> {
    match key::parse(&record.key) {
        Some((_, Place::Segment(_, segment))) => Some(segment.block),
        _ => None,
    }
}

fn by_summaries(taken: &Taken) -> bool {
    taken.line("t").why.contains("WAL summaries")
}

async fn what_is_not_named_is_not_looked_at(major: u32) {
    let summarized = Summarized::new(major);
    let before = summarized.first().await;
    let read = summarized.blocks_read().await;
    let mut request = summarized.request.clone();
    request.session.checkpoint = true;
    let after = take(&request, Some(&before), 2).await.unwrap();
    let line = after.line("t");
    assert!(line.how == How::TakenOver && by_summaries(&after), "{line:?}");
    assert!(after.notes.is_empty(), "{:?}", after.notes);
    let read = summarized.blocks_read().await - read;
    assert!(
        read < 400,
        "{read} of 2000 blocks, a fiftieth of which is a check"
    );
    summarized.sql("UPDATE t SET note = 'y' WHERE id IN (17, 3000)");
    let last = summarized.next(&after, true).await;
    let line = last.line("t");
    assert!(line.how == How::Changes && by_summaries(&last), "{line:?}");
    assert!(line.ranges_read <= 4, "{line:?}");
    // What the next comparison rests on was written again.
    let unchanged = summarized.next(&last, true).await;
    assert_eq!(unchanged.line("t").how, How::TakenOver);
}

#[tokio::test]
async fn what_summaries_of_17_do_not_name_is_not_looked_at() {
    what_is_not_named_is_not_looked_at(17).await;
}

#[tokio::test]
async fn what_summaries_of_18_do_not_name_is_not_looked_at() {
    what_is_not_named_is_not_looked_at(18).await;
}

/// A row that was written before the parent's snapshot and committed behind it is in no summary that begins there.
#[tokio::test]
async fn what_was_open_over_a_snapshot_and_a_checkpoint_is_not_missed() {
    let open = "BEGIN; UPDATE t SET note = 'late' WHERE id = 2000; PREPARE TRANSACTION 'open'";
    for knows_earlier in [true, false] {
        let summarized = Summarized::new(17);
        let earlier = summarized.first().await;
        summarized.sql(open);
        summarized.checkpoint();
        let redo = summarized.redo();
        let before = if knows_earlier {
            summarized.next(&earlier, false).await
        } else {
            summarized.first().await
        };
        assert!(!before.rows("t").contains("late"));
        summarized.sql("COMMIT PREPARED 'open'");
        let after = summarized.next(&before, true).await;
        assert!(after.rows("t").contains("late"));
        assert!(!summarized.names_anything_since(&redo), "the danger is real");
        // The checkpoint of the earlier snapshot serves; without it nothing is known.
        assert_eq!(by_summaries(&after), knows_earlier);
        let last = summarized.next(&after, true).await;
        assert_eq!(last.line("t").how, How::TakenOver);
        assert!(by_summaries(&last));
    }
}

/// Summaries end at checkpoints: what came behind the last is in none.
#[tokio::test]
async fn what_came_behind_the_last_checkpoint_is_not_missed() {
    let summarized = Summarized::new(18);
    let before = summarized.first().await;
    summarized.checkpoint();
    let redo = summarized.redo();
    summarized.sql("UPDATE t SET note = 'late' WHERE id = 2000");
    let after = summarized.next(&before, false).await;
    assert!(!summarized.names_anything_since(&redo), "the danger is real");
    assert!(after.rows("t").contains("late") && !by_summaries(&after));
    assert_eq!(after.line("t").how, How::Changes);
}

/// Summaries go after some days, or are not made for a while.
#[tokio::test]
async fn a_gap_between_summaries_is_no_proof() {
    let summarized = Summarized::new(17);
    let before = summarized.first().await;
    summarized.sql("UPDATE t SET note = 'in the gap' WHERE id = 2000");
    let lost = summarized.checkpoint();
    summarized.sql("UPDATE t SET note = 'behind it' WHERE id = 3000");
    summarized.checkpoint();
    fs_err::remove_file(lost).unwrap();
    let after = summarized.next(&before, true).await;
    assert!(after.rows("t").contains("in the gap") && !by_summaries(&after));
    // Off and on again, without a restart.
    summarized.server.configure("summarize_wal = off").unwrap();
    summarized.server.control(&["reload"]).unwrap();
    let off = summarized.next(&after, true).await;
    assert!(!by_summaries(&off));
    assert!(
        off.notes.iter().any(|note| note.contains("summarize_wal")),
        "{:?}",
        off.notes
    );
    summarized.sql("UPDATE t SET note = 'unseen' WHERE id = 2500");
    summarized.server.configure("summarize_wal = on").unwrap();
    summarized.server.control(&["reload"]).unwrap();
    let on = summarized.next(&off, true).await;
    assert!(on.rows("t").contains("unseen") && !by_summaries(&on));
    assert!(by_summaries(&summarized.next(&on, true).await));
}

/// Samples of what is not named are looked at nevertheless. Once one has changed, nothing rests on summaries any more, what did is told, and the
/// next snapshot compares everything.
#[tokio::test]
async fn summaries_that_leave_out_what_changed_are_found_out() {
    let summarized = Summarized::new(17);
    let tables = ["t", "u", "v", "w", "x", "y"];
    for table in &tables[1..] {
        summarized.sql(&format!(
            "CREATE TABLE {table} WITH (fillfactor = 20) AS SELECT * FROM t"
        ));
        summarized.sql(&format!("VACUUM {table}"));
    }
    summarized.checkpoint();
    let before = summarized.first().await;
    let nothing = fs_err::read(summarized.checkpoint()).unwrap();
    for table in tables {
        summarized.sql(&format!("UPDATE {table} SET note = 'unnamed' WHERE id < 1000"));
    }
    let all = summarized.checkpoint();
    assert!(nothing.len() < fs_err::read(&all).unwrap().len());
    fs_err::write(&all, nothing).unwrap();
    let whole = summarized.first().await;
    let mut request = summarized.request.clone();
    request.session.checkpoint = true;
    let (mut found, mut incidents) = (0, 0);
    // Of some hundred changed ranges a fiftieth: not each time one.
    for seed in 0..20 {
        request.jobs = if seed % 2 == 0 { 1 } else { 2 };
        let after = take(&request, Some(&before), seed).await.unwrap();
        let notes: Vec<&String> = after.notes.iter().collect();
        if notes.is_empty() {
            assert!(after.incidents.is_empty());
            continue;
        }
        found += 1;
        incidents += after.incidents.len();
        assert!(
            notes
                .iter()
                .all(|note| note.contains("public.") && note.contains("report")),
            "{notes:?}"
        );
        // Nothing was sent before the first table: what was planned meanwhile is planned again.
        let at_once = notes.iter().any(|note| note.starts_with("public.t:"));
        assert!(!at_once || after.incidents.is_empty(), "{:?}", after.incidents);
        for table in tables {
            let is_told = after
                .incidents
                .iter()
                .any(|told| told.contains(&format!("{table}\\u{{0}}: ")));
            assert!(
                is_told || after.rows(table) == whole.rows(table),
                "{table}: {:?}",
                after.incidents
            );
        }
        if found == 1 {
            let next = take(&request, Some(&after), seed).await.unwrap();
            assert_same_rows(&next, &whole);
            assert!(next.incidents.is_empty() && next.report().iter().all(|line| !line.why.contains("WAL")));
        }
    }
    assert!(found > 9 && incidents > 0, "{found} of 20, {incidents}");
}

/// A snapshot that saw what a crash took back lays no ground for summaries: what is there again was written before it.
#[tokio::test]
async fn what_a_crash_brings_back_is_not_missed() {
    let summarized = Summarized::new(17);
    summarized.sql(
        "CREATE ROLE reader LOGIN; GRANT pg_read_all_data, pg_checkpoint TO reader;
         REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text, boolean) FROM PUBLIC",
    );
    let url = summarized.server.url("postgres").replace("postgres@", "reader@");
    let mut reader = summarized.request.clone();
    reader.server = Server::parse(&url, &Surroundings::default()).unwrap();
    let first = take(&reader, None, 1).await.unwrap();
    summarized.sql("INSERT INTO t VALUES (0, 'back again')");
    let (client, line) = tokio_postgres::connect(&summarized.server.url("postgres"), tokio_postgres::NoTls)
        .await
        .unwrap();
    let line = tokio::spawn(line);
    let open = "SET synchronous_commit = off; BEGIN; DELETE FROM t WHERE id = 0";
    client.batch_execute(open).await.unwrap();
    summarized.checkpoint();
    let redo = summarized.redo();
    freeze(&summarized.server);
    client.batch_execute("COMMIT").await.unwrap();
    let doubted = take(&reader, Some(&first), 2).await.unwrap();
    assert!(
        doubted.notes.iter().any(|note| note.contains("durable")),
        "{:?}",
        doubted.notes
    );
    assert_eq!(doubted.line("t").how, How::TakenOver);
    kill_a_process(&summarized.server, "");
    drop(client);
    let _lost = line.await.unwrap();
    reader.session.checkpoint = true;
    let after = take(&reader, Some(&doubted), 3).await.unwrap();
    assert!(!summarized.names_anything_since(&redo), "the danger is real");
    assert!(after.rows("t").contains("back again"));
    assert_same_rows(&after, &take(&reader, None, 3).await.unwrap());
}

/// A file that was cut and grew again has other rows in the same blocks.
#[tokio::test]
async fn a_table_that_was_cut_and_grew_again_is_looked_at() {
    let summarized = Summarized::new(18);
    let before = summarized.first().await;
    summarized.sql("DELETE FROM t WHERE id > 3000");
    summarized.sql("VACUUM t");
    let cut = summarized.next(&before, true).await;
    assert!(by_summaries(&cut) && cut.line("t").rows == 3000);
    summarized.sql("INSERT INTO t SELECT g, 'again' FROM generate_series(1, 500) g");
    let grown = summarized.next(&cut, true).await;
    assert!(by_summaries(&grown) && grown.line("t").rows == 3500);
    // Cut and grown since the parent's snapshot.
    summarized.sql("DELETE FROM t WHERE note = 'again'");
    summarized.sql("VACUUM t");
    summarized.sql("INSERT INTO t SELECT g, 'once more' FROM generate_series(1, 500) g");
    let last = summarized.next(&grown, true).await;
    assert!(by_summaries(&last), "{:?}", last.line("t"));
}

/// What the parent lost is neither taken over nor taken for empty.
#[tokio::test]
async fn a_range_that_the_parent_does_not_show_is_read() {
    let summarized = Summarized::new(17);
    let mut before = summarized.first().await;
    let blocks: Vec<u64> = before.records.iter().filter_map(|record| place(record)).collect();
    let lost = [blocks[0], blocks[blocks.len() / 2], blocks[blocks.len() - 1]];
    before
        .records
        .retain(|record| place(record).is_none_or(|block| !lost.contains(&block)));
    let after = summarized.next(&before, true).await;
    let line = after.line("t");
    assert!(by_summaries(&after) && line.ranges_read == 3, "{line:?}");
    // Everything behind a place cannot be read any more.
    before
        .records
        .retain(|record| place(record).is_none_or(|block| block < lost[1]));
    let after = summarized.next(&before, true).await;
    let line = after.line("t");
    assert!(line.ranges_read > 2 && line.ranges_read < line.ranges, "{line:?}");
}

/// A crash takes back what did not reach the log, and its transactions' numbers are given out again.
#[tokio::test]
async fn a_crash_hides_nothing_from_summaries() {
    let summarized = Summarized::new(17);
    let mut before = summarized.first().await;
    for round in 0..4 {
        let late =
            format!("SET synchronous_commit = off; UPDATE t SET note = 'lost {round}' WHERE id = 100;");
        kill_a_process(&summarized.server, &late);
        let again =
            format!("SET synchronous_commit = off; UPDATE t SET note = 'kept {round}' WHERE id = 3900");
        summarized.sql(&again);
        before = summarized.next(&before, round % 2 == 0).await;
    }
    assert!(by_summaries(&summarized.next(&before, true).await));
}

/// Whoever may not ask for a checkpoint is told what to grant; without one the snapshot is as good.
#[tokio::test]
async fn a_checkpoint_that_cannot_be_had_is_told() {
    let summarized = Summarized::new(17);
    summarized.sql("CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader");
    let url = summarized.server.url("postgres").replace("postgres@", "reader@");
    let mut request = summarized.request.clone();
    request.server = Server::parse(&url, &Surroundings::default()).unwrap();
    request.session.checkpoint = true;
    let before = take(&request, None, 1).await.unwrap();
    assert!(before.notes.is_empty(), "{:?}", before.notes);
    let refused = take(&request, Some(&before), 2).await.unwrap();
    assert!(
        refused
            .notes
            .iter()
            .any(|note| note.contains("GRANT pg_checkpoint")),
        "{:?}",
        refused.notes
    );
    assert!(refused.line("t").how == How::TakenOver && !by_summaries(&refused));
    summarized.sql("GRANT pg_checkpoint TO reader");
    let granted = take(&request, Some(&refused), 3).await.unwrap();
    assert!(
        by_summaries(&granted) && granted.notes.is_empty(),
        "{:?}",
        granted.notes
    );
    // A server may keep to itself what it summarizes.
    summarized.sql("REVOKE EXECUTE ON FUNCTION pg_wal_summary_contents(int8, pg_lsn, pg_lsn) FROM PUBLIC");
    let hidden = take(&request, Some(&granted), 4).await.unwrap();
    assert!(hidden.line("t").how == How::TakenOver && !by_summaries(&hidden));
    let old = PostgresServer::start(15, "fsync = on").unwrap();
    let mut request = crate::source::request(&old, "postgres");
    request.session.checkpoint = true;
    let taken = take(&request, None, 1).await.unwrap();
    assert!(
        taken.notes.iter().any(|note| note.contains("version 17")),
        "{:?}",
        taken.notes
    );
}

/// Nobody asked for a checkpoint, and one is made while a table is compared: from then on its summaries serve.
#[tokio::test]
async fn summaries_that_come_to_reach_the_snapshot_are_used_from_then_on() {
    let summarized = Summarized::new(17);
    // Three stripes of 32 MiB.
    summarized.sql(
        "ALTER TABLE t SET (fillfactor = 10); INSERT INTO t SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 20000) g",
    );
    summarized.sql("VACUUM t");
    summarized.checkpoint();
    let mut request = summarized.request.clone();
    request.jobs = 1;
    let before = take(&request, None, 1).await.unwrap();
    let read = summarized.blocks_read().await;
    // To whom asks first it has none, takes its time, and makes them.
    summarized.sql(
        "ALTER FUNCTION pg_catalog.pg_available_wal_summaries() RENAME TO all_of_them;
         CREATE FUNCTION pg_catalog.pg_available_wal_summaries(OUT tli int8, OUT start_lsn pg_lsn, OUT end_lsn pg_lsn)
         RETURNS SETOF record LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objid = 9) THEN
                RETURN QUERY SELECT * FROM pg_catalog.all_of_them();
            ELSE
                PERFORM pg_catalog.pg_advisory_lock(9);
                EXECUTE 'CHECKPOINT';
                PERFORM pg_catalog.pg_sleep(1.1);
                WHILE NOT EXISTS (SELECT FROM pg_catalog.all_of_them() s, pg_catalog.pg_control_checkpoint() c
                                  WHERE s.end_lsn >= c.redo_lsn) LOOP
                    PERFORM pg_catalog.pg_sleep(0.05);
                END LOOP;
            END IF; END $$",
    );
    let after = take(&request, Some(&before), 2).await.unwrap();
    assert!(
        after.line("t").how == How::TakenOver && by_summaries(&after),
        "{:?}",
        after.line("t")
    );
    let blocks: u64 = summarized
        .sql("SELECT pg_relation_size('t') / 8192")
        .parse()
        .unwrap();
    let read = summarized.blocks_read().await - read;
    assert!(
        read > 4096 && read < 2 * 4096 && blocks > 2 * 4096,
        "{read} of {blocks}"
    );
    assert_same_rows(&after, &before);
}

/// A look that comes to nothing costs nothing but its time.
#[tokio::test]
async fn a_server_that_is_silent_about_summaries_is_compared_without_them() {
    let summarized = Summarized::new(17);
    let before = summarized.first().await;
    summarized.sql("UPDATE t SET note = 'y' WHERE id = 17");
    for harm in [Harm::Silence(0), Harm::Falsify(usize::MAX, 0)] {
        summarized.checkpoint();
        let wire = Wire::start(&summarized.server, "pg_available_wal_summaries", usize::MAX, harm).await;
        let mut request = summarized.request.clone();
        request.server = Server::parse(&wire.url("postgres"), &Surroundings::default()).unwrap();
        request.session.silence = Duration::from_secs(3);
        let taken = take(&request, Some(&before), 2).await.unwrap();
        assert_same_rows(&taken, &summarized.first().await);
        assert!(taken.line("t").how == How::Changes && !by_summaries(&taken));
        assert!(wire.harmed() > 0);
    }
}
