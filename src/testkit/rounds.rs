//! What a collector, an admin and other machines would put: sealed by hand, so that what reads it can be tested before what
//! writes it is built.
#![expect(clippy::unwrap_used, reason = "this is test code")]

use crate::context::Context;
use crate::crypto::seal_object;
use crate::format::collect::{CondemnedRecord, RefsRecord, RunRow, SealRecord, StateRecord};
use crate::format::header::{ObjectType, Origin, append_trailer};
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::index::Tables;
use crate::format::layout::{ObjectName, Prefix};
use crate::format::repo_config::ConfigRecord;
use crate::format::session::{ForgetRecord, SessionRecord};
use crate::format::snapshot::Decision;
use crate::repository::Repository;
use crate::store::Listed;
use futures::TryStreamExt;

/// One that does nothing but put.
pub struct Hand<'a> {
    /// Where.
    pub repository: &'a Repository,
    /// Randomness.
    pub context: &'a Context,
}

/// What a round decides.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// Sessions of a lower epoch are void unless live.
    pub floor: u64,
    /// Committed sessions below the floor.
    pub live: Vec<SessionId>,
    /// Collector runs: those that are not named are void.
    pub runs: Vec<(u64, ObjectId)>,
    /// Packs killed.
    pub dead: Vec<ObjectId>,
}

impl Hand<'_> {
    async fn put(&self, name: ObjectName, object_type: ObjectType, record: &[u8]) {
        let put = self.repository.save(self.context, name, object_type, record);
        assert!(put.await.unwrap().is_mine(), "{name}");
    }

    async fn put_hashed(&self, object_type: ObjectType, round: u64, payload: &[u8]) -> ObjectId {
        let (keyring, random) = (self.repository.keyring(), self.context.random.as_ref());
        let sealed = seal_object(keyring, random, object_type, Origin::Round(round), "", payload).unwrap();
        let name = if object_type == ObjectType::State {
            ObjectName::State(round, sealed.id)
        } else {
            ObjectName::CollectorRun(round, sealed.id)
        };
        let put = self.repository.store().put_new(&name, sealed.bytes).await;
        assert!(put.unwrap().is_mine());
        sealed.id
    }

    fn nonce(&self) -> [u8; 16] {
        self.context.random.bytes().unwrap()
    }

    /// Begins a session and leaves it.
    pub async fn session(&self, epoch: u64) -> SessionId {
        let sid = SessionId {
            epoch,
            random: self.nonce(),
        };
        let record = SessionRecord {
            sid,
            host: "elsewhere".into(),
            started: self.context.clock.now(),
            nonce: self.nonce(),
            parent_hint: None,
            adopted: None,
        };
        self.put(ObjectName::Session(sid), ObjectType::Session, &record.encode())
            .await;
        sid
    }

    /// Ends a session as a collector does.
    pub async fn fence(&self, sid: SessionId) {
        let decision = Decision::Fence {
            sid,
            collector: self.nonce(),
            round: sid.epoch + 1,
            nonce: self.nonce(),
        };
        self.put(
            ObjectName::Snapshot(sid),
            ObjectType::Snapshot,
            &decision.encode(),
        )
        .await;
    }

    /// Lets a snapshot go.
    pub async fn forget(&self, sid: SessionId) {
        let record = ForgetRecord {
            sid,
            who: "elsewhere".into(),
            why: "test".into(),
            time: self.context.clock.now(),
            nonce: self.nonce(),
        };
        self.put(ObjectName::Forget(sid), ObjectType::Forget, &record.encode())
            .await;
    }

    /// Condemns packs for a round that is not sealed yet.
    pub async fn condemn(&self, round: u64, mut packs: Vec<ObjectId>) {
        packs.sort_unstable();
        let (collector, nonce) = (self.nonce(), self.nonce());
        let record = CondemnedRecord {
            round,
            collector,
            nonce,
            packs,
        };
        self.put(
            ObjectName::Condemned(round),
            ObjectType::Condemned,
            &record.encode(),
        )
        .await;
    }

    /// Seals a round: its state first, then the seal.
    pub async fn seal(&self, mut round: Round) {
        round.live.sort_unstable();
        round.dead.sort_unstable();
        let runs = round.runs.iter().map(|(number, id)| RunRow {
            round: *number,
            id: *id,
            entries: 0,
            hash: [0; 32],
        });
        let mut runs: Vec<_> = runs.collect();
        runs.sort_unstable();
        let state = StateRecord {
            round: round.number,
            floor: round.floor,
            live: round.live,
            runs,
            dead: round.dead,
            nonce: self.nonce(),
        };
        let id = self
            .put_hashed(ObjectType::State, round.number, &state.encode())
            .await;
        let seal = SealRecord {
            round: round.number,
            swept: true,
            collector: self.nonce(),
            state: Some((round.number, id)),
            nonce: self.nonce(),
        };
        self.put(ObjectName::Seal(round.number), ObjectType::Seal, &seal.encode())
            .await;
    }

    /// Puts a collector run that says what some session run says.
    pub async fn copy_run(&self, round: u64, run: ObjectName) -> ObjectId {
        let ObjectName::SessionRun(sid, id) = run else {
            panic!("{run} is no session run");
        };
        let payload = self
            .repository
            .load_hashed(run, id, Origin::Session(sid))
            .await
            .unwrap();
        self.put_hashed(ObjectType::IndexRun, round, &payload).await
    }

    /// What an index run lists.
    pub async fn read_run(&self, run: ObjectName) -> Tables {
        let (id, origin) = match run {
            ObjectName::SessionRun(sid, id) => (id, Origin::Session(sid)),
            ObjectName::CollectorRun(round, id) => (id, Origin::Round(round)),
            _ => panic!("{run} is no index run"),
        };
        let payload = self.repository.load_hashed(run, id, origin).await.unwrap();
        Tables::decode(&payload, false).unwrap()
    }

    /// Puts what a subtree references: nothing, which is enough for what only reads the object.
    pub async fn refs(&self, node: BlobId) {
        let record = RefsRecord {
            node,
            blobs: Vec::new(),
        };
        self.put(ObjectName::Refs(node), ObjectType::Refs, &record.encode())
            .await;
    }

    /// Puts the next generation of the configuration.
    pub async fn config(&self) {
        let mut config: ConfigRecord = self.repository.config().clone();
        config.generation += 1;
        let name = ObjectName::Config(config.generation);
        self.put(name, ObjectType::Config, &config.encode()).await;
    }

    /// Puts a reserve object, a small one.
    pub async fn reserve(&self, number: u8, len: usize) {
        let mut bytes = vec![0; len];
        self.context.random.fill(&mut bytes).unwrap();
        append_trailer(&mut bytes);
        let name = ObjectName::Reserve(number);
        let put = self.repository.store().put_new(&name, bytes.into()).await;
        assert!(put.unwrap().is_mine());
    }

    /// Names under a prefix.
    pub async fn names(&self, prefix: Prefix) -> Vec<ObjectName> {
        let listed: Vec<Listed> = self.repository.store().list(prefix).try_collect().await.unwrap();
        let names = listed.into_iter().map(|listed| match listed {
            Listed::Object(info) => info.name,
            Listed::Foreign { name, .. } => panic!("{name} is no name of a repository"),
        });
        names.collect()
    }
}
