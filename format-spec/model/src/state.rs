//! What the store holds, and where each actor stands. Sets of packs, runs, sessions and blobs are bits.

use std::collections::BTreeSet;

pub const PACKS: usize = 8;
pub const RUNS: usize = 12;
pub const SIDS: usize = 7;
pub const ROUNDS: usize = 9;
pub const BLOBS: usize = 3;

/// What a record of a pack may be: a blob, and its base if it is a delta.
pub const KINDS: [(usize, Option<usize>); 7] = [
    (0, None),
    (1, None),
    (1, Some(0)),
    (2, None),
    (2, Some(1)),
    (0, Some(1)),
    (2, Some(0)),
];
pub const A: u8 = 1;
pub const B: u8 = 2;
pub const B_ON_A: u8 = 4;
pub const C: u8 = 8;
pub const C_ON_B: u8 = 16;
pub const A_ON_B: u8 = 32;
pub const C_ON_A: u8 = 64;

/// Copies of blobs: the kinds of each pack, eight bits for each.
pub type Copies = u64;

/// Marks an origin that is a round, not a session.
pub const ROUND: u8 = 0x80;

/// The program counter of an actor that is done.
pub const DONE: u8 = 99;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Writer {
    pub pc: u8,
    pub sid: u8,
    pub epoch: u8,
    /// The newest seal as it was read last.
    pub n: u8,
    /// Blobs of its snapshot.
    pub need: u8,
    /// Packs that the next round has condemned, and those that are quarantined.
    pub condemned: u8,
    pub quarantined: u8,
    pub runs: u16,
    pub commits: u8,
    pub forgets: u8,
    pub upload: u8,
    pub claim: u8,
    /// Packs that it has put, in all its sessions, and these sessions.
    pub own: u8,
    pub earlier: u8,
    pub tries: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Collector {
    pub pc: u8,
    pub n: u8,
    pub open: u8,
    pub sessions: u8,
    pub commits: u8,
    pub finished: u8,
    /// Forgets as listed; once notes are listed, the effective ones.
    pub forgets: u8,
    pub notes: u8,
    pub packs: u8,
    pub runs: u16,
    pub quarantined: u8,
    pub condemned: u8,
    pub dead: u8,
    /// Kinds of the pack that it is going to put.
    pub copy: u8,
    pub entries: Copies,
    pub live: u8,
    pub run: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Reader {
    pub pc: u8,
    pub n: u8,
    /// The snapshot that it reads, plus one.
    pub sid: u8,
    pub runs: u16,
}

/// One that protects a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Protector {
    pub pc: u8,
    pub sid: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Round {
    /// 1 + the collector whose `condemned` it is; 0 for none.
    pub condemned_by: u8,
    pub condemned: u8,
    /// 0 none, 1 aborted, 2 swept.
    pub seal: u8,
    pub floor: u8,
    pub live: u8,
    pub runs: u16,
    pub dead: u8,
}

pub const FENCE: u8 = 1;
pub const COMMIT: u8 = 2;

#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    /// Packs that are there; what all that ever were hold, and whose they are.
    pub packs: u8,
    pub content: [u8; PACKS],
    pub pack_origin: [u8; PACKS],
    pub packs_made: u8,
    pub runs: u16,
    pub run_entries: [Copies; RUNS],
    pub run_origin: [u8; RUNS],
    pub runs_made: u8,
    pub epoch: [u8; SIDS],
    pub sids: u8,
    pub sessions: u8,
    pub decision: [u8; SIDS],
    pub needs: [u8; SIDS],
    /// Commits and fences that were ever sent: they may be applied late.
    pub committed: u8,
    pub fenced: u8,
    pub forgets: u8,
    /// Those that somebody ever let go.
    pub let_go: u8,
    pub acknowledged: u8,
    /// Notes that protect, and those whose putter was told that they hold.
    pub notes: u8,
    pub promised: u8,
    /// Packs that are damaged and known to be, and sessions that began after that was known.
    pub quarantined: u8,
    pub aware: u8,
    pub rounds: [Round; ROUNDS],
    pub late_puts: u8,
    pub forgets_left: u8,
    pub damage_left: u8,
    /// What went wrong that an actor has seen.
    pub bad: u8,
    pub writers: [Writer; 3],
    pub collectors: [Collector; 2],
    pub reader: Reader,
    pub protector: Protector,
}

/// A scenario.
#[derive(Clone, Default)]
pub struct Scenario {
    pub name: &'static str,
    pub writers: usize,
    pub needs: [u8; 3],
    pub collectors: usize,
    /// The last round that is begun.
    pub rounds: u8,
    pub forgets: u8,
    pub late_puts: u8,
    pub damage: u8,
    pub start: u8,
    /// How often a writer begins anew.
    pub tries: u8,
    pub reader: bool,
    pub protector: bool,
    pub repack: bool,
    pub reprieve: bool,
    pub deltas: bool,
    pub parent: bool,
    pub adopt: bool,
    /// Copies are chosen in both orders.
    pub orders: bool,
    /// Rules that are dropped.
    pub dropped: BTreeSet<&'static str>,
}

impl Scenario {
    pub fn drops(&self, rule: &'static str) -> bool {
        !self.dropped.is_empty() && self.dropped.contains(rule)
    }
}

/// The numbers of the bits that are set.
pub fn bits(set: u16) -> impl Iterator<Item = usize> {
    (0..16).filter(move |n| set >> n & 1 == 1)
}

pub fn has(set: u8, n: usize) -> bool {
    set >> n & 1 == 1
}

pub fn show(set: u16) -> String {
    let all: Vec<_> = bits(set).map(|n| n.to_string()).collect();
    format!("[{}]", all.join(","))
}

pub fn blobs(set: u8) -> String {
    let names = bits(u16::from(set)).map(|n| char::from(b'A' + n as u8));
    format!("{{{}}}", names.collect::<String>())
}

pub fn records(set: u8) -> String {
    let names = ["A", "B", "B/A", "C", "C/B", "A/B", "C/A"];
    let all: Vec<_> = bits(u16::from(set)).map(|n| names[n]).collect();
    all.join(" ")
}
