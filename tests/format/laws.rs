//! Laws of the format on arbitrary values: what is encoded reads back as the same, what is sealed opens in its place only, and no
//! key or nonce is used twice.

use crate::independent::{Plan, padded};
use holdall::context::SeededRandom;
use holdall::crypto::{
    Keyring, Opener, Sealer, TRAILER_RECORD, open_record, open_run, seal_object, seal_record, seal_run,
};
use holdall::format::Record;
use holdall::format::cbor::{Decoder, Encoder};
use holdall::format::entry::EntryRecord;
use holdall::format::error::DecodeError;
use holdall::format::header::{Header, ObjectType, Origin, nonce, padme};
use holdall::format::id::ObjectId;
use holdall::format::index::{EntrySum, Tables};
use holdall::format::layout::ObjectName;
use holdall::format::node::Node;
use holdall::format::note::NoteRecord;
use holdall::testkit::arbitrary::Gen;
use holdall::testkit::fuzz::fixed_keyring;
use proptest::prelude::*;
use std::collections::HashSet;
use std::fmt::Debug;

fn there_and_back<R: Record + Debug>(record: &R, keyring: &Keyring, random: &SeededRandom) {
    assert_eq!(R::decode(&record.encode()).as_ref(), Ok(record));
    let (name, sealed) = seal_record(keyring, random, record).unwrap();
    assert_eq!(
        open_record::<R>(keyring, &name, &sealed.bytes).as_ref(),
        Ok(record)
    );
    assert_eq!(ObjectName::parse(&name.to_string()), Ok(name));
    let len = sealed.bytes.len() as u64;
    assert_eq!(padme(len), len, "an object whose size is not rounded");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_read_back_as_they_were(seed: u64) {
        let (mut g, keyring, random) = (Gen::new(seed), fixed_keyring(), SeededRandom::new(seed));
        there_and_back(&g.session(), &keyring, &random);
        there_and_back(&g.forget(), &keyring, &random);
        there_and_back(&g.note(), &keyring, &random);
        there_and_back(&g.config(), &keyring, &random);
        there_and_back(&g.decision(), &keyring, &random);
        there_and_back(&g.condemned(), &keyring, &random);
        there_and_back(&g.state(), &keyring, &random);
        there_and_back(&g.seal(), &keyring, &random);
        there_and_back(&g.refs(), &keyring, &random);
        there_and_back(&g.ledger(), &keyring, &random);
    }

    #[test]
    fn tables_entries_and_nodes_read_back_as_they_were(seed: u64) {
        let (mut g, keyring, random) = (Gen::new(seed), fixed_keyring(), SeededRandom::new(seed));
        let directory = g.tables(true);
        prop_assert_eq!(Tables::decode(&directory.encode(), true), Ok(directory));
        let run = g.tables(false);
        let origin = g.pack_header().origin;
        let (name, sealed) = seal_run(&keyring, &random, origin, &run).unwrap();
        prop_assert_eq!(open_run(&keyring, &name, &sealed.bytes), Ok(run));
        let mut entries: Vec<_> = (0..=g.below(4)).map(|_| g.entry()).collect();
        for entry in &entries {
            let mut out = Encoder::new();
            entry.encode(&mut out);
            let bytes = out.finish();
            let mut decoder = Decoder::new(&bytes);
            prop_assert_eq!(&EntryRecord::decode(&mut decoder).unwrap(), entry);
            prop_assert_eq!(decoder.finish(), Ok(()));
        }
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries.dedup_by(|a, b| a.key == b.key);
        let node = Node::Leaf(entries.into_iter().map(std::sync::Arc::new).collect());
        prop_assert_eq!(Node::decode(&node.encode()).unwrap().encode(), node.encode());
    }

    #[test]
    fn the_sum_of_entries_depends_on_neither_order_nor_runs(seed: u64) {
        let mut g = Gen::new(seed);
        let runs: Vec<_> = (0..4).map(|_| g.tables(false)).collect();
        let sum = |order: &[usize]| {
            let mut sum = EntrySum::default();
            for i in order {
                sum.add(&runs[*i], |_| true);
            }
            sum
        };
        prop_assert_eq!(sum(&[0, 1, 2, 3]), sum(&[3, 1, 0, 2]));
        if runs.iter().any(|r| !r.entries.is_empty()) {
            prop_assert_ne!(sum(&[0, 1, 2, 3]).hash(), sum(&[]).hash());
        }
        let mut nothing = EntrySum::default();
        for run in &runs {
            nothing.add(run, |_| false);
        }
        prop_assert_eq!(nothing, EntrySum::default());
    }

    #[test]
    fn both_ciphers_make_the_same_object(seed: u64, payload: Vec<u8>) {
        let (keyring, random) = (fixed_keyring(), SeededRandom::new(seed));
        let sealed = seal_object(&keyring, &random, ObjectType::Note, Origin::None, "notes/x", &payload).unwrap();
        let header = Header::decode(&sealed.bytes, ObjectType::Note).unwrap();
        let plan = Plan {
            secret: *keyring.newest().unwrap().secret.expose(),
            repository: keyring.repository().0,
            object_type: 11,
            variant: 0,
            epoch: 1,
            origin: [0; 24],
            salt: header.salt,
            extra: Vec::new(),
            name: "notes/x".into(),
        };
        prop_assert_eq!(plan.object(&padded(&payload, 104)), sealed.bytes.to_vec());
    }
}

