//! What every store must do, one behaviour to a function; [`crate::store_suite!`] makes tests of them.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "these are bodies of tests: a panic is how they fail"
)]

use crate::context::Context;
use crate::error::ErrorKind;
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::{ObjectName, Prefix};
use crate::store::{Capability, Listed, Put, Race, Store};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

/// A behaviour: its name, and what proves it on a fresh, empty, writable store.
pub type Behaviour = (&'static str, fn(Store) -> BoxFuture<'static, ()>);

macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        /// All behaviours.
        pub const ALL: &[Behaviour] = &[$((stringify!($name), |store| $name(store).boxed())),*];

        /// One test for each behaviour, on the store that the expression gives (with what must live as long as it).
        #[macro_export]
        macro_rules! store_suite {
            ($new:expr) => {
                $(
                    #[tokio::test]
                    async fn $name() {
                        let (store, _kept) = $new;
                        $crate::testkit::store_suite::$name(store).await;
                    }
                )*
            };
        }
    };
}

behaviours! {
    an_object_reads_back_whole_and_in_parts,
    a_part_behind_the_end_is_short_or_empty,
    an_empty_object_is_an_object,
    a_taken_name_is_never_written_again,
    the_same_bytes_again_are_mine,
    an_absent_object_is_not_found,
    a_deleted_object_is_gone_and_its_name_free,
    a_listing_shows_its_prefix_in_order,
    a_listing_goes_on_behind_a_name,
    a_listing_of_many_pages_is_complete,
    of_many_writers_one_wins,
    the_probe_finds_put_if_absent,
    a_race_has_one_winner_and_leaves_nothing,
    a_read_only_handle_cannot_write,
    an_object_over_the_limit_is_refused,
    a_pack_of_32_mib_goes_there_and_back,
}

fn sid(n: u8) -> SessionId {
    SessionId {
        epoch: 7,
        random: [n.max(1); 16],
    }
}

fn pack(n: u32) -> ObjectName {
    let mut id = [0; 32];
    let hash = blake3::hash(&n.to_le_bytes());
    id.copy_from_slice(hash.as_bytes());
    ObjectName::Pack(ObjectId(id))
}

/// Bytes that no compression and no repetition hides a mistake in.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out.into()
}

async fn put(store: &Store, name: ObjectName, bytes: impl Into<Bytes>) {
    assert_eq!(store.put_new(&name, bytes.into()).await.unwrap(), Put::Created);
}

async fn names(store: &Store, prefix: Prefix) -> Vec<ObjectName> {
    let listed: Vec<Listed> = store.list(prefix).try_collect().await.unwrap();
    listed
        .into_iter()
        .map(|l| match l {
            Listed::Object(info) => info.name,
            Listed::Foreign { name, .. } => panic!("foreign: {name}"),
        })
        .collect()
}

/// Whole, any part, size and age.
pub async fn an_object_reads_back_whole_and_in_parts(store: Store) {
    let bytes = noise(1, 3_000_000);
    let name = pack(1);
    put(&store, name, bytes.clone()).await;
    assert_eq!(store.get(&name).await.unwrap(), bytes);
    for range in [
        0..1,
        17..4711,
        1_048_576..2_097_152,
        2_999_999..3_000_000,
        0..3_000_000,
    ] {
        let part = store.get_range(&name, range.clone()).await.unwrap();
        assert_eq!(
            part,
            bytes.slice(range.start as usize..range.end as usize),
            "{range:?}"
        );
    }
    let info = store.head(&name).await.unwrap();
    assert_eq!((info.name, info.size), (name, 3_000_000));
    assert!(info.last_modified.seconds > 1_500_000_000, "{info:?}");
}

/// Never an error, never made-up bytes.
pub async fn a_part_behind_the_end_is_short_or_empty(store: Store) {
    put(&store, ObjectName::Key(0), &b"0123456789"[..]).await;
    let part = async |range| store.get_range(&ObjectName::Key(0), range).await.unwrap();
    assert_eq!(part(5..100).await, &b"56789"[..]);
    assert_eq!(part(10..11).await, &b""[..]);
    assert_eq!(part(1000..2000).await, &b""[..]);
    assert_eq!(part(4..4).await, &b""[..]);
}

