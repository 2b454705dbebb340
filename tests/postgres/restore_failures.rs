//! What a restore does when the server refuses something, when the target is not quite as new, and when it is interrupted.

use crate::restore::{edit, request, restore, small};
use crate::{features, handmade};
use holdall::connector::postgres::catalog;
use holdall::connector::postgres::key::{self, Place, Segment, TableName};
use holdall::connector::postgres::record::{Belongs, TableRecord};
use holdall::connector::postgres::sink::{Counted, PostgresSink};
use holdall::context::Context;
use holdall::error::ErrorKind;
use holdall::testkit::PostgresServer;
use holdall::testkit::collect::Collected;
use std::time::{Duration, Instant};

fn segment(table: &str, block: u64) -> Place {
    Place::Segment(TableName::new("public", table), Segment { block, part: 0 })
}

#[tokio::test]
async fn a_refused_row_costs_its_segment_and_shows_no_value() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE TABLE t (id int, b text CHECK (b <> 's3cret one')); CREATE TABLE other (a int);
        INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 500) n; INSERT INTO other VALUES (1)";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    edit(&mut snapshot, &segment("t", 48), |rows| {
        rows.replace("153\t", "s3cret number\t")
    });
    edit(&mut snapshot, &segment("t", 80), |rows| {
        rows.replace("row 300", "s3cret one")
    });
    // As a key that two rows have is refused: with the values of both.
    let key = "ALTER TABLE ONLY public.t ADD CONSTRAINT k UNIQUE (id);\n";
    handmade::statements(&mut snapshot, b"source", &Place::Constraints, key);
    edit(&mut snapshot, &segment("t", 0), |rows| {
        rows.replace("2\trow 2\n", "1\trow 2\n")
    });
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    let report = restored.report.unwrap();
    // The two segments, the key; and the table, which is not as it was.
    assert_eq!(
        (report.failed, report.different),
        (3, 1),
        "{:?}",
        restored.incidents
    );
    assert_eq!(
        (restored.summary.compared, restored.summary.tables_different),
        (1, 1)
    );
    assert_eq!(server.psql("target", "SELECT count(*) FROM t").unwrap(), "400\n");
    let told = restored.incidents.join("\n");
    for expected in [
        "public.t from block 48: its rows are not in the target: 22P02: a value does not fit its type; row 3, column id",
        "public.t from block 80: its rows are not in the target: 23514: a row does not meet a check; constraint t_b_check",
        "23505: could not create unique index",
        "public.t: it has 400 rows, and the snapshot 500; segments that were refused: 2",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    for value in ["s3cret", "row 300", "(id)=("] {
        assert!(!told.contains(value), "{value} is in\n{told}");
    }
}

#[tokio::test]
async fn rows_that_are_refused_when_they_are_to_last_are_not_called_restored() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill =
        "CREATE TABLE t (id int, b text); INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 500) n";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    // It fires at the end of the transaction, and where triggers are off too.
    let refuses = "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.id = 153 THEN RAISE 's3cret' USING ERRCODE = '42501', COLUMN = 's3cret'; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER c AFTER INSERT ON public.t DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION public.f();
        ALTER TABLE public.t ENABLE ALWAYS TRIGGER c;\n";
    edit(&mut snapshot, &Place::Schema, |sql| format!("{sql}{refuses}"));
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let mut wanted = request(&server.url("target"));
    wanted.verify = false;
    let restored = restore(&snapshot, wanted).await;
    let told = restored.incidents.join("\n");
    assert_eq!(restored.report.unwrap().failed, 1, "{told}");
    assert!(
        told.contains("public.t from block 48: its rows are not in the target"),
        "{told}"
    );
    assert!(!told.contains("s3cret"), "{told}");
    assert_eq!(server.psql("target", "SELECT count(*) FROM t").unwrap(), "450\n");
    assert_eq!(restored.summary.tables[0].rows, 450);
}

