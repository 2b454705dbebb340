//! Chapter 85 section 1: void, valid run, view, usable; and which copies to keep.

use crate::state::*;

const NONE: u8 = u8::MAX;

pub fn newest(s: &State) -> u8 {
    (0..ROUNDS).rev().find(|n| s.rounds[*n].seal != 0).unwrap_or(0) as u8
}

/// What the round after `n` has condemned.
pub fn condemned_after(s: &State, n: u8) -> u8 {
    match s.rounds.get(usize::from(n) + 1) {
        Some(round) if round.condemned_by != 0 => round.condemned,
        _ => 0,
    }
}

pub fn kinds(copies: Copies, pack: usize) -> u8 {
    (copies >> (8 * pack)) as u8
}

pub fn at(kinds: u8, pack: usize) -> Copies {
    Copies::from(kinds) << (8 * pack)
}

pub fn within(copies: Copies, packs: u8) -> Copies {
    (0..PACKS)
        .filter(|p| has(packs, *p))
        .fold(0, |sum, p| sum | copies & at(0xff, p))
}

pub fn of_packs(s: &State, packs: u8) -> Copies {
    (0..PACKS)
        .filter(|p| has(packs, *p))
        .fold(0, |sum, p| sum | at(s.content[p], p))
}

fn run_is_valid(s: &State, g: &Scenario, n: u8, run: usize) -> bool {
    let (origin, round) = (s.run_origin[run], &s.rounds[usize::from(n)]);
    if origin & ROUND != 0 {
        g.drops("collector-runs-named") || round.runs >> run & 1 == 1
    } else {
        g.drops("session-runs-floor") || s.epoch[usize::from(origin)] >= round.floor
    }
}

/// The entries of the valid ones of these runs.
pub fn entries(s: &State, g: &Scenario, runs: u16, n: u8) -> Copies {
    let valid = bits(runs).filter(|run| run_is_valid(s, g, n, *run));
    let all = valid.fold(0, |sum, run| sum | s.run_entries[run]);
    if g.drops("dead-subtracted") {
        all
    } else {
        within(all, !s.rounds[usize::from(n)].dead)
    }
}

/// Of each blob, the length of its shortest chain.
fn depths(copies: Copies) -> [u8; BLOBS] {
    let all = (0..PACKS).fold(0, |sum, pack| sum | kinds(copies, pack));
    let mut depths = [NONE; BLOBS];
    for depth in 0..BLOBS as u8 {
        for (kind, (blob, base)) in KINDS.iter().enumerate() {
            let ends = match base {
                None => depth == 0,
                Some(base) => depth > 0 && depths[*base] == depth - 1,
            };
            if has(all, kind) && depths[*blob] == NONE && ends {
                depths[*blob] = depth;
            }
        }
    }
    depths
}

/// Blobs with a chain that ends in a whole copy. A delta never counts through itself.
pub fn usable(copies: Copies) -> u8 {
    let depths = depths(copies);
    (0..BLOBS)
        .filter(|b| depths[*b] != NONE)
        .fold(0, |sum, b| sum | 1 << b)
}

/// Blobs with any copy.
pub fn listed(copies: Copies) -> u8 {
    let all = (0..PACKS).fold(0, |sum, pack| sum | kinds(copies, pack));
    bits(u16::from(all)).fold(0, |sum, kind| sum | 1 << KINDS[kind].0)
}

/// Blobs of which some chain runs through one of these packs.
pub fn tainted(copies: Copies, packs: u8) -> u8 {
    let mut tainted = listed(within(copies, packs));
    for _ in 0..BLOBS {
        for pack in 0..PACKS {
            for kind in bits(u16::from(kinds(copies, pack))) {
                if let (blob, Some(base)) = KINDS[kind]
                    && has(tainted, base)
                {
                    tainted |= 1 << blob;
                }
            }
        }
    }
    tainted
}

/// One usable copy of each blob, and its bases: of the first of the sets of packs that gives it a chain, copies of a shortest one.
/// Gives the copies, and blobs without a chain anywhere.
pub fn keep(g: &Scenario, copies: Copies, need: u8, tiers: &[u8], last_first: bool) -> (Copies, u8) {
    let (mut chosen, mut left) = (0, need);
    for packs in tiers {
        let here = within(copies, *packs);
        let wanted = left & usable(here);
        left &= !wanted;
        chosen |= choose(g, here, wanted, last_first);
    }
    (chosen, left)
}

