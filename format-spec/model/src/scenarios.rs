//! Worlds to begin with, and what may happen in them.

use crate::state::*;
use crate::view::of_packs;

impl State {
    fn pack(&mut self, content: u8, origin: u8) -> u8 {
        let pack = usize::from(self.packs_made);
        self.packs_made += 1;
        self.packs |= 1 << pack;
        (self.content[pack], self.pack_origin[pack]) = (content, origin);
        1 << pack
    }

    fn run(&mut self, packs: u8, origin: u8) {
        let run = usize::from(self.runs_made);
        self.runs_made += 1;
        self.runs |= 1 << run;
        (self.run_entries[run], self.run_origin[run]) = (of_packs(self, packs), origin);
    }

    /// A session of epoch 0 that has committed, and whose writer knows it.
    fn snapshot(&mut self, needs: u8) {
        let sid = usize::from(self.sids);
        self.sids += 1;
        self.sessions |= 1 << sid;
        self.decision[sid] = COMMIT;
        self.needs[sid] = needs;
        self.committed |= 1 << sid;
        self.acknowledged |= 1 << sid;
    }

    /// Sessions that have each put one pack and one run of it, and committed the blobs.
    fn each(&mut self, all: &[(u8, u8)]) {
        for (content, needs) in all {
            let origin = self.sids;
            let pack = self.pack(*content, origin);
            self.run(pack, origin);
            self.snapshot(*needs);
        }
    }
}

const BLOB_A: u8 = 1;
const BLOB_B: u8 = 2;
const BLOB_C: u8 = 4;

pub fn start(g: &Scenario) -> State {
    let mut s = State {
        late_puts: g.late_puts,
        forgets_left: g.forgets,
        damage_left: g.damage,
        ..State::default()
    };
    s.rounds[1].seal = 2;
    for (i, writer) in s.writers.iter_mut().enumerate() {
        (writer.need, writer.pc) = if i < g.writers { (g.needs[i], 0) } else { (0, DONE) };
    }
    match g.start {
        0 => s.each(&[(A | B, BLOB_A | BLOB_B)]),
        1 => s.each(&[(A, BLOB_A)]),
        // A base and its delta in two packs.
        2 => {
            let packs = s.pack(A, 0) | s.pack(B_ON_A, 0);
            s.run(packs, 0);
            s.snapshot(BLOB_A | BLOB_B);
        }
        // Two copies of one blob.
        3 => s.each(&[(A, BLOB_A), (A, BLOB_A)]),
        // A pack that is sparse once the second is let go.
        4 => s.each(&[(A, BLOB_A), (A | B, BLOB_A | BLOB_B)]),
        // A delta in a pack that stays for another blob.
        5 => {
            let first = s.pack(A, 0);
            let packs = first | s.pack(A | B_ON_A, 1);
            s.run(packs, 1);
            s.snapshot(BLOB_A);
            s.snapshot(BLOB_A | BLOB_B);
        }
        // B in two encodings in one pack.
        6 => {
            let packs = s.pack(B | B_ON_A, 0) | s.pack(A, 0);
            s.run(packs, 0);
            s.snapshot(BLOB_B);
            s.snapshot(BLOB_A);
        }
        // B is garbage in the pack of A.
        8 => s.each(&[(A | B, BLOB_A)]),
        // B as a delta, and whole.
        10 => {
            s.each(&[(A, BLOB_A), (B_ON_A, BLOB_B), (B, BLOB_B)]);
            (s.epoch[1], s.epoch[2]) = (1, 1);
        }
        // A collector sleeps among its deletes; the pack it is to delete is one of a session that was fenced.
        12 => sleeping_deleter(&mut s, 1),
        13 => {
            sleeping_deleter(&mut s, 2);
            (s.decision[0], s.sessions) = (FENCE, 1);
        }
        // A chain of three, each in its pack; then one of which every blob is a snapshot's.
        20 => {
            let packs = s.pack(A, 0) | s.pack(B_ON_A, 0) | s.pack(C_ON_B, 0);
            s.run(packs, 0);
            s.snapshot(BLOB_C);
        }
        21 => s.each(&[(A, BLOB_A), (B_ON_A, BLOB_B), (C_ON_B, BLOB_C)]),
        // A and B whole, and each as a delta of the other.
        22 => s.each(&[(A_ON_B | B_ON_A, BLOB_A | BLOB_B), (A, BLOB_A), (B, BLOB_B)]),
        // B is a delta of A, which no snapshot has; and B whole.
        23 => {
            let packs = s.pack(A, 0) | s.pack(B_ON_A, 0) | s.pack(B, 0);
            s.run(packs, 0);
            s.snapshot(BLOB_B);
        }
        // The middle of a chain is there twice.
        24 => s.each(&[(A, BLOB_A), (B_ON_A | C_ON_B, BLOB_C), (B, BLOB_B)]),
        _ => {}
    }
    s
}