#[test]
fn a_record_opens_under_its_own_name_type_and_key_only() {
    let (mut g, keyring, random) = (Gen::new(1), fixed_keyring(), SeededRandom::new(9));
    let (record, other) = (g.session(), g.session());
    let (name, sealed) = seal_record(&keyring, &random, &record).unwrap();
    let class = |name: &ObjectName, object: &[u8]| {
        open_record::<holdall::format::session::SessionRecord>(&keyring, name, object).unwrap_err()
    };
    let renamed = ObjectName::Session(other.sid);
    assert_eq!(class(&renamed, &sealed.bytes), DecodeError::BadTag);
    assert_eq!(
        class(&ObjectName::Snapshot(record.sid), &sealed.bytes),
        DecodeError::BadTag
    );
    let stranger = Keyring::generate(&SeededRandom::new(77), keyring.repository()).unwrap();
    let foreign = open_record::<holdall::format::session::SessionRecord>(&stranger, &name, &sealed.bytes);
    assert_eq!(foreign, Err(DecodeError::WrongKey));
    let forget = open_record::<holdall::format::session::ForgetRecord>(&keyring, &name, &sealed.bytes);
    assert_eq!(forget.unwrap_err().class(), "header");

    let state = g.state();
    let (name, sealed) = seal_record(&keyring, &random, &state).unwrap();
    let read = |name: &ObjectName| {
        open_record::<holdall::format::collect::StateRecord>(&keyring, name, &sealed.bytes)
    };
    assert_eq!(read(&name), Ok(state.clone()));
    let round = state.round.wrapping_add(1).max(1);
    assert_eq!(
        read(&ObjectName::State(round, sealed.id)).unwrap_err().class(),
        "invalid"
    );
    assert_eq!(
        read(&ObjectName::State(state.round, ObjectId([1; 32])))
            .unwrap_err()
            .class(),
        "invalid"
    );
}

#[test]
fn what_could_not_be_read_again_is_not_sealed() {
    let (mut g, keyring, random) = (Gen::new(1), fixed_keyring(), SeededRandom::new(9));
    let mut session = g.session();
    session.host = "h".repeat(1025);
    assert!(seal_record(&keyring, &random, &session).is_err());
    let mut note = g.note();
    note.note = NoteRecord {
        tags: Some(vec!["b".into(), "a".into()]),
        ..NoteRecord::default()
    };
    assert!(seal_record(&keyring, &random, &note).is_err());
    let mut run = g.tables(false);
    while run.entries.is_empty() {
        run = g.tables(false);
    }
    run.entries[0].encoded = u32::MAX;
    assert!(seal_run(&keyring, &random, Origin::Round(1), &run).is_err());
    assert!(seal_run(&keyring, &random, Origin::None, &Tables::default()).is_err());
}

#[test]
fn no_key_and_no_nonce_is_used_twice() {
    let (keyring, random) = (fixed_keyring(), SeededRandom::new(3));
    let mut salts = HashSet::new();
    let mut commitments = HashSet::new();
    for _ in 0..20_000 {
        let sealer = Sealer::new(&keyring, &random, ObjectType::Pack, Origin::Round(1), "", 0).unwrap();
        let header = Header::decode(sealer.header(), ObjectType::Pack).unwrap();
        assert!(salts.insert(header.salt) && commitments.insert(header.commitment));
    }
    let mut sealer = Sealer::new(&keyring, &random, ObjectType::Pack, Origin::Round(1), "", 0).unwrap();
    let mut nonces = HashSet::from([nonce(TRAILER_RECORD, true)]);
    let mut sealed = HashSet::new();
    for expected in 0..10_000 {
        let (index, offset, len) = sealer.record(b"the same plaintext", false).unwrap();
        assert_eq!(index, expected);
        assert!(nonces.insert(nonce(index, false)) && nonces.insert(nonce(index, true)));
        assert!(sealed.insert((offset, len)));
    }
    let header = sealer.header().to_vec();
    let object = sealer.finish().unwrap().bytes;
    let records: HashSet<_> = object[104..object.len() - 32].chunks(34).collect();
    assert_eq!(records.len(), 10_000, "two records of one object are equal");
    let opener = Opener::new(&keyring, &header, ObjectType::Pack, "").unwrap();
    assert_eq!(
        opener.record(5, false, &object[104 + 34 * 5..][..34]).unwrap(),
        b"the same plaintext"
    );
    for (index, last) in [(6, false), (5, true), (4, false)] {
        let moved = opener.record(index, last, &object[104 + 34 * 5..][..34]);
        assert_eq!(moved.unwrap_err(), DecodeError::BadTag);
    }
}
