//! Cases with a script: who sleeps where, and who works meanwhile.

use holdall::context::mutant::{Mutant, switch};
use holdall::testkit::sim::{At, Beat, Ended, Role, Seen, act, act_at};

const WRITER: Role = Role::Writer { project: 0 };
const OTHER: Role = Role::Writer { project: 1 };

/// B as a delta of C and C as a delta of B, each where the whole copy of its base is about to go.
fn two_deltas_of_each_other() -> Result<Ended, String> {
    use Beat::{Done, Forget, Until, Version};
    let actors = [
        WRITER,
        OTHER,
        WRITER,
        OTHER,
        Role::Collector,
        Role::Collector,
        Role::Collector,
        Role::Collector,
    ];
    let script = [
        // B is stored whole.
        Version(0, 0, 1),
        Done(0),
        // A session of the same project holds C as a delta of B, and waits.
        Version(0, 0, 2),
        Until(2, "put", "packs/"),
        // Another project stores C whole, for it sees no other copy.
        Version(1, 0, 2),
        Done(1),
        // B whole is condemned.
        Forget(0),
        Until(4, "put", "gc/0000000000000001/condemned"),
        Beat::Requests(4, 1),
        // The other project stores B as a delta of C.
        Version(1, 0, 1),
        Done(3),
        Done(2),
        Done(4),
        // Now the whole copy of C has no snapshot of its own.
        Forget(1),
        Done(5),
        Done(6),
        Done(7),
    ];
    act(&actors, &script, false)
}

#[test]
fn two_writers_that_store_deltas_of_each_others_chunks_keep_a_whole_copy() {
    let ended = two_deltas_of_each_other().unwrap();
    assert!(
        ended.seen.deltas >= 2 && ended.seen.rounds >= 3,
        "{:?}",
        ended.seen
    );
    // The case is the one that it is meant to be: a collector that keeps deltas where it can loses both.
    switch(Some(Mutant::DeltasOnly));
    let lost = two_deltas_of_each_other();
    switch(None);
    assert!(lost.is_err());
}

/// Plays with one actor asleep at each of its first requests in turn, the last of which it does not reach; gives what happened.
fn asleep_at_every_request(
    actors: &[Role],
    before: &[Beat],
    sleeper: usize,
    meanwhile: &[Beat],
) -> Vec<Seen> {
    let course = |asleep_at: u64| {
        let script = [before, &[Beat::Requests(sleeper, asleep_at)], meanwhile].concat();
        let ended = act(actors, &script, false);
        ended
            .unwrap_or_else(|why| panic!("asleep at request {asleep_at}: {why}"))
            .seen
    };
    (0..60).map(course).collect()
}

#[test]
fn a_writer_that_sleeps_for_days_at_any_request_commits_nothing_that_is_gone() {
    use Beat::{Days, Done, Forget, Version};
    // An old snapshot that is let go holds what the sleeper wants to rest on.
    let actors = [
        WRITER,
        WRITER,
        WRITER,
        Role::Collector,
        Role::Collector,
        Role::Collector,
    ];
    let before = [
        Version(0, 1, 1),
        Done(0),
        Version(0, 1, 2),
        Done(1),
        Version(0, 1, 1),
        Forget(0),
    ];
    let meanwhile = [Days(2), Done(3), Days(1), Done(4), Days(1), Done(5)];
    let seen = asleep_at_every_request(&actors, &before, 2, &meanwhile);
    // Where it is done before it sleeps, its snapshot needs all of the old one's data, and no round is worth its requests.
    assert!(seen.iter().any(|seen| seen.fences > 0 && seen.rounds > 1));
    assert!(seen.iter().all(|seen| seen.snapshots == 3), "{seen:?}");
}

#[test]
fn a_collector_that_sleeps_for_days_at_any_request_deletes_nothing_that_is_needed() {
    use Beat::{Days, Done, Forget, Version};
    let actors = [
        WRITER,
        WRITER,
        Role::Collector,
        Role::Collector,
        WRITER,
        Role::Collector,
        Role::Collector,
    ];
    let before = [Version(0, 1, 1), Done(0), Version(0, 1, 2), Done(1), Forget(0)];
    let meanwhile = [
        Days(2),
        Done(3),
        Version(0, 1, 1),
        Done(4),
        Days(1),
        Done(5),
        Forget(1),
        Days(1),
        Done(6),
    ];
    let seen = asleep_at_every_request(&actors, &before, 2, &meanwhile);
    assert!(seen.iter().all(|seen| seen.snapshots == 3 && seen.rounds > 2));
    // Beaten by another one, or not.
    assert!(seen.iter().any(|seen| seen.errors > 0) && seen.iter().any(|seen| seen.errors == 0));
}

#[test]
fn a_restore_that_is_slow_goes_on_across_two_collections() {
    use Beat::{Done, Forget, Version};
    let actors = [
        WRITER,
        WRITER,
        WRITER,
        Role::Restorer,
        Role::Collector,
        Role::Collector,
        Role::Collector,
    ];
    // Each file changes in another snapshot: packs are left half empty, and what the restore wants is copied.
    let before = [
        Version(0, 0, 1),
        Done(0),
        Version(0, 1, 1),
        Done(1),
        Version(0, 2, 1),
        Done(2),
        Forget(0),
        Forget(1),
    ];
    let meanwhile = [Done(4), Done(5), Done(6)];
    let seen = asleep_at_every_request(&actors, &before, 3, &meanwhile);
    assert!(seen.iter().all(|seen| seen.packs_deleted > 0 && seen.errors == 0));
}

