use super::*;

fn run(pack: u8, entries: &[(u8, Option<u8>)]) -> Tables {
    let mut rows: Vec<_> = entries.to_vec();
    rows.sort_unstable();
    let mut tables = Tables {
        packs: vec![PackRow {
            id: ObjectId([pack; 32]),
            header: [0; HEADER_LEN],
            size: 100_000,
        }],
        blocks: vec![BlockRow {
            pack: 0,
            record: 0,
            offset: 104,
            sealed: 1016,
            plain: 1000,
            codec: Codec::Raw,
        }],
        ..Tables::default()
    };
    for (at, (id, base)) in rows.into_iter().enumerate() {
        let at = u32::try_from(at).unwrap();
        if let Some(base) = base {
            tables.bases.push((at, BlobId([base; 32])));
        }
        let (offset, encoded, plain) = (at * 10, 10, if base.is_some() { 20 } else { 10 });
        let id = BlobId([id; 32]);
        let kind = BlobKind::Data;
        tables.entries.push(EntryRow {
            id,
            kind,
            delta: base.is_some(),
            block: 0,
            offset,
            encoded,
            plain,
        });
    }
    tables
}

fn build(runs: &[Tables], excluded: &[u8]) -> Index {
    let mut builder = IndexBuilder::new(excluded.iter().map(|p| ObjectId([*p; 32])).collect());
    for run in runs {
        builder.add(run, false);
    }
    builder.finish()
}

#[test]
fn an_entry_takes_at_most_64_bytes() {
    assert!(size_of::<Copy>() <= 64 - 12, "{}", size_of::<Copy>());
}

#[test]
fn a_delta_is_usable_only_while_its_base_is() {
    let runs = [
        run(1, &[(1, None)]),
        run(2, &[(2, Some(1))]),
        run(3, &[(3, Some(2))]),
    ];
    let index = build(&runs, &[]);
    let chain: Vec<_> = index
        .chain(&BlobId([3; 32]), &|_| true)
        .unwrap()
        .iter()
        .map(|copy| copy.id.0[0])
        .collect();
    assert_eq!(chain, [3, 2, 1]);
    assert!(!build(&runs, &[1]).usable(&BlobId([3; 32])));
    assert!(build(&runs, &[1]).copies(&BlobId([3; 32])).len() == 1);
}

#[test]
fn a_cycle_of_deltas_is_not_usable_and_does_not_hang() {
    let index = build(&[run(1, &[(1, Some(2)), (2, Some(1)), (3, Some(3))])], &[]);
    assert!((1..=3).all(|id| !index.usable(&BlobId([id; 32]))));
}

#[test]
fn a_chain_of_sixteen_deltas_counts_and_seventeen_do_not() {
    let runs: Vec<_> = (1..=18u8)
        .map(|id| run(id, &[(id, if id == 1 { None } else { Some(id - 1) })]))
        .collect();
    let index = build(&runs, &[]);
    assert!(index.usable(&BlobId([17; 32])));
    assert!(!index.usable(&BlobId([18; 32])));
}

#[test]
fn a_whole_copy_elsewhere_makes_up_for_a_lost_base() {
    let runs = [
        run(1, &[(1, None)]),
        run(2, &[(2, Some(1))]),
        run(4, &[(2, None)]),
    ];
    assert!(build(&runs, &[1]).usable(&BlobId([2; 32])));
}

#[test]
fn rows_of_a_pack_are_the_run_that_listed_it() {
    let runs = [
        run(1, &[(1, None), (5, None)]),
        run(2, &[(2, Some(1)), (1, None)]),
    ];
    let index = build(&runs, &[]);
    assert_eq!(
        index.rows_of(&BTreeSet::from([PackNumber(0), PackNumber(1)])),
        runs
    );
    assert_eq!(index.rows_of(&BTreeSet::from([PackNumber(1)])), runs[1..]);
}

#[test]
fn a_pack_listed_twice_counts_once() {
    let index = build(&[run(1, &[(1, None)]), run(1, &[(1, None)])], &[]);
    assert_eq!((index.packs().len(), index.copies.len()), (1, 1));
}
