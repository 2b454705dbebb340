//! Readers, those who let go and protect, damage, and puts that are applied late.

use crate::state::*;
use crate::steps::{Steps, page};
use crate::view::*;

/// Chapter 85 section 3.
pub fn reader(s: &State, g: &Scenario, out: &mut Steps) {
    let r = s.reader;
    match r.pc {
        0 => {
            let n = newest(s);
            out.add(
                s,
                |t| t.reader = Reader { pc: 1, n, ..r },
                || format!("R reads the log: seal {n}"),
            );
        }
        1 if r.sid != 0 => out.add(
            s,
            |t| t.reader.pc = 2,
            || format!("R goes on with s{}", r.sid - 1),
        ),
        1 => {
            let readable = counting(s, g, r.n, commits(s)) & !(s.forgets & !s.notes);
            for sid in bits(readable.into()) {
                let change = |t: &mut State| (t.reader.sid, t.reader.pc) = (sid as u8 + 1, 2);
                out.add(s, change, || format!("R lists snapshots, opens s{sid}"));
            }
        }
        2 => out.add(
            s,
            |t| (t.reader.runs, t.reader.pc) = (page(s, 0), 3),
            || "R lists index page 0".into(),
        ),
        3 => {
            let next = if g.drops("reader-stable-list") { 5 } else { 4 };
            let change = |t: &mut State| (t.reader.runs, t.reader.pc) = (r.runs | page(s, 1), next);
            out.add(s, change, || "R lists index page 1".into());
        }
        4 => {
            let n = newest(s);
            let change = |t: &mut State| {
                t.reader = if n == r.n {
                    Reader { pc: 5, ..r }
                } else {
                    Reader {
                        sid: r.sid,
                        ..Reader::default()
                    }
                }
            };
            out.add(s, change, || format!("R reads the log again: seal {n}"));
        }
        5 => read(s, g, out),
        6 | 7 => unreadable(s, g, out),
        _ => {}
    }
}

fn read(s: &State, g: &Scenario, out: &mut Steps) {
    let r = s.reader;
    let sid = usize::from(r.sid) - 1;
    let view = entries(s, g, r.runs, r.n);
    let there = within(view, s.packs & !s.quarantined);
    let mut got = s.needs[sid] & !usable(there) == 0;
    if g.drops("every-copy") {
        // The first that is listed, or nothing.
        got = bits(s.needs[sid].into()).all(|blob| {
            let copies =
                (0..PACKS).flat_map(|pack| bits(kinds(view, pack).into()).map(move |kind| (pack, kind)));
            let first = copies.into_iter().find(|(_, kind)| KINDS[*kind].0 == blob);
            first.is_some_and(|(pack, kind)| {
                let based = KINDS[kind].1.is_none_or(|base| has(usable(there), base));
                has(s.packs, pack) && based
            })
        });
    }
    if got {
        out.add(
            s,
            |t| {
                t.reader = Reader {
                    pc: DONE,
                    ..Reader::default()
                }
            },
            || format!("R reads all of s{sid}"),
        );
    } else {
        let no_entry = s.needs[sid] & !usable(view) != 0;
        let change = |t: &mut State| t.reader.pc = if no_entry { 7 } else { 6 };
        out.add(s, change, || format!("R finds no copy of a blob of s{sid}"));
    }
}

/// R4.
fn unreadable(s: &State, g: &Scenario, out: &mut Steps) {
    let (r, n) = (s.reader, newest(s));
    let sid = usize::from(r.sid) - 1;
    let done = Reader {
        pc: DONE,
        ..Reader::default()
    };
    if n != r.n && !(r.pc == 7 && g.drops("reader-stable-list")) {
        let change = |t: &mut State| {
            t.reader = Reader {
                sid: r.sid,
                ..Reader::default()
            }
        };
        out.add(s, change, || format!("R sees seal {n}: lists again"));
        return;
    }
    let known = has(s.acknowledged, sid) && (!has(s.let_go, sid) || has(s.promised, sid));
    let damaged = s.quarantined != 0 && !has(s.aware, sid);
    if known && !damaged {
        out.add(
            s,
            |t| t.bad = 1,
            || format!("R says that s{sid} is damaged, or forgotten"),
        );
    } else {
        out.add(
            s,
            |t| t.reader = done,
            || format!("R says that s{sid} is forgotten, damaged, or was never acknowledged"),
        );
    }
}