/// Put, read, listed.
pub async fn an_empty_object_is_an_object(store: Store) {
    put(&store, ObjectName::Key(0), Bytes::new()).await;
    assert_eq!(store.get(&ObjectName::Key(0)).await.unwrap(), Bytes::new());
    assert_eq!(store.head(&ObjectName::Key(0)).await.unwrap().size, 0);
    assert_eq!(names(&store, Prefix::Keys).await, [ObjectName::Key(0)]);
    assert_eq!(
        store
            .put_new(&ObjectName::Key(0), Bytes::from("x"))
            .await
            .unwrap(),
        Put::Conflict
    );
}

/// The first bytes stay.
pub async fn a_taken_name_is_never_written_again(store: Store) {
    put(&store, ObjectName::Marker, &b"first"[..]).await;
    for other in ["other", "firsT", "first and more", "fir", ""] {
        let put = store
            .put_new(&ObjectName::Marker, Bytes::from(other))
            .await
            .unwrap();
        assert_eq!(put, Put::Conflict, "{other}");
        assert_eq!(store.get(&ObjectName::Marker).await.unwrap(), &b"first"[..]);
    }
}

/// Told apart from a conflict.
pub async fn the_same_bytes_again_are_mine(store: Store) {
    let bytes = noise(2, 200_000);
    put(&store, pack(2), bytes.clone()).await;
    assert_eq!(store.put_new(&pack(2), bytes).await.unwrap(), Put::Mine);
}

/// By its kind, with name and store in the message.
pub async fn an_absent_object_is_not_found(store: Store) {
    let name = ObjectName::Snapshot(sid(3));
    for error in [
        store.get(&name).await.unwrap_err(),
        store.get_range(&name, 0..10).await.unwrap_err(),
        store.head(&name).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert_eq!(error.context("object"), Some(name.to_string().as_str()));
        assert_eq!(error.context("store"), Some(store.label()));
    }
    assert!(names(&store, Prefix::Snapshots).await.is_empty());
    assert!(names(&store, Prefix::All).await.is_empty());
}

/// And a second delete is no error.
pub async fn a_deleted_object_is_gone_and_its_name_free(store: Store) {
    let name = ObjectName::Session(sid(4));
    put(&store, name, &b"1"[..]).await;
    store.delete(&name).await.unwrap();
    store.delete(&name).await.unwrap();
    assert_eq!(store.get(&name).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(names(&store, Prefix::Sessions).await.is_empty());
    put(&store, name, &b"2"[..]).await;
    assert_eq!(store.get(&name).await.unwrap(), &b"2"[..]);
}

/// All below the prefix, at any depth, and nothing beside it.
pub async fn a_listing_shows_its_prefix_in_order(store: Store) {
    let id = ObjectId([0x5a; 32]);
    let all = [
        ObjectName::Config(0),
        ObjectName::Condemned(1),
        ObjectName::Seal(1),
        ObjectName::State(1, id),
        ObjectName::Seal(2),
        ObjectName::Marker,
        ObjectName::CollectorRun(1, id),
        ObjectName::SessionRun(sid(1), id),
        ObjectName::SessionRun(sid(2), id),
        ObjectName::Key(0),
        ObjectName::Key(1),
        ObjectName::Note(sid(1), 0),
        pack(5),
        ObjectName::Session(sid(1)),
        ObjectName::Snapshot(sid(1)),
    ];
    for (i, name) in all.iter().enumerate() {
        put(&store, *name, vec![b'x'; i]).await;
    }
    assert_eq!(names(&store, Prefix::All).await, all);
    assert_eq!(names(&store, Prefix::Gc).await, all[1..5]);
    assert_eq!(names(&store, Prefix::SessionRuns).await, all[7..9]);
    assert_eq!(names(&store, Prefix::RunsOf(sid(2))).await, all[8..9]);
    assert_eq!(names(&store, Prefix::CollectorRuns).await, all[6..7]);
    assert_eq!(names(&store, Prefix::Keys).await, all[9..11]);
    assert_eq!(names(&store, Prefix::Packs).await, all[12..13]);
    assert_eq!(names(&store, Prefix::Notes).await, all[11..12]);
    assert!(names(&store, Prefix::Refs).await.is_empty());
    let mut listed = store.list(Prefix::Keys);
    let Listed::Object(info) = listed.next().await.unwrap().unwrap() else {
        panic!("foreign");
    };
    assert_eq!((info.name, info.size), (ObjectName::Key(0), 9));
    assert!(info.last_modified.seconds > 1_500_000_000, "{info:?}");
}

/// Exclusive of the name itself.
pub async fn a_listing_goes_on_behind_a_name(store: Store) {
    for n in 1..=20 {
        put(&store, ObjectName::Seal(n), &b"s"[..]).await;
    }
    let after: Vec<Listed> = store
        .list_after(Prefix::Gc, &ObjectName::Seal(17))
        .try_collect()
        .await
        .unwrap();
    let after: Vec<_> = after
        .into_iter()
        .map(|l| match l {
            Listed::Object(info) => info.name,
            Listed::Foreign { name, .. } => panic!("foreign: {name}"),
        })
        .collect();
    assert_eq!(
        after,
        [ObjectName::Seal(18), ObjectName::Seal(19), ObjectName::Seal(20)]
    );
}

/// S3 gives 1,000 names to a page.
pub async fn a_listing_of_many_pages_is_complete(store: Store) {
    stream::iter(0..2100_u32)
        .for_each_concurrent(16, |n| {
            let store = store.clone();
            async move { put(&store, pack(n), n.to_le_bytes().to_vec()).await }
        })
        .await;
    let mut expected: Vec<String> = (0..2100).map(|n| pack(n).to_string()).collect();
    expected.sort();
    let found: Vec<String> = names(&store, Prefix::Packs)
        .await
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, expected);
}