#[tokio::test]
async fn a_value_that_names_what_is_not_there_costs_its_segment_alone_and_is_not_shown() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE FUNCTION public.fit(text) RETURNS bool LANGUAGE plpgsql AS $$BEGIN
            IF $1 LIKE 's3cret%' THEN RAISE 'not %', $1; END IF; RETURN true; END$$;
        CREATE DOMAIN public.word AS text CHECK (public.fit(VALUE));
        CREATE TABLE named (id int, c regclass); INSERT INTO named SELECT n, 'pg_class' FROM generate_series(1, 500) n;
        CREATE TABLE words (id int, c public.word); INSERT INTO words SELECT n, 'word ' || n FROM generate_series(1, 500) n";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    edit(&mut snapshot, &segment("named", 0), |rows| {
        rows.replacen("pg_class", "s3cret_table", 1)
    });
    edit(&mut snapshot, &segment("words", 0), |rows| {
        rows.replacen("word 2\n", "s3cret word\n", 1)
    });
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    assert_eq!(restored.report.unwrap().failed, 2, "{:?}", restored.incidents);
    let told = restored.incidents.join("\n");
    assert!(!told.contains("s3cret"), "{told}");
    for expected in [
        "public.named from block 0: its rows are not in the target: 42P01: something has a name that is not there, or may not be used; row 1, column c",
        "public.words from block 0: its rows are not in the target: P0001: a function of the database raised an error; row 2, column c",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    for table in ["named", "words"] {
        let rows = server
            .psql("target", &format!("SELECT count(*) > 300 FROM {table}"))
            .unwrap();
        assert_eq!(rows, "t\n", "{table}");
    }
}

/// A function says what it likes, under any code: of rows that are checked, and of those that an index is built over.
#[tokio::test]
async fn what_functions_say_of_rows_is_not_shown_and_costs_their_segment_alone() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE FUNCTION public.known(text) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$BEGIN
            IF $1 LIKE 's3cret%' THEN RETURN $1::regclass IS NOT NULL; END IF; RETURN true; END$$;
        CREATE FUNCTION public.taken(text) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$BEGIN
            IF $1 LIKE 's3cret%' THEN RAISE 'not %', $1 USING ERRCODE = '0A000', DETAIL = $1; END IF; RETURN true; END$$;
        CREATE TABLE a (id int, c text CHECK (public.known(c))); INSERT INTO a SELECT n, 'word ' || n FROM generate_series(1, 500) n;
        CREATE TABLE b (id int, c text CHECK (public.taken(c))); INSERT INTO b SELECT n, 'word ' || n FROM generate_series(1, 500) n;
        CREATE TABLE c (c text); INSERT INTO c VALUES ('s3cret_word')";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    for table in ["a", "b"] {
        edit(&mut snapshot, &segment(table, 0), |rows| {
            rows.replacen("word 2\n", "s3cret_word\n", 1)
        });
    }
    let indexes = "CREATE INDEX i ON public.c USING btree (public.known(c));\nCREATE INDEX j ON public.c USING btree (public.taken(c));\n";
    handmade::statements(&mut snapshot, b"source", &Place::Constraints, indexes);
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    assert_eq!(restored.report.unwrap().failed, 4, "{:?}", restored.incidents);
    let told = restored.incidents.join("\n");
    assert!(!told.contains("s3cret"), "{told}");
    for expected in [
        "public.a from block 0: its rows are not in the target: 42P01: something has a name that is not there",
        "public.b from block 0: its rows are not in the target: 0A000: ",
        "PL/pgSQL function public.known(text) line 2",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    for table in ["a", "b"] {
        let rows = format!("SELECT count(*) > 300 FROM {table}");
        assert_eq!(server.psql("target", &rows).unwrap(), "t\n", "{table}");
    }
}

