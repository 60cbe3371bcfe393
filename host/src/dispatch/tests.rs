//! Which core takes which call, by claims.

use super::queues::{OWN_FIRST, POOREST_FIRST};
use super::*;
use crate::clock::{self, Nanos};
use crate::deferred::{self, TimerId};
use crate::dispatch::clients::{Bounds, Clients};

type Guard = CoreGuard<&'static str>;

const LIMITS: Limits = Limits {
    cores: 1,
    workers: 1,
    queue_max: 2,
    queue_time_max: Duration::from_secs(3600),
    deferred_share: 50,
};

struct Server {
    dispatch: Arc<Dispatch<&'static str>>,
    /// The first worker, and the last.
    worker: Arc<Worker<&'static str>>,
    other: Arc<Worker<&'static str>>,
    deferred: Arc<Deferred>,
    /// Those of the first worker.
    calls: Calls<&'static str>,
}

fn server(limits: Limits) -> Server {
    let deferred = Arc::new(Deferred::new(deferred::Limits {
        pending_max: 1000,
        payload_bytes_max: 10,
        payload_bytes_total_max: 1000,
        delay_max: u64::MAX,
    }));
    let (dispatch, mut calls) = Dispatch::new(limits, deferred.clone());
    let other = calls.last().unwrap().worker().clone();
    let calls = calls.swap_remove(0);
    Server { dispatch, worker: calls.worker().clone(), other, deferred, calls }
}

/// Schedules a call that is due now.
fn schedule(deferred: &Deferred) -> TimerId {
    let answer = deferred.schedule(0, Box::new([])).answer();
    ready(answer).expect("memory answers at once").expect("there is room")
}

/// The calls that start now, with their cores.
async fn started(calls: &mut Calls<&'static str>) -> Vec<(Guard, u64)> {
    let mut started = Vec::new();
    for _ in 0..10 {
        // After one that took an idle core, others have a turn.
        while let Some((core, call)) = ready(calls.next()) {
            started.push((core, call.id));
        }
        tokio::task::yield_now().await;
    }
    started
}

fn ready<F: Future>(future: F) -> Option<F::Output> {
    futures::FutureExt::now_or_never(future)
}

#[tokio::test]
async fn the_core_used_last_is_taken_first_with_its_instance() {
    let server = server(Limits { cores: 3, ..LIMITS });
    let first = server.worker.core_for_request(None).await.ok().unwrap();
    let mut second = server.worker.core_for_request(None).await.ok().unwrap();
    assert_eq!((first.number(), second.number()), (0, 1));
    second.leave_instance("warm");
    drop(first);
    drop(second);
    let mut again = server.worker.core_for_request(None).await.ok().unwrap();
    assert_eq!((again.number(), again.take_instance()), (1, Some("warm")));
}

#[tokio::test]
async fn requests_wait_in_order_and_only_so_many() {
    let server = server(LIMITS);
    let held = server.worker.core_for_request(None).await.ok().unwrap();
    let mut first = Box::pin(server.worker.core_for_request(None));
    let mut second = Box::pin(server.worker.core_for_request(None));
    assert!(ready(&mut first).is_none());
    assert!(ready(&mut second).is_none());
    assert_eq!(ready(server.worker.core_for_request(None)).unwrap().err(), Some(NoCore::QueueFull));
    drop(held);
    assert!(ready(&mut second).is_none());
    assert!(ready(&mut first).unwrap().is_ok());
    assert!(ready(&mut second).unwrap().is_ok());
}

#[tokio::test]
async fn a_request_that_gives_up_leaves_its_place() {
    let server = server(LIMITS);
    let held = server.worker.core_for_request(None).await.ok().unwrap();
    let mut first = Box::pin(server.worker.core_for_request(None));
    assert!(ready(&mut first).is_none());
    assert_eq!(server.dispatch.waiting(), 1);
    drop(first);
    assert_eq!(server.dispatch.waiting(), 0);
    drop(held);
    assert_eq!(server.dispatch.busy(), 0);
}