/// Section 5: protecting looks again after it has put its note.
pub fn protector(s: &State, g: &Scenario, out: &mut Steps) {
    let p = s.protector;
    let sid = usize::from(p.sid);
    match p.pc {
        0 => {
            let free = counting(s, g, newest(s), commits(s)) & !s.forgets & !s.notes;
            for sid in bits(free.into()) {
                let change = |t: &mut State| {
                    t.protector = Protector {
                        pc: 1,
                        sid: sid as u8,
                    }
                };
                out.add(s, change, || format!("P finds s{sid} without a forget"));
            }
        }
        1 => {
            let change = |t: &mut State| {
                t.notes |= 1 << sid;
                t.protector.pc = 2;
                if g.drops("protect-looks-again") {
                    t.promised |= 1 << sid;
                    t.protector.pc = 3;
                }
            };
            out.add(s, change, || format!("P puts a note that protects s{sid}"));
        }
        2 => {
            let counts = has(counting(s, g, newest(s), commits(s)), sid) || g.drops("protect-finds-it");
            let ok = !has(s.forgets, sid) && counts;
            let change = |t: &mut State| {
                t.promised |= u8::from(ok) << sid;
                t.protector.pc = if ok { 3 } else { DONE };
            };
            out.add(s, change, || {
                format!(
                    "P looks again: s{sid} is {}protected",
                    if ok { "" } else { "not " }
                )
            });
        }
        3 => {
            let change = |t: &mut State| {
                t.notes &= !(1 << sid);
                t.promised &= !(1 << sid);
                t.protector.pc = DONE;
            };
            out.add(s, change, || format!("P ends the protection of s{sid}"));
        }
        _ => {}
    }
}

/// Somebody lets a snapshot go, protected or not; a pack turns out to be damaged.
pub fn events(s: &State, g: &Scenario, out: &mut Steps) {
    if s.forgets_left > 0 {
        let going = counting(s, g, newest(s), commits(s)) & !s.let_go & !s.forgets;
        for sid in bits(going.into()) {
            let change = |t: &mut State| {
                t.forgets_left -= 1;
                t.forgets |= 1 << sid;
                t.let_go |= 1 << sid;
            };
            out.add(s, change, || format!("F puts forgets/s{sid}"));
        }
    }
    if g.drops("undelete-is-a-session") {
        for sid in bits(s.forgets.into()).filter(|sid| s.decision[*sid] == COMMIT) {
            let change = |t: &mut State| {
                t.forgets &= !(1 << sid);
                t.let_go &= !(1 << sid);
            };
            out.add(s, change, || format!("U deletes forgets/s{sid}"));
        }
    }
    if s.damage_left > 0 {
        for pack in bits(s.packs.into()) {
            let change = |t: &mut State| {
                t.damage_left -= 1;
                t.quarantined |= 1 << pack;
            };
            out.add(s, change, || {
                format!("D finds pack {pack} damaged, puts it into the ledger")
            });
        }
    }
}

/// A put that was sent once is applied when its key is free.
pub fn late_puts(s: &State, out: &mut Steps) {
    if s.late_puts == 0 {
        return;
    }
    let mut late = |what: String, change: &dyn Fn(&mut State)| {
        let change = |t: &mut State| {
            t.late_puts -= 1;
            change(t);
        };
        out.add(s, change, || format!("a late put makes {what} again"));
    };
    for pack in (0..usize::from(s.packs_made)).filter(|pack| !has(s.packs, *pack)) {
        late(format!("pack {pack}"), &|t| t.packs |= 1 << pack);
    }
    for run in (0..usize::from(s.runs_made)).filter(|run| s.runs >> run & 1 == 0) {
        late(format!("run {run}"), &|t| t.runs |= 1 << run);
    }
    for sid in 0..usize::from(s.sids) {
        let bit = 1 << sid;
        if !has(s.sessions, sid) {
            late(format!("sessions/s{sid}"), &|t| t.sessions |= bit);
        }
        if s.decision[sid] == 0 && has(s.committed, sid) {
            late(format!("the commit of s{sid}"), &|t| t.decision[sid] = COMMIT);
        }
        if s.decision[sid] == 0 && has(s.fenced, sid) {
            late(format!("the fence of s{sid}"), &|t| t.decision[sid] = FENCE);
        }
        if has(s.let_go, sid) && !has(s.forgets, sid) {
            late(format!("forgets/s{sid}"), &|t| t.forgets |= bit);
        }
    }
}