#[tokio::test]
async fn a_value_in_which_a_statement_finds_a_name_is_not_shown() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE TABLE t (a text); INSERT INTO t VALUES ('public.s3cret');
        CREATE TABLE q (a text); INSERT INTO q VALUES ('s3cret &'); CREATE TABLE public.s3cret (a int);
        CREATE MATERIALIZED VIEW m AS SELECT a::regclass AS named FROM t;
        CREATE MATERIALIZED VIEW far AS SELECT ('other.' || a)::regclass AS named FROM t WITH NO DATA; DROP TABLE public.s3cret";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    let behind = "CREATE INDEX i ON public.q USING btree (((a)::tsquery));\n\
        ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.gone(a);\n";
    handmade::statements(&mut snapshot, b"source", &Place::Constraints, behind);
    edit(&mut snapshot, &Place::Refresh, |sql| {
        format!("{sql}REFRESH MATERIALIZED VIEW public.far;\n")
    });
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    let told = restored.incidents.join("\n");
    assert_eq!(restored.report.unwrap().failed, 4, "{told}");
    assert!(!told.contains("s3cret"), "{told}");
    for expected in [
        "42601: something has a name that is not there, or may not be used (the log",
        "42P01: something has a name that is not there, or may not be used (the log",
        "0A000: ",
        "42P01: relation \"public.gone\" does not exist",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
}

/// A server that is done with a `COPY` before it has read anything of it answers twice.
#[tokio::test]
async fn what_is_raised_before_the_first_row_of_a_table_costs_that_table_alone() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE TABLE a (id int); INSERT INTO a SELECT n FROM generate_series(1, 5000) n;
        CREATE TABLE b (id int); INSERT INTO b SELECT n FROM generate_series(1, 5000) n";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    let refuses =
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 's3cret'; END $$;
        CREATE TRIGGER before BEFORE INSERT ON public.a FOR EACH STATEMENT EXECUTE FUNCTION public.f();
        ALTER TABLE public.a ENABLE ALWAYS TRIGGER before;\n";
    edit(&mut snapshot, &Place::Schema, |sql| format!("{sql}{refuses}"));
    for jobs in [1, 4] {
        let target = format!("target{jobs}");
        server
            .psql("postgres", &format!("CREATE DATABASE {target}"))
            .unwrap();
        let mut wanted = request(&server.url(&target));
        (wanted.jobs, wanted.verify) = (jobs, false);
        let restored = restore(&snapshot, wanted).await;
        let told = restored.incidents.join("\n");
        assert!(restored.report.is_ok(), "{:?}", restored.report);
        assert!(!told.contains("s3cret"), "{told}");
        assert!(
            told.contains("public.a from block 0: its rows are not in the target: P0001: "),
            "{told}"
        );
        let counts = "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)";
        assert_eq!(server.psql(&target, counts).unwrap(), "0|5000\n");
    }
}

/// A function may raise what a server says when it goes down, or has no room left.
#[tokio::test]
async fn no_code_has_the_words_of_a_function_shown() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE TABLE t (id int); INSERT INTO t SELECT n FROM generate_series(1, 10) n";
    server.psql("source", fill).unwrap();
    let snapshot = handmade::snapshot(&server, "source", "").await;
    for (code, ends) in [("57P01", false), ("57P03", false), ("53100", true)] {
        let mut snapshot = snapshot.clone();
        let refuses = format!(
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 's3cret' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER before BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
             ALTER TABLE public.t ENABLE ALWAYS TRIGGER before;\n"
        );
        edit(&mut snapshot, &Place::Schema, |sql| format!("{sql}{refuses}"));
        let target = format!("target_{code}").to_lowercase();
        server
            .psql("postgres", &format!("CREATE DATABASE {target}"))
            .unwrap();
        let restored = restore(&snapshot, request(&server.url(&target))).await;
        let told = format!("{}\n{:?}", restored.incidents.join("\n"), restored.report);
        assert!(!told.contains("s3cret"), "{told}");
        match restored.report {
            Err(error) => assert!(ends && error.kind() == ErrorKind::StoreFull, "{told}"),
            Ok(report) => assert!(!ends && report.failed == 1, "{told}"),
        }
    }
}