fn sleeping_deleter(s: &mut State, epoch: u8) {
    s.pack(A, 0);
    s.packs = 0;
    s.snapshot(BLOB_A);
    (s.acknowledged, s.decision[0], s.sessions, s.epoch[0]) = (0, 0, 0, epoch);
    s.rounds[1].seal = 0;
    s.rounds[3] = Round {
        seal: 2,
        floor: 2,
        dead: 1,
        ..Round::default()
    };
    s.writers[0] = Writer {
        need: BLOB_A,
        own: 1,
        earlier: 1,
        ..Writer::default()
    };
    s.collectors[1] = Collector {
        pc: 22,
        n: 3,
        ..Collector::default()
    };
}

/// `start`, blobs of each writer's snapshot, collectors, last round, forgets, late puts.
fn new(
    name: &'static str,
    start: u8,
    needs: &[u8],
    (collectors, rounds, forgets, late_puts): (usize, u8, u8, u8),
) -> Scenario {
    let mut all = [0; 3];
    all[..needs.len()].copy_from_slice(needs);
    Scenario {
        name,
        start,
        writers: needs.len(),
        needs: all,
        collectors,
        rounds,
        forgets,
        late_puts,
        tries: 1,
        repack: true,
        reprieve: true,
        orders: true,
        ..Scenario::default()
    }
}

pub fn scenarios() -> Vec<Scenario> {
    let mut all = older();
    all.extend(newer());
    all
}

