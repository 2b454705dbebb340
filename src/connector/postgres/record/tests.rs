use super::*;
use proptest::prelude::*;

fn table() -> TableRecord {
    TableRecord {
        columns: vec![
            ColumnRecord {
                name: b"id".to_vec(),
                type_name: "bigint".into(),
                identity: Identity::Always,
            },
            ColumnRecord {
                name: b"\xff".to_vec(),
                type_name: "character varying(10)".into(),
                identity: Identity::None,
            },
        ],
        belongs: Belongs::ExtensionConfiguration,
        condition: Some(b"WHERE NOT standard".to_vec()),
        persistence: Persistence::Unlogged,
    }
}

#[test]
fn records_read_back_as_they_were_written() {
    let full = DatabaseRecord {
        name: b"shop".to_vec(),
        server_version: "15.18 (Debian 15.18-1)".into(),
        server_version_num: 150_018,
        encoding: "UTF8".into(),
        collate: "C".into(),
        ctype: "C.UTF-8".into(),
        provider: Some("i".into()),
        locale: Some("de-x-icu".into()),
        owner: b"postgres".to_vec(),
        comment: Some(String::new()),
        pg_dump: Some("15.18".into()),
    };
    let bare = DatabaseRecord {
        name: b"x".to_vec(),
        ..DatabaseRecord::default()
    };
    for database in [full, bare] {
        let metadata = database.to_metadata().unwrap();
        assert_eq!(DatabaseRecord::from_metadata(&metadata).unwrap(), database);
    }
    for table in [table(), TableRecord::default()] {
        let metadata = table.to_metadata().unwrap();
        assert_eq!(TableRecord::from_metadata(&metadata).unwrap(), table);
    }
    for acl in [None, Some(vec![]), Some(vec!["=r/postgres".to_owned()])] {
        let object = LargeObjectRecord {
            owner: b"postgres".to_vec(),
            acl,
            comment: Some("a picture".into()),
        };
        let metadata = object.to_metadata().unwrap();
        assert_eq!(LargeObjectRecord::from_metadata(&metadata).unwrap(), object);
    }
}

#[test]
fn a_table_may_have_as_many_columns_as_the_server_allows() {
    let mut table = table();
    table.columns = (0..1600)
        .map(|i| ColumnRecord {
            name: format!("{i:063}").into_bytes(),
            type_name: format!("{i:063}.{i:063}[]"),
            identity: Identity::None,
        })
        .collect();
    let metadata = table.to_metadata().unwrap();
    assert_eq!(TableRecord::from_metadata(&metadata).unwrap(), table);
}

#[test]
fn fields_of_another_form_are_refused() {
    let wrong = [
        vec![],
        vec![(0, Value::Int(1))],
        vec![
            (0, Value::List(vec![])),
            (1, Value::Int(3)),
            (3, Value::Text("p".into())),
        ],
        vec![
            (0, Value::List(vec![])),
            (1, Value::Int(0)),
            (3, Value::Text("t".into())),
        ],
        vec![(99, Value::Int(1))],
    ];
    for fields in wrong {
        let metadata = Metadata::new(&fields).unwrap();
        assert!(TableRecord::from_metadata(&metadata).is_err(), "{fields:?}");
        assert!(DatabaseRecord::from_metadata(&metadata).is_err(), "{fields:?}");
        assert!(SegmentRecord::from_metadata(&metadata).is_err(), "{fields:?}");
        assert!(LargeObjectRecord::from_metadata(&metadata).is_err(), "{fields:?}");
    }
}

#[test]
fn the_sum_of_rows_does_not_depend_on_their_order() {
    let sum = |lines: &[&[u8]]| {
        let mut sum = RowSum::default();
        for line in lines {
            sum.add(RowSum::of_line(line));
        }
        sum
    };
    assert_eq!(sum(&[b"1\ta", b"2\tb"]), sum(&[b"2\tb", b"1\ta"]));
    assert_ne!(sum(&[b"1\ta", b"2\tb"]), sum(&[b"1\tb", b"2\ta"]));
    assert_ne!(sum(&[b"1"]), sum(&[b"1", b"1"]));
    // The first 16 bytes of BLAKE3 of nothing, from its specification.
    let empty = 0xaf13_49b9_f5f9_a1a6_a040_4dea_36dc_c949_u128;
    assert_eq!(RowSum::of_line(b"").0, empty.swap_bytes());
}

fn lines() -> impl Strategy<Value = Vec<ReportLine>> {
    let line = (
        ("[a-z]{1,3}", "[a-z]{1,8}"),
        any::<(u64, u64, u128, u64, u64)>(),
        0u8..3,
        ".{0,20}",
    );
    proptest::collection::vec(line, 0..20).prop_map(|lines| {
        let mut lines: Vec<_> = lines
            .into_iter()
            .map(
                |((schema, table), (rows, bytes, sum, ranges, read), how, why)| ReportLine {
                    table: TableName::new(&schema, &table),
                    rows,
                    bytes,
                    sum: RowSum(sum),
                    how: [How::Full, How::Changes, How::TakenOver][usize::from(how)],
                    why,
                    ranges,
                    ranges_read: read,
                },
            )
            .collect();
        lines.sort_by(|a, b| a.table.cmp(&b.table));
        lines.dedup_by(|a, b| a.table == b.table);
        lines
    })
}

proptest! {
    #[test]
    fn reports_read_back_as_they_were_written(lines in lines()) {
        prop_assert_eq!(decode_report(&encode_report(&lines)).unwrap(), lines);
    }

    #[test]
    fn segments_read_back_as_they_were_written(rows in 0..i64::MAX.cast_unsigned(), sum: u128) {
        let segment = SegmentRecord { rows, sum: RowSum(sum) };
        prop_assert_eq!(SegmentRecord::from_metadata(&segment.to_metadata().unwrap()).unwrap(), segment);
    }

    #[test]
    fn other_bytes_are_no_report_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_report(&bytes);
    }
}