#[tokio::test]
async fn settings_of_the_database_do_not_stop_the_restore_that_makes_them() {
    let server = PostgresServer::start(15, "").unwrap();
    for sql in [
        "CREATE ROLE keeper LOGIN",
        "CREATE DATABASE source",
        "CREATE DATABASE target OWNER keeper",
        "ALTER DATABASE source SET app.scale = '7'",
        "GRANT SET ON PARAMETER app.scale TO keeper",
    ] {
        server.psql("postgres", sql).unwrap();
    }
    let table = |n| format!("CREATE TABLE t{n} AS SELECT g FROM generate_series(1, 200) g;");
    let tables = (0..6).map(table).collect::<Vec<_>>().concat();
    let scaled =
        "CREATE FUNCTION scaled() RETURNS int LANGUAGE sql AS $$SELECT current_setting('app.scale')::int$$;
        CREATE MATERIALIZED VIEW v AS SELECT scaled()";
    let settings = "ALTER DATABASE source SET default_transaction_read_only = on; ALTER DATABASE source SET statement_timeout = '1s';
        ALTER DATABASE source CONNECTION LIMIT 2; ALTER ROLE keeper IN DATABASE source SET default_transaction_read_only = on";
    for sql in [tables.as_str(), scaled, settings] {
        server.psql("source", sql).unwrap();
    }
    let context = Context::deterministic(1).unwrap();
    let connection = server.server("source").unwrap().connect(&context).await.unwrap();
    let globals = catalog::globals(&connection).await.unwrap();
    drop(connection);
    let snapshot = handmade::snapshot(&server, "source", &globals).await;
    let url = server.url("target").replace("postgres@", "keeper@");
    let restored = restore(&snapshot, request(&url)).await;
    let report = restored.report.unwrap();
    let others: Vec<&String> = restored
        .incidents
        .iter()
        .filter(|i| !i.contains(" OWNER TO "))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!((report.different, restored.summary.compared), (0, 6));
    assert_eq!(server.psql("target", "SELECT scaled FROM v").unwrap(), "7\n");
    let limit = "SELECT datconnlimit FROM pg_database WHERE datname = 'target'";
    assert_eq!(server.psql("postgres", limit).unwrap(), "2\n");
    let set = "SELECT setrole::regrole, unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase
        WHERE datname = '%' ORDER BY 1, 2";
    let settings = |name| server.psql("postgres", &set.replace('%', name)).unwrap();
    assert_eq!(settings("target"), settings("source"));
    assert!(settings("target").contains("default_transaction_read_only=on"));
}

#[tokio::test]
async fn what_waits_too_long_for_a_lock_of_ours_is_tried_again() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    // Whoever has the lock on the partition first keeps it until the other has waited for it and given up.
    let fill = "CREATE FUNCTION waits() RETURNS bool LANGUAGE sql AS
            $$SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation')$$;
        CREATE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql AS $$DECLARE begun timestamptz = clock_timestamp(); BEGIN
            IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 5) THEN RETURN true; END IF;
            WHILE NOT public.waits() AND clock_timestamp() < begun + '60 s' LOOP PERFORM pg_sleep(0.02); END LOOP;
            PERFORM pg_advisory_lock(5);
            WHILE public.waits() LOOP PERFORM pg_sleep(0.02); END LOOP;
            RETURN true; END$$;
        CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1);
        CREATE TABLE a (id int CONSTRAINT a_first REFERENCES p); CREATE TABLE b (id int CONSTRAINT b_second REFERENCES p1);
        INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    // The first locks the partition, which it does not name; a check of all rows comes behind the locks.
    edit(&mut snapshot, &Place::Constraints, |mut sql| {
        for end in [
            "a_first FOREIGN KEY (id) REFERENCES public.p(id);",
            "b_second FOREIGN KEY (id) REFERENCES public.p1(id);",
        ] {
            assert!(sql.contains(end), "{sql}");
            let slow = end.replace(';', ", ADD CONSTRAINT late CHECK (public.slow(id));");
            sql = sql.replace(end, &slow);
        }
        sql
    });
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let mut request = request(&server.url("target"));
    request.lock_timeout = Duration::from_millis(300);
    let restored = restore(&snapshot, request).await;
    assert_eq!(restored.incidents, [""; 0]);
    assert_eq!(restored.report.unwrap().failed, 0);
    let log = fs_err::read_to_string(server.socket().join("log")).unwrap();
    assert!(
        log.contains("canceling statement due to lock timeout"),
        "nothing waited"
    );
    let made = "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conname IN ('a_first', 'late', 'b_second')";
    assert_eq!(
        server.psql("target", made).unwrap(),
        "a_first b_second late late\n"
    );
}