/// Those of the first model: two blobs.
fn older() -> Vec<Scenario> {
    let small = |g: Scenario| Scenario {
        orders: false,
        reprieve: false,
        tries: 0,
        ..g
    };
    vec![
        new("S1 reuse x forget", 0, &[1], (1, 2, 1, 0)),
        new("S2 reuse x forget, 2 rounds, late put", 0, &[1], (1, 3, 1, 1)),
        new("S3 reuse x forget, 2 collectors, 2 rounds", 1, &[1], (2, 3, 1, 0)),
        new("S4 2 writers store the same", 1, &[1, 1], (1, 2, 1, 0)),
        Scenario {
            adopt: true,
            ..new("S5 2 writers, any adopts any, 2 rounds", 9, &[1, 1], (1, 3, 0, 0))
        },
        Scenario {
            adopt: true,
            ..new("S6 empty repository, 3 rounds, late put", 9, &[1], (1, 4, 0, 1))
        },
        Scenario {
            deltas: true,
            ..new("S7 delta and base, 2 rounds", 2, &[2], (1, 3, 1, 0))
        },
        Scenario {
            deltas: true,
            repack: false,
            ..new("S8 dead delta in a live pack, 2 forgets", 5, &[2], (1, 3, 2, 0))
        },
        Scenario {
            deltas: true,
            ..new("S9 one blob in two encodings", 6, &[2], (1, 3, 1, 0))
        },
        Scenario {
            parent: true,
            ..new("S10 parent reuse, late put", 1, &[1], (1, 3, 1, 1))
        },
        Scenario {
            parent: true,
            deltas: true,
            ..new("S11 parent reuse and deltas", 2, &[3], (1, 3, 1, 0))
        },
        Scenario {
            reader: true,
            ..new("S12 reader x repack, 2 rounds", 4, &[], (1, 3, 1, 0))
        },
        Scenario {
            reader: true,
            ..new("S13 reader x writer x collector", 1, &[3], (1, 3, 1, 0))
        },
        new("S14 2 collectors, 3 rounds, two copies", 3, &[], (2, 4, 1, 0)),
        new("S15 sparse pack, its dead blob is used", 4, &[2], (1, 3, 1, 0)),
        Scenario {
            repack: false,
            ..new("S16 the same, and it is kept", 4, &[2], (1, 3, 1, 0))
        },
        new(
            "S17 2 writers, reuse of an open session",
            9,
            &[1, 1],
            (1, 3, 0, 0),
        ),
        new("S18 late run of a live sid", 8, &[2], (1, 3, 0, 1)),
        Scenario {
            repack: false,
            orders: false,
            ..new("S19 3 rounds, late put", 1, &[1], (1, 4, 1, 1))
        },
        new(
            "S20 sleeping deleter x late pack x adoption",
            12,
            &[1],
            (2, 4, 0, 1),
        ),
        Scenario {
            reader: true,
            repack: false,
            ..new("S21 reader, two encodings, a base dies", 10, &[], (1, 3, 1, 0))
        },
        small(new("S22 2 writers, 2 collectors", 1, &[1, 3], (2, 2, 1, 0))),
        small(new("S23 3 writers", 1, &[1, 2, 3], (1, 2, 1, 0))),
        small(new("S24 2 writers, 2 rounds, late put", 1, &[1, 1], (1, 3, 1, 1))),
        small(Scenario {
            tries: 1,
            ..new("S25 2 collectors, 2 rounds, late put", 1, &[1], (2, 3, 1, 1))
        }),
        small(Scenario {
            tries: 1,
            ..new("S26 S20, the origin not below the floor", 13, &[1], (2, 5, 0, 1))
        }),
        new("S27 S2 with two late puts", 0, &[1], (1, 3, 1, 2)),
        new("S28 S14 with a late put", 3, &[], (2, 4, 1, 1)),
        Scenario {
            deltas: true,
            ..new("S29 S7 with a late put", 2, &[2], (1, 3, 1, 1))
        },
        Scenario {
            reader: true,
            ..new("S30 S12 with a late put", 4, &[], (1, 3, 1, 1))
        },
    ]
}