fn choose(g: &Scenario, copies: Copies, mut wanted: u8, last_first: bool) -> Copies {
    let (depths, mut chosen, mut done) = (depths(copies), 0, 0u8);
    let any_depth = g.drops("shortest-chains");
    for depth in (0..BLOBS as u8).rev() {
        for _ in 0..BLOBS {
            for blob in 0..BLOBS {
                if !has(wanted, blob) || has(done, blob) || (depths[blob] != depth && !any_depth) {
                    continue;
                }
                done |= 1 << blob;
                let fits = |kind: &usize| match KINDS[*kind] {
                    (of, _) if of != blob => false,
                    (_, None) => any_depth || depth == 0,
                    (_, Some(base)) if any_depth => depths[base] != NONE,
                    (_, Some(base)) => depth > 0 && depths[base] == depth - 1,
                };
                let mut order: Vec<usize> = (0..PACKS).collect();
                if last_first {
                    order.reverse();
                }
                // Where the depth does not count, deltas come first.
                let found = order.iter().find_map(|pack| {
                    let mut of_pack: Vec<_> = bits(u16::from(kinds(copies, *pack))).filter(fits).collect();
                    if any_depth {
                        of_pack.reverse();
                    }
                    Some((*pack, *of_pack.first()?))
                });
                let Some((pack, kind)) = found else { continue };
                chosen |= at(1 << kind, pack);
                if let Some(base) = KINDS[kind].1
                    && !g.drops("bases-marked")
                {
                    wanted |= 1 << base;
                }
            }
        }
    }
    chosen
}

pub fn is_void(s: &State, g: &Scenario, n: u8, sid: usize) -> bool {
    let round = &s.rounds[usize::from(n)];
    !g.drops("void") && s.epoch[sid] < round.floor && !has(round.live, sid)
}

/// Those of some sessions that count.
pub fn counting(s: &State, g: &Scenario, n: u8, sids: u8) -> u8 {
    let made = 0..usize::from(s.sids);
    made.filter(|sid| has(sids, *sid) && !is_void(s, g, n, *sid))
        .fold(0, |sum, sid| sum | 1 << sid)
}

pub fn commits(s: &State) -> u8 {
    let made = 0..usize::from(s.sids);
    made.filter(|sid| s.decision[*sid] == COMMIT)
        .fold(0, |sum, sid| sum | 1 << sid)
}

pub fn finished(s: &State) -> u8 {
    let made = 0..usize::from(s.sids);
    made.filter(|sid| s.decision[*sid] != 0)
        .fold(0, |sum, sid| sum | 1 << sid)
}

pub fn blobs_of(s: &State, sids: u8) -> u8 {
    (0..SIDS)
        .filter(|sid| has(sids, *sid))
        .fold(0, |sum, sid| sum | s.needs[sid])
}

/// The goal: what was acknowledged, and not let go or protected against that, has all its blobs.
pub fn violation(s: &State, g: &Scenario) -> Option<String> {
    match s.bad {
        0 => {}
        1 => return Some("a reader says damaged, or forgotten, of a snapshot that is neither".into()),
        _ => return Some("a round has no chain for a blob that is needed".into()),
    }
    let n = newest(s);
    let there = within(entries(s, g, s.runs, n), s.packs);
    let valid = s.acknowledged & (!s.let_go | s.promised);
    for sid in bits(u16::from(valid)) {
        if s.decision[sid] != COMMIT || is_void(s, g, n, sid) {
            return Some(format!("acknowledged snapshot s{sid} is void or gone"));
        }
        // Damage takes from those that were there before it was known what it takes; those that came later must not rest on it.
        let whole = if has(s.aware, sid) {
            within(there, !s.quarantined)
        } else {
            there
        };
        let lost = s.needs[sid] & !usable(whole);
        if lost != 0 {
            return Some(format!("acknowledged snapshot s{sid} has lost {}", blobs(lost)));
        }
    }
    None
}