#[tokio::test]
async fn default_privileges_of_the_target_give_nothing_to_what_is_restored() {
    let server = PostgresServer::start(17, "").unwrap();
    server.psql("postgres", features::ROLES).unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE SCHEMA s; CREATE TABLE s.t (id serial); CREATE TABLE t AS SELECT 1 AS a; CREATE TYPE mood AS ENUM ('a');
        CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1; CREATE SEQUENCE q; CREATE VIEW v AS SELECT 1;
        GRANT SELECT ON t TO reader; ALTER DEFAULT PRIVILEGES GRANT UPDATE ON TABLES TO reader";
    server.psql("source", fill).unwrap();
    let snapshot = handmade::snapshot(&server, "source", "").await;
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let defaults = "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT INSERT ON TABLES TO keeper WITH GRANT OPTION;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO reader;
        ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO keeper; ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
        ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM postgres";
    server.psql("target", defaults).unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    assert_eq!(restored.incidents, [""; 0]);
    let note = restored
        .notes
        .iter()
        .find(|note| note.contains("default privileges"))
        .unwrap();
    for named in [
        "for tables in schema public of postgres",
        "for functions of postgres",
    ] {
        assert!(note.contains(named), "{note}");
    }
    features::assert_same(
        &features::dump(&server, "target", &[]),
        &features::dump(&server, "source", &[]),
    );
    // Those of another role stay, and are named: they are about what that one makes.
    server.psql("postgres", "CREATE DATABASE theirs").unwrap();
    let other = "ALTER DEFAULT PRIVILEGES FOR ROLE keeper GRANT SELECT ON TABLES TO reader";
    server.psql("theirs", other).unwrap();
    let restored = restore(&snapshot, request(&server.url("theirs"))).await;
    assert_eq!(restored.incidents, [""; 0]);
    let left = |note: &String| note.contains("were left: for tables of keeper");
    assert!(restored.notes.iter().any(left), "{:?}", restored.notes);
    let tables = ["--schema-only", "-t", "t"];
    features::assert_same(
        &features::dump(&server, "theirs", &tables),
        &features::dump(&server, "source", &tables),
    );
}

#[tokio::test]
async fn sequences_and_large_objects_that_are_not_as_they_were_are_told() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE SEQUENCE q; CREATE SEQUENCE r; SELECT setval('q', 41); SELECT setval('r', 9, false);
        SELECT lo_from_bytea(7, '\\x01'); SELECT lo_from_bytea(8, convert_to(repeat('x', 300000), 'UTF8'))";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    // A form that no snapshot of ours has: what it sets is not known.
    edit(&mut snapshot, &Place::Sequences, |sql| {
        format!("{sql}SELECT pg_catalog.setval('public.r'::regclass, 9, false);\n")
    });
    edit(&mut snapshot, &Place::Schema, |sql| {
        format!("{sql}CREATE TABLE public.t (a int);\nCREATE VIEW public.w AS SELECT nextval('public.q');\n")
    });
    let refresh = "CREATE MATERIALIZED VIEW public.m AS SELECT * FROM public.w;\n";
    handmade::statements(&mut snapshot, b"source", &Place::Refresh, refresh);
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    // A server that loses a part of what it is given.
    let loses = "ALTER FUNCTION pg_catalog.lo_put(oid, bigint, bytea) RENAME TO lo_put_all;
        CREATE FUNCTION pg_catalog.lo_put(oid, bigint, bytea) RETURNS void LANGUAGE sql AS 'SELECT'";
    server.psql("target", loses).unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    assert_eq!(restored.report.unwrap().different, 2, "{:?}", restored.incidents);
    let half = Counted { all: 2, equal: 1 };
    let third = Counted { all: 3, equal: 1 };
    assert_eq!(
        (restored.summary.sequences, restored.summary.large_objects),
        (third, half)
    );
    let told = restored.incidents.join("\n");
    for expected in [
        "public.q: its value is 42, given out; in the snapshot it is 41, given out",
        "3-large-objects/8: it reads otherwise than it was written",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
}