/// Chains of three blobs, forgets without an effect, damaged packs.
fn newer() -> Vec<Scenario> {
    let chain = |g: Scenario| Scenario { deltas: true, ..g };
    let protected = |g: Scenario| Scenario { protector: true, ..g };
    let damaged = |g: Scenario| Scenario { damage: 1, ..g };
    vec![
        chain(new("T1 chain of three, its end is used", 20, &[4], (1, 3, 1, 0))),
        chain(new(
            "T2 chain, one snapshot of each, 2 forgets",
            21,
            &[4],
            (1, 3, 2, 0),
        )),
        chain(Scenario {
            parent: true,
            ..new("T3 T2 with parent reuse", 21, &[6], (1, 3, 2, 0))
        }),
        Scenario {
            repack: false,
            ..new("T4 two deltas of each other, 2 rounds", 22, &[3], (1, 3, 2, 0))
        },
        new("T5 T4 with repacking", 22, &[1], (1, 3, 2, 0)),
        chain(Scenario {
            parent: true,
            ..new("T6 base of the parent's delta", 23, &[6], (1, 3, 1, 0))
        }),
        chain(new(
            "T7 the middle of a chain twice, late put",
            24,
            &[4],
            (1, 3, 1, 1),
        )),
        Scenario {
            reader: true,
            ..new("T8 reader of a chain x repack", 24, &[], (1, 3, 2, 0))
        },
        chain(Scenario {
            adopt: true,
            ..new("T9 chains adopted, empty repository", 9, &[7], (1, 3, 0, 0))
        }),
        protected(new("P1 protect x forget, 2 rounds", 1, &[], (1, 3, 1, 0))),
        protected(Scenario {
            parent: true,
            ..new("P2 P1 with parent reuse", 1, &[1], (1, 3, 1, 0))
        }),
        protected(Scenario {
            reader: true,
            ..new("P3 reader of a protected snapshot", 3, &[], (1, 3, 1, 0))
        }),
        protected(new("P4 protect x forget, late put", 1, &[], (1, 4, 1, 1))),
        Scenario {
            parent: true,
            reprieve: false,
            ..new(
                "P5 let go during a round, parent reuse, repack",
                8,
                &[1],
                (1, 2, 1, 0),
            )
        },
        damaged(new("Q1 damage x two copies, 2 rounds", 3, &[1], (1, 3, 1, 0))),
        damaged(Scenario {
            parent: true,
            ..new("Q2 Q1 with parent reuse", 3, &[1], (1, 2, 0, 0))
        }),
        damaged(chain(new("Q3 damage in a chain", 24, &[4], (1, 2, 0, 0)))),
        damaged(Scenario {
            reader: true,
            ..new("Q4 reader x damage x two copies", 3, &[1], (1, 2, 0, 0))
        }),
        damaged(Scenario {
            repack: false,
            ..new("Q5 damage, a late put, 2 rounds", 3, &[1], (1, 3, 0, 1))
        }),
        damaged(chain(Scenario {
            parent: true,
            ..new("Q6 damaged base of the parent's delta", 23, &[2], (1, 2, 0, 0))
        })),
    ]
}

/// Rules that hold something up, each with a scenario in which its loss is seen: one of them only where a collector leaves young packs.
pub const RULES: &[(&str, &str)] = &[
    ("wait", "S1"),
    ("mark-again", "S1"),
    ("void", "S2"),
    ("condemned-subtracted", "S1"),
    ("list-before-seal", "S1"),
    ("decide-again", "S1"),
    ("condemned-before-list", "S1"),
    ("session-before-reads", "S1"),
    ("w8", "S2"),
    ("w3", "S2"),
    ("floor", "S1"),
    ("session-runs-floor", "S18"),
    ("collector-runs-named", "S19"),
    ("g9", "S14"),
    ("superseded-stops", "S3"),
    ("bases-marked", "S7"),
    ("reuse-bases", "S8"),
    ("new-bases-checked", "S7"),
    ("entries-conserved", "S16"),
    ("reader-stable-list", "S12"),
    ("writer-stable-list", "S2"),
    ("every-copy,-young-origins", "S21"),
    ("dead-subtracted", "S5"),
    ("claims-floor", "S20"),
    ("committed-runs", "S2"),
    ("index-at-g6", "S2"),
    ("parent-forgets", "S10"),
    ("undelete-is-a-session", "S1"),
    ("shortest-chains", "T4"),
    ("bases-of-content", "T6"),
    ("notes-after-forgets", "P1"),
    ("protect-looks-again", "P1"),
    ("protect-finds-it", "P1"),
    ("effective-forgets", "P1"),
    ("forgets-of-g1", "P5"),
    ("quarantine-in-w4", "Q1"),
    ("quarantine-in-rounds", "Q1"),
    ("ledger-at-g6", "Q1"),
    ("quarantine-and-parents", "Q2"),
    ("quarantine-parents-condemned", "Q2"),
];

/// Not rules: what a collector may do or leave.
pub const VARIANTS: &[&str] = &["-finished-origins", "-young-origins", "-old-seals-go"];
