//! What a seed makes of a world: who works in it, how long things take, and what goes wrong.

use super::actors::{Post, Role};
use super::dice::Dice;
use super::store::At;
use std::fmt;
use std::time::Duration;

/// Kinds of worlds. Each has seeds of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Three writers, two collectors, and everybody else.
    Mixed,
    /// Two writers and two collectors, close together.
    TwoByTwo,
    /// Three writers of one project and a collector.
    ThreeWriters,
    /// One file that changes all the time: many deltas on one base, long chains.
    ManyDeltas,
    /// Several packs and index runs in each session.
    ManyPacks,
    /// Lists of many pages, each a request.
    Pages,
    /// A replica that snapshots are copied into, and that is written and collected too.
    Copies,
    /// A pack is damaged or lost; checks, repairs and snapshots go on, with a replica or without one.
    Damage,
    /// Snapshots that are protected, and a least number and age that the repository keeps.
    Retention,
    /// A store that keeps what is deleted for some time.
    Locked,
    /// A store with little room.
    Full,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Mixed,
        Self::TwoByTwo,
        Self::ThreeWriters,
        Self::ManyDeltas,
        Self::ManyPacks,
        Self::Pages,
        Self::Copies,
        Self::Damage,
        Self::Retention,
        Self::Locked,
        Self::Full,
    ];

    /// The family of a name, as it is printed.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.to_string() == name)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mixed => "mixed",
            Self::TwoByTwo => "two-by-two",
            Self::ThreeWriters => "three-writers",
            Self::ManyDeltas => "many-deltas",
            Self::ManyPacks => "many-packs",
            Self::Pages => "pages",
            Self::Copies => "copies",
            Self::Damage => "damage",
            Self::Retention => "retention",
            Self::Locked => "locked",
            Self::Full => "full",
        })
    }
}

/// Who goes on, where several can.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    /// Anybody.
    Uniform,
    /// Mostly who went on before.
    Sticky,
    /// The one of the highest rank; ranks change now and then.
    Ranked,
}

/// A world.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) actors: Vec<Post>,
    pub(super) has_replica: bool,
    pub(super) special: Special,
    pub(super) projects: u64,
    pub(super) files: u64,
    /// The least bytes of a file.
    pub(super) len: u64,
    pub(super) page: usize,
    pub(super) budget: u64,
    pub(super) uploads: usize,
    pub(super) style: Style,
    /// Milliseconds that a request takes, at most.
    pub(super) pace: u64,
    /// Milliseconds between operations, at most.
    pub(super) pause: u64,
    pub(super) lease: Duration,
    pub(super) stretch: u32,
    /// How often in a thousand requests each happens.
    pub(super) errors: u64,
    pub(super) lost: u64,
    pub(super) kills: u64,
    pub(super) sleeps: u64,
    pub(super) late: u64,
    pub(super) no_deltas: bool,
    /// Nobody does anything of itself.
    pub(super) is_staged: bool,
}

/// What only some kinds of worlds have.
#[derive(Clone, Debug, Default)]
pub(super) struct Special {
    has_replica: bool,
    /// The request at which packs are damaged or lost, and how many.
    pub(super) damage: Option<(u64, usize)>,
    /// All clocks are right.
    pub(super) no_skew: bool,
    pub(super) retain_last: u32,
    /// Seconds.
    pub(super) retain_age: u64,
    /// Milliseconds for which nothing is deleted.
    pub(super) lock: u64,
    /// Bytes that there is room for beside what is there in the beginning.
    pub(super) room: Option<u64>,
}

impl Special {
    fn of(self, family: Family, dice: &mut Dice) -> Self {
        match family {
            Family::Retention => Self {
                no_skew: true,
                retain_last: dice.pick(&[0, 1, 2]).unwrap_or(1),
                retain_age: dice.pick(&[0, 3600, 5 * DAY / 1000]).unwrap_or(0),
                ..self
            },
            Family::Locked => Self {
                lock: dice.pick(&[HOUR, DAY, 30 * DAY, 5_000 * DAY]).unwrap_or(DAY),
                ..self
            },
            Family::Full => Self {
                room: Some(10_000 + dice.below(60_000)),
                ..self
            },
            _ => self,
        }
    }
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

impl Plan {
    pub(super) fn of(family: Family, dice: &mut Dice) -> Self {
        let calm = dice.permille(250);
        let trouble = |dice: &mut Dice, most: u64| if calm { 0 } else { dice.below(most + 1) };
        let projects = match family {
            Family::Mixed | Family::Pages | Family::ManyPacks | Family::Copies => 1 + dice.below(2),
            _ => 1,
        };
        let (actors, special) = Self::posts(family, projects, dice);
        let pace = dice.pick(&[2, 1_000, MINUTE, 10 * MINUTE]).unwrap_or(2);
        let lease = dice.pick(&[0, 30 * MINUTE, 6 * HOUR, DAY]).unwrap_or(DAY);
        Self {
            actors,
            has_replica: family == Family::Copies || special.has_replica,
            special: special.of(family, dice),
            projects,
            files: if family == Family::ManyDeltas {
                2
            } else {
                2 + dice.below(4)
            },
            len: if family == Family::ManyDeltas { 1500 } else { 600 },
            page: match family {
                Family::Pages => 1 + dice.index(3),
                _ if dice.permille(300) => 4,
                _ => 1000,
            },
            budget: if family == Family::ManyPacks {
                64 << 10
            } else {
                64 << 20
            },
            uploads: 1 + dice.index(3),
            style: dice
                .pick(&[Style::Uniform, Style::Sticky, Style::Ranked])
                .unwrap_or(Style::Uniform),
            pace,
            pause: pace * 60,
            lease: Duration::from_millis(lease),
            stretch: dice.pick(&[10, 100, 1000]).unwrap_or(100),
            errors: trouble(dice, 20),
            lost: trouble(dice, 20),
            kills: trouble(dice, 6),
            sleeps: trouble(dice, 20),
            late: trouble(dice, 60),
            no_deltas: dice.permille(100),
            is_staged: false,
        }
    }

