//! Servers that share a store, with crashes, lost leases and errors, on time that the tests make up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::sqlite::Sqlite;
use crate::store::{Claim, Claimed, Counts, New, Next, UnixNanos};

const SECOND: u64 = 1_000_000_000;
const LEASE: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;
const LIMITS: Limits =
    Limits { pending_max: 30, payload_bytes_max: 8, payload_bytes_total_max: 200, delay_max: 1000 * SECOND };
const SETTINGS: Settings = Settings {
    limits: LIMITS,
    retry: Retry {
        attempts_max: ATTEMPTS,
        delay_min: Duration::from_secs(1),
        delay_max: Duration::from_secs(20),
    },
    ready_max: 4,
    lease: LEASE,
    keep: Duration::from_secs(100_000),
};

/// The time that all servers of a case have, and what goes wrong next.
#[derive(Default)]
struct World {
    now: AtomicU64,
    fails_at_commit: AtomicBool,
}

/// A store in that world.
struct Made {
    store: Sqlite,
    world: Arc<World>,
}

impl Store for Made {
    fn begin(&mut self) -> Result<()> {
        self.store.begin()
    }
    fn commit(&mut self) -> Result<()> {
        ensure!(!self.world.fails_at_commit.swap(false, Relaxed), "the disk is full");
        self.store.commit()
    }
    fn now(&mut self) -> Result<UnixNanos> {
        Ok(self.world.now.load(Relaxed))
    }
    fn schedule(&mut self, call: &New, limits: &Limits) -> Result<Result<TimerId, ScheduleError>> {
        self.store.schedule(call, limits)
    }
    fn cancel(&mut self, id: TimerId) -> Result<bool> {
        self.store.cancel(id)
    }
    fn claim(&mut self, claim: &Claim) -> Result<Vec<Claimed>> {
        self.store.claim(claim)
    }
    fn extend(&mut self, run: Run, until: UnixNanos) -> Result<bool> {
        self.store.extend(run, until)
    }
    fn end(&mut self, run: Run, next: &Next) -> Result<bool> {
        self.store.end(run, next)
    }
    fn first_due(&mut self) -> Result<Option<UnixNanos>> {
        self.store.first_due()
    }
    fn counts(&mut self) -> Result<Counts> {
        self.store.counts()
    }
    fn remove_set_aside(&mut self, before: UnixNanos) -> Result<u64> {
        self.store.remove_set_aside(before)
    }
    fn close(&mut self) {
        self.store.close();
    }
}

impl Keeper {
    /// It has this run of the call.
    fn has(&self, call: &Call) -> bool {
        self.claimed.get(&call.id).is_some_and(|run| run.number == call.run)
    }
}

/// A server without its thread.
struct Server {
    keeper: Keeper,
    /// What it has started, and when.
    running: Vec<Call>,
}

/// What is known of a call from outside.
#[derive(Clone, Debug, Default)]
struct Known {
    due: UnixNanos,
    runs: u32,
    is_cancelled: bool,
    is_done: bool,
    /// It was started, and no end of that was written.
    is_under_way: bool,
    /// An end of it could not be written at once, and is perhaps written by now.
    is_unsure: bool,
}

struct Case {
    folder: TempDir,
    world: Arc<World>,
    servers: Vec<Server>,
    known: BTreeMap<TimerId, Known>,
}