#[test]
fn a_copier_that_sleeps_for_days_at_any_request_leaves_both_stores_whole() {
    use Beat::{Days, Done, Forget, Requests, Version};
    let home = |role| (role, At::Home);
    let actors = [
        home(WRITER),
        home(WRITER),
        home(Role::Copier),
        home(Role::Copier),
        home(Role::Collector),
        (Role::Collector, At::Replica),
        (Role::Collector, At::Replica),
    ];
    for asleep_at in 0..60 {
        let script = [
            Version(0, 1, 1),
            Done(0),
            Done(2),
            Version(0, 1, 2),
            Done(1),
            Forget(0),
            Requests(3, asleep_at),
            Days(2),
            Done(4),
            Done(5),
            Days(1),
            Done(6),
        ];
        let ended = act_at(&actors, &script, false);
        let seen = ended
            .unwrap_or_else(|why| panic!("asleep at request {asleep_at}: {why}"))
            .seen;
        assert_eq!(seen.copies, 2, "asleep at request {asleep_at}: {seen:?}");
    }
}

/// A rule is kept in a case that is made for it, and missed once it is switched off.
fn only_with(mutant: Mutant, actors: &[Role], script: &[Beat]) {
    let ended = act(actors, script, false);
    assert!(ended.is_ok(), "{mutant:?}: {ended:?}");
    switch(Some(mutant));
    let lost = act(actors, script, false);
    switch(None);
    println!("{mutant:?}: {lost:?}");
    assert!(lost.is_err(), "{mutant:?} is not missed");
}

#[test]
fn a_delta_whose_base_is_gone_is_not_reused() {
    use Beat::{Done, Forget, Version, Without};
    let actors = [WRITER, WRITER, WRITER, Role::Sweeper, Role::Sweeper, WRITER];
    let script = [
        Without(0, 1),
        Without(0, 2),
        Version(0, 0, 1),
        Done(0),
        // A delta, beside something whole that stays.
        Version(0, 0, 2),
        Version(0, 5, 1),
        Done(1),
        Without(0, 0),
        Done(2),
        Forget(0),
        Forget(1),
        Done(3),
        Done(4),
        Version(0, 0, 2),
        Done(5),
    ];
    only_with(Mutant::ReuseIgnoresBases, &actors, &script);
}

#[test]
fn what_an_uncommitted_session_lists_is_claimed_or_stored_again() {
    use Beat::{Days, Done, Forget, Requests, Until, Version};
    let actors = [WRITER, WRITER, WRITER, Role::Collector, Role::Collector];
    let script = [
        Version(0, 1, 1),
        Done(0),
        Forget(0),
        Until(3, "put", "gc/0000000000000001/state"),
        // It begins when the round has listed for the last time, and sleeps before its index run.
        Version(0, 1, 2),
        Until(1, "put", "index/s"),
        Done(3),
        Days(2),
        Until(4, "put", "gc/0000000000000002/state"),
        Requests(1, 1),
        Done(2),
        Done(4),
    ];
    only_with(Mutant::UncommittedReused, &actors, &script);
}

#[test]
fn a_commit_that_comes_late_is_no_snapshot_to_a_session_that_lists_meanwhile() {
    use Beat::{Days, Done, Forget, Requests, Until, Version};
    let actors = [WRITER, WRITER, WRITER, Role::Collector, Role::Collector];
    let script = [
        Version(0, 1, 1),
        Done(0),
        Forget(0),
        Until(3, "put", "gc/0000000000000001/state"),
        Version(0, 1, 2),
        Until(1, "put", "index/s"),
        Done(3),
        Days(2),
        // It is fenced, and the round has listed for the last time, when its index run comes.
        Until(4, "put", "gc/0000000000000002/seal"),
        Until(2, "list", "index/s"),
        Requests(1, 1),
        Requests(2, 1),
        // The fence is swept away, and the commit comes.
        Done(4),
        Requests(1, 1),
        Done(2),
    ];
    only_with(Mutant::WriterUnstable, &actors, &script);
}

#[test]
fn what_a_session_below_the_floor_has_left_is_not_claimed() {
    use Beat::{Again, Days, Done, Forget, Until, Version};
    let actors = [
        WRITER,
        WRITER,
        WRITER,
        Role::Collector,
        Role::Collector,
        Role::Collector,
        OTHER,
    ];
    let script = [
        Version(0, 1, 1),
        Done(0),
        Done(6),
        // It is fenced before it commits, and does not wake until the end.
        Version(0, 1, 2),
        Until(1, "put", "snapshots/"),
        Forget(0),
        Days(2),
        Done(3),
        Days(2),
        // What it has left is garbage now: this collector kills it, and sleeps before it deletes.
        Until(4, "delete", "packs/"),
        Forget(6),
        Done(5),
        Again("packs/"),
        Again("index/s"),
        Done(2),
        Done(4),
    ];
    only_with(Mutant::ClaimBelowFloor, &actors, &script);
}

#[test]
fn a_session_that_sleeps_before_it_is_put_begins_anew() {
    use Beat::{Done, Forget, Until, Version};
    let actors = [WRITER, WRITER, Role::Collector, Role::Collector];
    let script = [
        Version(0, 1, 1),
        Done(0),
        // It knows of no seal, and is put when the second round has listed for the last time.
        Version(0, 1, 2),
        Until(1, "put", "sessions/"),
        Forget(0),
        Done(2),
        Until(3, "put", "gc/0000000000000002/state"),
        Done(1),
        Done(3),
    ];
    only_with(Mutant::NoComparison, &actors, &script);
}