#[tokio::test]
async fn a_core_sent_to_a_request_that_just_left_comes_back() {
    let server = server(LIMITS);
    let held = server.worker.core_for_request(None).await.ok().unwrap();
    let mut first = Box::pin(server.worker.core_for_request(None));
    assert!(ready(&mut first).is_none());
    drop(held);
    assert_eq!(server.dispatch.busy(), 1);
    drop(first);
    assert_eq!(server.dispatch.busy(), 0);
}

#[tokio::test]
async fn due_calls_start_on_idle_cores_and_then_as_cores_become_free() {
    let mut server = server(Limits { cores: 2, ..LIMITS });
    for _ in 0..3 {
        schedule(&server.deferred);
    }
    let running = started(&mut server.calls).await;
    assert_eq!(running.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [1, 2]);
    drop(running);
    assert_eq!(started(&mut server.calls).await.pop().unwrap().1, 3);
}

#[tokio::test]
async fn a_due_call_that_waits_for_a_core_can_be_cancelled() {
    let mut server = server(LIMITS);
    let held = server.worker.core_for_request(None).await.ok().unwrap();
    let id = schedule(&server.deferred);
    assert!(server.worker.take_due().is_none());
    assert!(server.deferred.cancel(id).await);
    drop(held);
    assert!(started(&mut server.calls).await.is_empty());
    assert_eq!(server.dispatch.busy(), 0);
}

#[tokio::test]
async fn a_worker_takes_its_own_cores_first_and_then_those_of_others() {
    let server = server(Limits { cores: 4, workers: 2, ..LIMITS });
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(server.other.core_for_request(None).await.ok().unwrap());
    }
    assert_eq!(taken.iter().map(CoreGuard::number).collect::<Vec<_>>(), [1, 3, 2, 0]);
    assert!(ready(server.other.core_for_request(None)).is_none());
    drop(taken);
    assert_eq!(server.dispatch.busy(), 0);
}

#[tokio::test]
async fn a_free_core_goes_to_the_own_request_but_none_waits_for_long() {
    let server = server(Limits { workers: 2, ..LIMITS });
    let held = server.worker.core_for_request(None).await.ok().unwrap();
    let mut of_other = Box::pin(server.other.core_for_request(None));
    assert!(ready(&mut of_other).is_none());
    let mut own = Box::pin(server.worker.core_for_request(None));
    assert!(ready(&mut own).is_none());
    let now = clock::now();
    for worker in &mut server.dispatch.queues.lock().workers {
        worker.waiting[0].since = now;
    }
    drop(held);
    let held = ready(&mut own).expect("its own worker had the core").ok().unwrap();
    // One that comes later than is fair is not preferred.
    let mut own = Box::pin(server.worker.core_for_request(None));
    assert!(ready(&mut own).is_none());
    let late = now + 2 * OWN_FIRST.as_nanos() as Nanos;
    server.dispatch.queues.lock().workers[0].waiting[0].since = late;
    drop(held);
    assert!(ready(&mut own).is_none());
    assert!(ready(&mut of_other).unwrap().is_ok());
    assert!(ready(&mut own).unwrap().is_ok());
}

#[tokio::test]
async fn a_worker_that_has_no_core_gets_one_of_a_worker_that_has_two() {
    let server = server(Limits { cores: 2, workers: 2, queue_max: 4, ..LIMITS });
    // The other worker has nothing to do for a moment, and both cores go to one.
    let first = server.worker.core_for_request(None).await.ok().unwrap();
    let second = server.worker.core_for_request(None).await.ok().unwrap();
    let mut own = Box::pin(server.worker.core_for_request(None));
    let mut more = Box::pin(server.worker.core_for_request(None));
    let mut of_other = Box::pin(server.other.core_for_request(None));
    assert!(ready(&mut own).is_none() && ready(&mut more).is_none() && ready(&mut of_other).is_none());
    drop(first);
    assert!(ready(&mut own).is_none());
    let others = ready(&mut of_other).expect("it has no core, and the other has one left").ok().unwrap();
    // Now each has one, and keeps it.
    let mut of_other = Box::pin(server.other.core_for_request(None));
    assert!(ready(&mut of_other).is_none());
    drop(second);
    assert!(ready(&mut own).unwrap().is_ok());
    assert!(ready(&mut more).unwrap().is_ok());
    drop(others);
    assert!(ready(&mut of_other).unwrap().is_ok());
    assert_eq!(server.dispatch.busy(), 0);
}