#[derive(Clone, Debug)]
enum Step {
    Schedule { server: usize, delay: u64, bytes: usize, leaves: bool },
    Cancel { server: usize, nth: usize },
    Look { server: usize },
    Start { server: usize },
    End { server: usize, is_well: bool },
    Crash { server: usize },
    Stop { server: usize },
    Fail,
    Advance { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let server = || 0..3usize;
    prop_oneof![
        6 => (server(), 0..30u64, 0..10usize, prop::bool::weighted(0.1))
            .prop_map(|(server, delay, bytes, leaves)| Step::Schedule { server, delay, bytes, leaves }),
        1 => (server(), 0..40usize).prop_map(|(server, nth)| Step::Cancel { server, nth }),
        6 => server().prop_map(|server| Step::Look { server }),
        8 => server().prop_map(|server| Step::Start { server }),
        6 => (server(), prop::bool::weighted(0.7)).prop_map(|(server, is_well)| Step::End { server, is_well }),
        1 => server().prop_map(|server| Step::Crash { server }),
        1 => server().prop_map(|server| Step::Stop { server }),
        1 => Just(Step::Fail),
        4 => (0..8u64).prop_map(|seconds| Step::Advance { seconds }),
    ]
}

impl Case {
    fn new() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let world = Arc::new(World::default());
        world.now.store(1_000_000 * SECOND, Relaxed);
        let mut case = Case { folder, world, servers: Vec::new(), known: BTreeMap::new() };
        case.servers = (0..3).map(|_| case.server()).collect();
        case
    }

    fn server(&self) -> Server {
        let store = Sqlite::open(&self.folder.path().join("calls"), "queue").unwrap();
        let keeper = Keeper {
            store: Box::new(Made { store, world: self.world.clone() }),
            settings: SETTINGS,
            ready: Arc::new(Ready::new(LIMITS)),
            shown: Arc::default(),
            tell: Box::new(|_| {}),
            claimed: HashMap::new(),
            unwritten: Vec::new(),
            forgotten: Vec::new(),
            extend_at: 0,
            remove_at: 0,
            has_begun: true,
            is_broken: false,
        };
        Server { keeper, running: Vec::new() }
    }

    fn now(&self) -> UnixNanos {
        self.world.now.load(Relaxed)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Schedule { server, delay, bytes, leaves } => self.schedule(server, delay, bytes, leaves),
            Step::Cancel { server, nth } => {
                let Some(id) = self.known.keys().nth(nth).copied() else { return };
                let (answer, mut answered) = oneshot::channel();
                self.servers[server].keeper.step(vec![Command::Cancel { id, answer }]);
                if answered.try_recv() == Ok(true) {
                    let known = self.known.get_mut(&id).unwrap();
                    let is_free = !known.is_done && !known.is_under_way || known.is_unsure;
                    assert!(is_free && !known.is_cancelled, "{known:?}");
                    known.is_cancelled = true;
                }
            }
            Step::Look { server } => drop(self.servers[server].keeper.step(Vec::new())),
            Step::Start { server } => self.start(server),
            Step::End { server, is_well } => self.end(server, is_well),
            Step::Crash { server } => self.servers[server] = self.server(),
            Step::Stop { server } => {
                let next = self.server();
                let Server { mut keeper, running } = std::mem::replace(&mut self.servers[server], next);
                keeper.stop();
                // They are cut off, and others may have them.
                for call in running.iter().filter(|call| keeper.has(call)) {
                    self.known.entry(call.id).and_modify(|known| known.is_under_way = false);
                }
            }
            // Whoever writes next.
            Step::Fail => self.world.fails_at_commit.store(true, Relaxed),
            Step::Advance { seconds } => drop(self.world.now.fetch_add(seconds * SECOND, Relaxed)),
        }
    }

    fn schedule(&mut self, server: usize, seconds: u64, bytes: usize, leaves: bool) {
        let (answer, mut answered) = oneshot::channel();
        if leaves {
            answered.close();
        }
        let delay = Delay::After(clock::now(), seconds * SECOND);
        let due = self.now() + seconds * SECOND;
        let pending: Vec<_> =
            self.known.values().filter(|known| !known.is_done && !known.is_cancelled).collect();
        let is_full = pending.len() >= LIMITS.pending_max as usize;
        let payload = vec![7; bytes].into();
        if bytes > 8 {
            return;
        }
        self.servers[server].keeper.step(vec![Command::Schedule { delay, payload, answer }]);
        match answered.try_recv() {
            // The clock of the process goes on a little between its readings.
            Ok(Ok(id)) => {
                let due = due - SECOND / 10;
                let earlier = self.known.insert(id, Known { due, ..Known::default() });
                assert!(earlier.is_none(), "a number is used twice");
            }
            Ok(Err(error)) => assert!(is_full || matches!(error, ScheduleError::Unavailable(_)), "{error}"),
            Err(_) => assert!(leaves),
        }
    }

    fn start(&mut self, server: usize) {
        let now = self.now();
        let Server { keeper, running } = &mut self.servers[server];
        let Some(call) = keeper.ready.take_due() else { return };
        // One that nobody was told of may run.
        if let Some(known) = self.known.get_mut(&call.id) {
            assert!(now >= known.due, "{call:?} starts early: {now} {known:?}");
            assert!(!known.is_cancelled, "{call:?} was cancelled");
            assert!(call.attempt <= ATTEMPTS);
            known.runs += 1;
            known.is_under_way = true;
        }
        running.push(call);
    }

    fn end(&mut self, server: usize, is_well: bool) {
        let Server { keeper, running } = &mut self.servers[server];
        let Some(call) = running.pop() else { return };
        let run = Run { id: call.id, number: call.run };
        let was_mine = keeper.has(&call);
        let result = if is_well { Ok(()) } else { Err("it said so".to_owned()) };
        keeper.step(vec![Command::Ended { run, attempt: call.attempt, result }]);
        if let Some(known) = self.known.get_mut(&call.id)
            && was_mine
        {
            if keeper.is_broken {
                known.is_unsure = true;
            } else {
                known.is_under_way = false;
                known.is_done |= is_well;
            }
        }
    }

    /// Lets all of them run to their end, by a server that does not fail.
    fn finish(&mut self) {
        self.world.fails_at_commit.store(false, Relaxed);
        self.servers.truncate(1);
        self.servers[0] = self.server();
        for _ in 0..200 {
            self.world.now.fetch_add(SECOND * 7, Relaxed);
            self.servers[0].keeper.step(Vec::new());
            while self.servers[0].keeper.ready.pending() > 0 {
                self.start(0);
                self.end(0, true);
            }
        }
        let counts = self.servers[0].keeper.shown.pending();
        assert_eq!(counts, 0, "some never run");
    }
}

