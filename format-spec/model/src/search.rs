//! Breadth first: the first violation is one of the shortest.

use crate::collector::collector;
use crate::others::{events, late_puts, protector, reader};
use crate::state::*;
use crate::steps::Steps;
use crate::view::*;
use crate::writer::writer;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};

pub struct Found {
    pub states: usize,
    pub depth: usize,
    /// Whether every state was seen.
    pub exhausted: bool,
    pub violation: Option<String>,
    pub trace: Vec<String>,
    /// States in which a snapshot was acknowledged, and from which a collector was let run alone.
    pub acknowledged: u64,
    pub drained: u64,
}

fn steps(s: &State, g: &Scenario, labels: bool) -> Steps {
    let mut out = Steps::new(labels);
    for i in 0..g.writers {
        writer(s, g, i, &mut out);
    }
    for i in 0..g.collectors {
        collector(s, g, i, g.rounds, &mut out);
    }
    if g.reader {
        reader(s, g, &mut out);
    }
    if g.protector {
        protector(s, g, &mut out);
    }
    events(s, g, &mut out);
    late_puts(s, &mut out);
    out
}

pub fn search(start: &State, g: &Scenario, most: usize) -> Found {
    let mut seen: HashSet<u128, BuildHasherDefault<Known>> = HashSet::default();
    seen.insert(fingerprint(start));
    // Of each state, the one before it and the number of the step.
    let mut parents: Vec<(u32, u16)> = vec![(0, 0)];
    let mut front = vec![(0u32, start.clone())];
    let mut found = Found {
        states: 1,
        depth: 0,
        exhausted: true,
        violation: violation(start, g),
        trace: Vec::new(),
        acknowledged: 0,
        drained: 0,
    };
    let mut last = 0;
    'search: while !front.is_empty() && found.violation.is_none() {
        found.depth += 1;
        let mut next = Vec::new();
        for (number, state) in front.drain(..) {
            for (at, (state, _)) in steps(&state, g, false).next.into_iter().enumerate() {
                if !seen.insert(fingerprint(&state)) {
                    continue;
                }
                last = parents.len() as u32;
                parents.push((number, at as u16));
                found.acknowledged +=
                    u64::from(state.acknowledged & !state.let_go & !start.acknowledged != 0);
                found.violation = violation(&state, g);
                if found.violation.is_none() && last.is_multiple_of(97) {
                    found.drained += 1;
                    found.violation = drained(&state, g);
                }
                if found.violation.is_some() {
                    break 'search;
                }
                if parents.len() >= most {
                    found.exhausted = false;
                    break 'search;
                }
                next.push((last, state));
            }
        }
        front = next;
    }
    found.states = parents.len();
    if found.violation.is_some() {
        found.exhausted = false;
        found.trace = trace(start, g, &parents, last);
    }
    found
}

fn trace(start: &State, g: &Scenario, parents: &[(u32, u16)], mut at: u32) -> Vec<String> {
    let mut path = Vec::new();
    while at != 0 {
        let (before, step) = parents[at as usize];
        path.push(step);
        at = before;
    }
    let (mut state, mut told) = (start.clone(), Vec::new());
    for step in path.into_iter().rev() {
        let (next, label) = steps(&state, g, true).next.swap_remove(usize::from(step));
        state = next;
        told.push(label);
    }
    told
}

/// Everybody stops, and one collector runs alone: no void key and no pack without a needed blob may stay.
fn drained(s: &State, g: &Scenario) -> Option<String> {
    let mut s = State {
        collectors: Default::default(),
        late_puts: 0,
        ..s.clone()
    };
    let g = Scenario {
        orders: false,
        reprieve: false,
        ..g.clone()
    };
    let last = (newest(&s) + 5).min(ROUNDS as u8 - 2);
    for step in 0.. {
        let mut out = Steps::new(false);
        collector(&s, &g, 0, last, &mut out);
        if out.next.is_empty() {
            break;
        }
        if step > 400 {
            return Some("a collector that is alone does not end".into());
        }
        s = out.next.swap_remove(0).0;
        if usize::from(s.packs_made) >= PACKS || usize::from(s.runs_made) >= RUNS {
            return None;
        }
    }
    let n = newest(&s);
    let need = blobs_of(&s, counting(&s, &g, n, commits(&s)) & !(s.forgets & !s.notes));
    let copies = within(entries(&s, &g, s.runs, n), s.packs);
    let (chosen, _) = keep(&g, copies, need, &[!s.quarantined, 0xff], false);
    let garbage = |pack: &usize| {
        let useless = listed(at(s.content[*pack], *pack)) & need == 0;
        kinds(chosen, *pack) == 0 && useless
    };
    if let Some(pack) = bits(s.packs.into()).find(garbage) {
        return Some(format!("pack {pack} is never reclaimed"));
    }
    let is_left = |sid: &usize| s.decision[*sid] != 0 && is_void(&s, &g, n, *sid);
    let left = (0..usize::from(s.sids)).find(is_left);
    left.map(|sid| format!("snapshots/s{sid} is void and is never removed"))
}

fn fingerprint(s: &State) -> u128 {
    let mut hasher = Wide(0xcbf2_9ce4_8422_2325, 0x9e37_79b9_7f4a_7c15);
    s.hash(&mut hasher);
    u128::from(hasher.0) << 64 | u128::from(hasher.1)
}

/// 128 bits of a state: two that are equal by it are taken for one.
struct Wide(u64, u64);

impl Hasher for Wide {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let word = u64::from_le_bytes(word);
            self.0 = (self.0 ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
            self.0 ^= self.0 >> 32;
            self.1 = (self.1.rotate_left(23) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
            self.1 ^= self.1 >> 29;
        }
    }
}

/// Fingerprints need no hash.
#[derive(Default)]
struct Known(u64);

impl Hasher for Known {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, value: u128) {
        self.0 = (value >> 64) as u64 ^ (value as u64).rotate_left(31);
    }
}
