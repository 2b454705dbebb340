//! How a world begins: its stores, its projects, and who works in it.

use super::actors::{Machine, Role, Shared};
use super::content::Content;
use super::dice::Dice;
use super::keeping::Keeping;
use super::oracle::Oracle;
use super::plan::{DAY, Plan};
use super::source::Project;
use super::store::{At, Both, Core, Object, SimStore, Who, lock};
use super::world::{Actor, World, options};
use crate::chunk::ChunkParams;
use crate::context::Context;
use crate::error::Result;
use crate::format::header::append_trailer;
use crate::format::layout::ObjectName;
use crate::format::repo_config::ChunkProfile;
use crate::repository::{Cache, InitOptions, Repository};
use crate::store::Store;
use crate::testkit::repo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::time::Instant;

type Stores = (Arc<Mutex<Core>>, Arc<Notify>);

/// A store without anybody who works on it yet.
fn bare((core, arrived): &Stores, at: At, context: &Context) -> Result<Store> {
    let store = SimStore {
        core: core.clone(),
        arrived: arrived.clone(),
        at,
        who: Who::Beside(None),
    };
    Store::over(Arc::new(store), "memory:", &options(2), context)
}

/// The repository, and its replica if there is to be one.
async fn found(dice: &mut Dice, stores: &Stores, plan: &Plan) -> Result<Repository> {
    let context = Context::deterministic(dice.roll())?;
    let params = ChunkParams::new(512, 1024, 4096)?;
    let profile = ChunkProfile {
        name: "default".into(),
        params,
    };
    let options = InitOptions {
        profiles: vec![profile],
        padme: false,
        retain_last: plan.special.retain_last,
        retain_age: plan.special.retain_age,
        ..repo::init_options()
    };
    let cache = Arc::new(Cache::in_memory()?);
    let home = bare(stores, At::Home, &context)?;
    let repository = Repository::init(home, &context, options, cache).await?.repository;
    if plan.has_replica {
        let replica = bare(stores, At::Replica, &context)?;
        repository
            .make_replica(replica, &context, false, Cache::in_memory)
            .await?;
    }
    Ok(repository)
}

/// Bytes of each object that is reserved for collections in a store with little room.
const RESERVE: usize = 16 << 10;

/// Gives the store its limits.
fn confine(core: &Mutex<Core>, plan: &Plan, dice: &mut Dice) {
    let mut core = lock(core);
    let store = &mut core.stores.home;
    store.lock = plan.special.lock;
    if let Some(room) = plan.special.room {
        for number in 0..4 {
            let mut bytes: Vec<u8> = Vec::with_capacity(RESERVE);
            while bytes.len() < RESERVE {
                bytes.extend(dice.roll().to_le_bytes());
            }
            append_trailer(&mut bytes);
            let object = Object {
                bytes: bytes.into(),
                modified: 0,
            };
            store
                .there
                .insert(ObjectName::Reserve(number).to_string(), object);
        }
        store.room = Some(store.len() + room);
    }
}

fn watch(template: &Repository, core: &Mutex<Core>, plan: &Plan) -> Both<Mutex<Oracle>> {
    let content = Arc::new(Mutex::new(Content::default()));
    let watch = |at| {
        let keeping = Keeping::new(plan.special.retain_last, plan.special.retain_age);
        let mut oracle = Oracle::new(template.shared_keyring(), content.clone(), keeping);
        oracle.is_small = plan.special.room.is_some();
        let there = lock(core).stores.of(at).there.clone();
        let objects: Vec<(String, Object)> = there.into_iter().collect();
        for (name, object) in &objects {
            oracle.landed(name, &object.bytes);
        }
        Mutex::new(oracle)
    };
    Both {
        home: watch(At::Home),
        replica: watch(At::Replica),
    }
}

/// Who works there, each on a machine of its own.
fn actors(dice: &mut Dice, plan: &Plan) -> Result<Vec<Actor>> {
    let mut actors = Vec::new();
    // All writers of a script work on one machine: what one has put, another one finds in its cache.
    let one_cache = Arc::new(Cache::in_memory()?);
    for (number, post) in plan.actors.iter().enumerate() {
        let two_days = 2 * DAY;
        let skew = dice.below(2 * two_days).cast_signed() - two_days.cast_signed();
        let mut caches = Both {
            home: Arc::new(Cache::in_memory()?),
            replica: Arc::new(Cache::in_memory()?),
        };
        let machine_dice = Dice::new(dice.roll());
        if plan.is_staged && matches!(post.role, Role::Writer { .. }) && post.at == At::Home {
            caches.home = one_cache.clone();
        }
        let machine = Machine {
            role: post.role,
            at: post.at,
            number,
            left: post.operations,
            dice: machine_dice,
            caches,
            skew: if dice.permille(500) && !plan.is_staged && !plan.special.no_skew {
                skew
            } else {
                0
            },
        };
        actors.push(Actor {
            machine: Arc::new(Mutex::new(machine)),
            life: None,
            again: (!plan.is_staged).then_some(0),
            rank: dice.roll(),
        });
    }
    Ok(actors)
}

impl World {
    pub(super) async fn new(plan: Plan, mut dice: Dice, verbose: bool) -> Result<Self> {
        let core = Core {
            page: plan.page,
            ..Core::default()
        };
        let stores: Stores = (Arc::new(Mutex::new(core)), Arc::new(Notify::new()));
        let template = found(&mut dice, &stores, &plan).await?;
        let (core, arrived) = stores;
        confine(&core, &plan, &mut dice);
        let projects = (0..plan.projects)
            .map(|n| Project::new(n, plan.files, plan.len))
            .collect();
        let shared = Arc::new(Shared {
            oracles: watch(&template, &core, &plan),
            projects: Mutex::new(projects),
            records: Mutex::new(HashMap::new()),
            lease: plan.lease,
            pause: plan.pause,
            no_deltas: plan.no_deltas,
            is_staged: plan.is_staged,
            has_replica: plan.has_replica,
            core: core.clone(),
        });
        let actors = actors(&mut dice, &plan)?;
        let restores = (0..5).map(|_| dice.below(800)).collect();
        Ok(Self {
            plan,
            begin: Instant::now(),
            core,
            arrived,
            shared,
            template,
            actors,
            late: Vec::new(),
            answers: Vec::new(),
            last: 0,
            restores,
            trace: blake3::Hasher::new(),
            verbose,
            dice,
        })
    }
}