    /// Who works there, with what only this kind of world has.
    fn posts(family: Family, projects: u64, dice: &mut Dice) -> (Vec<Post>, Special) {
        let (writers, collectors) = match family {
            Family::Mixed | Family::Pages => (3, 2),
            Family::TwoByTwo | Family::ManyPacks | Family::Retention | Family::Locked => (2, 2),
            Family::Copies | Family::Damage | Family::Full | Family::ManyDeltas => (2, 1),
            Family::ThreeWriters => (3, 1),
        };
        let snapshots = if family == Family::ManyDeltas { 5 } else { 2 };
        let mut actors = Vec::new();
        let mut post = |role, at, operations| {
            actors.push(Post { role, at, operations });
        };
        for _ in 0..writers {
            let project = dice.index(usize::try_from(projects).unwrap_or(1));
            let operations = snapshots + u32::from(dice.permille(500));
            post(Role::Writer { project }, At::Home, operations);
        }
        for _ in 0..collectors {
            post(Role::Collector, At::Home, 2 + u32::from(dice.permille(500)));
        }
        post(Role::Forgetter, At::Home, 5);
        if matches!(family, Family::Mixed | Family::Pages) || dice.permille(300) {
            post(Role::Restorer, At::Home, 2);
        }
        if matches!(family, Family::Mixed | Family::Pages) || dice.permille(150) {
            post(Role::Checker, At::Home, 1);
        }
        let mut special = Special::default();
        match family {
            Family::Copies => Self::at_replica(dice, &mut post),
            Family::Damage => Self::with_damage(dice, &mut post, &mut special),
            Family::Retention => {
                post(Role::Protector, At::Home, 5);
                post(Role::Forgetter, At::Home, 5);
            }
            _ => {}
        }
        (actors, special)
    }

    /// Who copies, and who works on the replica meanwhile.
    fn at_replica(dice: &mut Dice, post: &mut impl FnMut(Role, At, u32)) {
        post(Role::Copier, At::Home, 3);
        post(Role::Collector, At::Replica, 2 + u32::from(dice.permille(500)));
        post(Role::Forgetter, At::Replica, 2);
        if dice.permille(400) {
            post(Role::Writer { project: 0 }, At::Replica, 2);
        }
        if dice.permille(400) {
            let at = dice.pick(&[At::Home, At::Replica]).unwrap_or(At::Home);
            post(Role::Copier, at, 2);
        }
        if dice.permille(200) {
            post(Role::Collector, At::Replica, 1);
        }
        if dice.permille(300) {
            post(Role::Restorer, At::Replica, 2);
        }
        if dice.permille(150) {
            post(Role::Checker, At::Replica, 1);
        }
    }

    /// What is damaged when, and who finds and mends it.
    fn with_damage(dice: &mut Dice, post: &mut impl FnMut(Role, At, u32), special: &mut Special) {
        special.damage = Some((100 + dice.below(700), 1 + dice.index(2)));
        special.has_replica = dice.permille(400);
        if special.has_replica {
            post(Role::Copier, At::Home, 2);
        }
        post(Role::Checker, At::Home, 3);
        post(Role::Repairer, At::Home, 2);
        post(Role::Restorer, At::Home, 2);
        post(Role::Writer { project: 0 }, At::Home, 2);
    }

    /// Nothing goes wrong, and a script says who goes on.
    pub(super) fn staged(actors: Vec<Post>) -> Self {
        let at_both = |post: &Post| post.at == At::Replica || post.role == Role::Copier;
        Self {
            has_replica: actors.iter().any(at_both),
            special: Special::default(),
            actors,
            projects: 2,
            files: 3,
            len: 800,
            page: 1000,
            budget: 64 << 20,
            uploads: 2,
            style: Style::Uniform,
            pace: 2,
            pause: 0,
            lease: Duration::from_secs(3600),
            stretch: 10,
            errors: 0,
            lost: 0,
            kills: 0,
            sleeps: 0,
            late: 0,
            no_deltas: false,
            is_staged: true,
        }
    }
}