#[tokio::test]
async fn a_request_of_a_worker_with_more_cores_is_not_passed_over_for_long() {
    let server = server(Limits { cores: 3, workers: 2, queue_max: 4, ..LIMITS });
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(server.worker.core_for_request(None).await.ok().unwrap());
    }
    let mut own = Box::pin(server.worker.core_for_request(None));
    let mut of_other = Box::pin(server.other.core_for_request(None));
    assert!(ready(&mut own).is_none() && ready(&mut of_other).is_none());
    let late = clock::now() + 2 * POOREST_FIRST.as_nanos() as Nanos;
    server.dispatch.queues.lock().workers[1].waiting[0].since = late;
    held.pop();
    assert!(ready(&mut of_other).is_none());
    assert!(ready(&mut own).unwrap().is_ok());
}

#[tokio::test]
async fn a_worker_without_idle_cores_starts_a_due_call_on_that_of_another() {
    let mut server = server(Limits { cores: 2, workers: 2, ..LIMITS });
    let _held = server.worker.core_for_request(None).await.ok().unwrap();
    schedule(&server.deferred);
    let running = started(&mut server.calls).await;
    assert_eq!(running.iter().map(|(core, _)| core.number()).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_due_call_has_its_turn_while_requests_wait() {
    let mut server = server(LIMITS);
    let held = server.worker.core_for_request(None).await.ok().unwrap();
    let mut first = Box::pin(server.worker.core_for_request(None));
    let mut second = Box::pin(server.worker.core_for_request(None));
    assert!(ready(&mut first).is_none());
    assert!(ready(&mut second).is_none());
    schedule(&server.deferred);
    drop(held);
    let held = ready(&mut first).expect("of two turns one is a request's").ok().unwrap();
    assert!(started(&mut server.calls).await.is_empty());
    drop(held);
    let running = started(&mut server.calls).await;
    assert_eq!(running.len(), 1);
    assert!(ready(&mut second).is_none());
    drop(running);
    assert!(ready(&mut second).unwrap().is_ok());
}

/// Clients by the last number of their address.
fn claims(cores_max: u32, waiting_max: u32) -> impl Fn(u8) -> Option<Arc<Claim>> {
    let clients = Clients::new(Bounds { connections_max: 100, cores_max, waiting_max });
    move |client| Some(clients.claim([192, 0, 2, client].into()).unwrap())
}

#[tokio::test]
async fn a_client_waits_at_its_bound_and_others_pass_by() {
    let server = server(Limits { cores: 2, queue_max: 3, ..LIMITS });
    let claim = claims(1, 2);
    let held = server.worker.core_for_request(claim(1)).await.ok().unwrap();
    let mut waiting = Box::pin(server.worker.core_for_request(claim(1)));
    let mut more = Box::pin(server.worker.core_for_request(claim(1)));
    assert!(ready(&mut waiting).is_none() && ready(&mut more).is_none());
    // Not all of the queue is this client's either.
    let third = ready(server.worker.core_for_request(claim(1)));
    assert_eq!(third.unwrap().err(), Some(NoCore::QueueFull));
    for _ in 0..3 {
        // Its core becomes idle each time: nobody who waits may have it.
        assert!(ready(server.worker.core_for_request(claim(2))).unwrap().is_ok());
    }
    drop(held);
    let held = ready(&mut waiting).unwrap().ok().unwrap();
    assert!(ready(&mut more).is_none());
    drop(held);
    assert!(ready(&mut more).unwrap().is_ok());
    assert_eq!((server.dispatch.busy(), server.dispatch.waiting()), (0, 0));
}

#[tokio::test]
async fn one_behind_a_client_at_its_bound_gets_the_core() {
    let server = server(Limits { cores: 2, queue_max: 3, ..LIMITS });
    let claim = claims(1, 2);
    let first = server.worker.core_for_request(claim(1)).await.ok().unwrap();
    let second = server.worker.core_for_request(claim(2)).await.ok().unwrap();
    let mut waiting = Box::pin(server.worker.core_for_request(claim(1)));
    let mut behind = Box::pin(server.worker.core_for_request(claim(3)));
    assert!(ready(&mut waiting).is_none() && ready(&mut behind).is_none());
    drop(second);
    assert!(ready(&mut behind).unwrap().is_ok());
    assert!(ready(&mut waiting).is_none());
    drop(first);
    assert!(ready(&mut waiting).unwrap().is_ok());
}

#[tokio::test]
async fn a_bounded_client_goes_on_though_its_core_goes_to_a_deferred_call() {
    let mut server = server(Limits { cores: 2, deferred_share: 99, ..LIMITS });
    let claim = claims(1, 2);
    let held = server.worker.core_for_request(claim(1)).await.ok().unwrap();
    let mut waiting = Box::pin(server.worker.core_for_request(claim(1)));
    assert!(ready(&mut waiting).is_none());
    schedule(&server.deferred);
    server.dispatch.queues.lock().share.credit = 99;
    drop(held);
    assert_eq!(started(&mut server.calls).await.len(), 1);
    assert!(ready(&mut waiting).unwrap().is_ok());
}

#[tokio::test]
async fn who_waits_for_due_calls_is_told_of_a_core_that_nobody_else_may_have() {
    let mut server = server(Limits { cores: 2, deferred_share: 1, ..LIMITS });
    let claim = claims(1, 2);
    let _held = server.worker.core_for_request(claim(1)).await.ok().unwrap();
    let other = server.worker.core_for_request(claim(2)).await.ok().unwrap();
    let mut waiting = Box::pin(server.worker.core_for_request(claim(1)));
    assert!(ready(&mut waiting).is_none());
    let mut next = Box::pin(server.calls.next());
    assert!(ready(&mut next).is_none());
    schedule(&server.deferred);
    drop(other);
    assert!(ready(&mut next).is_some());
}

#[tokio::test]
async fn who_waits_for_due_calls_gets_one_with_the_core_of_a_call_that_ended() {
    let mut server = server(Limits { deferred_share: 99, ..LIMITS });
    let held = server.worker.core_for_request(None).await.ok().unwrap();
    let mut next = Box::pin(server.calls.next());
    assert!(ready(&mut next).is_none());
    schedule(&server.deferred);
    server.dispatch.queues.lock().share.credit = 99;
    drop(held);
    assert_eq!(server.dispatch.busy(), 1);
    assert!(ready(&mut next).is_some());
}

#[tokio::test]
async fn a_call_whose_worker_has_ended_gives_its_core_back_and_takes_no_other_with_it() {
    let server = server(Limits { deferred_share: 99, ..LIMITS });
    let held = server.worker.core_for_request(None).await.ok().unwrap();
    for _ in 0..3 {
        schedule(&server.deferred);
    }
    server.dispatch.queues.lock().share.credit = 99;
    drop(server.calls);
    let mut idle = Box::pin(server.dispatch.idle());
    assert!(ready(&mut idle).is_none());
    drop(held);
    assert_eq!((server.dispatch.busy(), server.deferred.pending()), (0, 2));
    assert!(ready(&mut idle).is_some(), "who waits for that is told");
}