/// And each learns what became of his bytes.
pub async fn of_many_writers_one_wins(store: Store) {
    for round in 1..=4 {
        let name = ObjectName::Snapshot(sid(round));
        let puts = (0..16_u64).map(|n| {
            let store = store.clone();
            async move { store.put_new(&name, noise(n, 1000)).await.unwrap() }
        });
        let outcomes = join_all(puts).await;
        let winners: Vec<usize> = (0..16).filter(|&i| outcomes[i] == Put::Created).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|o| *o != Put::Mine), "{outcomes:?}");
        assert_eq!(store.get(&name).await.unwrap(), noise(winners[0] as u64, 1000));
    }
}

/// Without changing anything.
pub async fn the_probe_finds_put_if_absent(store: Store) {
    let bytes = noise(9, 700);
    put(&store, ObjectName::Marker, bytes.clone()).await;
    let found = store.probe(&ObjectName::Marker, bytes.clone()).await.unwrap();
    assert_eq!(found, Capability::PutIfAbsent);
    assert_eq!(store.get(&ObjectName::Marker).await.unwrap(), bytes);
    let absent = store.probe(&ObjectName::Key(9), bytes).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
}

/// Over several rounds.
pub async fn a_race_has_one_winner_and_leaves_nothing(store: Store) {
    let context = Context::deterministic(5).unwrap();
    assert_eq!(store.probe_race(3, &context).await.unwrap(), Race::OneWinner);
    assert!(names(&store, Prefix::All).await.is_empty());
}

/// Before anything is sent.
pub async fn a_read_only_handle_cannot_write(store: Store) {
    put(&store, ObjectName::Key(0), &b"key"[..]).await;
    let reader = store.read_only();
    assert_eq!(reader.get(&ObjectName::Key(0)).await.unwrap(), &b"key"[..]);
    for error in [
        reader
            .put_new(&ObjectName::Key(1), Bytes::new())
            .await
            .map(drop)
            .unwrap_err(),
        reader.delete(&ObjectName::Key(0)).await.unwrap_err(),
        reader
            .probe(&ObjectName::Key(0), Bytes::from("key"))
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    }
    assert_eq!(names(&store, Prefix::All).await, [ObjectName::Key(0)]);
}

/// A bug of ours, told before it costs an upload.
pub async fn an_object_over_the_limit_is_refused(store: Store) {
    let bytes = Bytes::from(vec![0; (64 << 20) + 1]);
    let error = store.put_new(&pack(1), bytes).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(names(&store, Prefix::Packs).await.is_empty());
}

/// The size that packs have.
pub async fn a_pack_of_32_mib_goes_there_and_back(store: Store) {
    let bytes = noise(12, 32 << 20);
    put(&store, pack(12), bytes.clone()).await;
    assert!(store.get(&pack(12)).await.unwrap() == bytes);
}