/// Says of a table that its rows are an extension's own.
fn belongs_to_an_extension(snapshot: &mut Collected, table: &str) {
    let place = Place::Table(TableName::new("public", table));
    let kept = snapshot.entries.get_mut(&key::key(b"source", &place)).unwrap();
    let mut record = TableRecord::from_metadata(&kept.head.metadata).unwrap();
    record.belongs = Belongs::Extension;
    kept.head.metadata = record.to_metadata().unwrap();
}

#[tokio::test]
async fn rows_that_an_extension_put_there_go_without_a_trigger_or_stay() {
    let server = PostgresServer::start(15, "").unwrap();
    let mut snapshot = small(&server).await;
    belongs_to_an_extension(&mut snapshot, "t");
    edit(&mut snapshot, &Place::Schema, |sql| {
        format!(
            "{sql}CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'fired'; END$$;\n\
             INSERT INTO public.t VALUES (1000, 'of the script');\n\
             CREATE TRIGGER no BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.no();\n"
        )
    });
    server.psql("postgres", "CREATE DATABASE target; ").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    assert_eq!(restored.incidents, [""; 0]);
    assert_eq!(restored.summary.compared, 2);
    server.psql("postgres", "CREATE ROLE keeper LOGIN").unwrap();
    server
        .psql("postgres", "CREATE DATABASE theirs OWNER keeper")
        .unwrap();
    let url = server.url("theirs").replace("postgres@", "keeper@");
    let restored = restore(&snapshot, request(&url)).await;
    let told = |incident: &&String| {
        incident.starts_with("public.t: the rows that its extension put there were left")
    };
    assert_eq!(
        restored.incidents.iter().filter(told).count(),
        1,
        "{:?}",
        restored.incidents
    );
    assert_eq!(server.psql("theirs", "SELECT id FROM t").unwrap(), "1000\n");
    assert_eq!(restored.summary.compared, 1, "the other table is whole");
}

#[tokio::test]
async fn an_interrupt_ends_the_work_on_the_server_too() {
    let server = PostgresServer::start(15, "").unwrap();
    let snapshot = small(&server).await;
    let working =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active'
        AND pid <> pg_backend_pid()";
    for (at, place) in [Place::Schema, Place::Constraints].iter().enumerate() {
        let name = format!("target{at}");
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        let mut snapshot = snapshot.clone();
        edit(&mut snapshot, place, |sql| {
            format!("SELECT pg_catalog.pg_sleep(60);\n{sql}")
        });
        let context = Context::deterministic(1).unwrap();
        let (own, request) = (context.clone(), request(&server.url(&name)));
        let restoring = tokio::spawn(async move {
            let mut sink = PostgresSink::new(request);
            snapshot.give(&own, &mut sink).await
        });
        let begun = Instant::now();
        while server.psql("postgres", working).unwrap() != "1\n" {
            assert!(begun.elapsed() < Duration::from_secs(20), "it never begins");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        context.cancel.cancel();
        let error = restoring.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        let ended = Instant::now();
        while server.psql("postgres", working).unwrap() != "0\n" {
            assert!(ended.elapsed() < Duration::from_secs(3), "{place:?}: it goes on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_tablespace_keeps_its_name() {
    let server = PostgresServer::start(15, "allow_in_place_tablespaces = on").unwrap();
    server
        .psql("postgres", "CREATE TABLESPACE \"My \"\"Space\" LOCATION ''")
        .unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE TABLE t (a int PRIMARY KEY USING INDEX TABLESPACE \"My \"\"Space\") TABLESPACE \"My \"\"Space\";
        CREATE TABLE u AS SELECT 1 AS a";
    server.psql("source", fill).unwrap();
    let snapshot = handmade::snapshot(&server, "source", "").await;
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    assert_eq!(restored.incidents, [""; 0]);
    features::assert_same(
        &features::dump(&server, "target", &[]),
        &features::dump(&server, "source", &[]),
    );
}