/// What the queue's figures say is what there is.
fn counts_are_right(case: &Case) -> bool {
    let file = rusqlite::Connection::open(case.folder.path().join("calls")).unwrap();
    let figures = "SELECT
        (SELECT pending FROM queues) = (SELECT count(*) FROM calls WHERE set_aside IS NULL)
        AND (SELECT set_aside FROM queues) = (SELECT count(*) FROM calls WHERE set_aside IS NOT NULL)
        AND (SELECT payload_bytes FROM queues)
            = (SELECT coalesce(sum(length(payload)), 0) FROM calls WHERE set_aside IS NULL)";
    file.query_row(figures, [], |row| row.get(0)).unwrap()
}

/// Numbers of those that were set aside.
fn set_aside(case: &Case) -> BTreeSet<TimerId> {
    let file = rusqlite::Connection::open(case.folder.path().join("calls")).unwrap();
    let mut statement = file.prepare("SELECT id FROM calls WHERE set_aside IS NOT NULL").unwrap();
    let ids = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    ids.map(|id| id.unwrap() as TimerId).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What was acknowledged runs to its end, or is cancelled, or is set aside after its last attempt: with
    /// three servers that crash, lose their leases, and cannot write.
    #[test]
    fn nothing_acknowledged_is_lost(steps in prop::collection::vec(step(), 0..120)) {
        let mut case = Case::new();
        for step in steps {
            case.take(step);
        }
        prop_assert!(counts_are_right(&case));
        case.finish();
        prop_assert!(counts_are_right(&case));
        let set_aside = set_aside(&case);
        for (id, known) in &case.known {
            prop_assert!(
                known.is_done || known.is_unsure || known.is_cancelled || set_aside.contains(id),
                "{} is lost: {:?}", id, known
            );
        }
    }
}
