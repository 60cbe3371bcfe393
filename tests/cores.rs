use crate::support::client::{self, Connection};
use crate::support::server::{Server, setup};
use crate::support::{fault_guests, guest, wait_for};

fn faults(options: &str) -> Server {
    setup(fault_guests::component("faults")).options(options).start()
}

#[test]
fn each_request_gets_a_fresh_instance_by_default() {
    let server = faults("--cores 1");
    for _ in 0..3 {
        assert_eq!(server.get("/count").text(), "1");
    }
    assert_eq!(server.figure("/instances_created"), 3);
}

#[test]
fn an_instance_may_serve_more_calls_if_wanted() {
    let server = faults("--cores 1 --max-requests 2");
    let counts: Vec<String> = (0..5).map(|_| server.get("/count").text().to_owned()).collect();
    assert_eq!(counts, ["1", "2", "1", "2", "1"]);
    let server = faults("--cores 1 --max-requests 0");
    let counts: Vec<String> = (0..5).map(|_| server.get("/count").text().to_owned()).collect();
    assert_eq!(counts, ["1", "2", "3", "4", "5"]);
}

#[test]
fn an_instance_that_trapped_is_never_used_again() {
    let server = faults("--cores 1 --max-requests 0");
    assert_eq!(server.get("/count").text(), "1");
    assert_eq!(server.get("/trap").status, 500);
    assert_eq!(server.get("/count").text(), "1");
}

#[test]
fn cores_bound_exactly_how_many_calls_are_under_way() {
    let server = faults("--cores 3");
    let address = server.address;
    let sleepers: Vec<_> =
        (0..12).map(|_| std::thread::spawn(move || client::get(address, "/sleep/100").status)).collect();
    let mut most = 0;
    while server.figure("/requests/answered/2xx") < 12 {
        most = most.max(server.figure("/cores/busy"));
        assert!(server.figure("/cores/busy") <= 3);
    }
    assert_eq!(most, 3);
    assert!(sleepers.into_iter().all(|sleeper| sleeper.join().unwrap() == 200));
}

#[test]
fn a_full_queue_is_answered_at_once_without_the_guest() {
    let server = faults("--cores 1 --queue 1");
    let mut running = Connection::open(server.address);
    running.send("GET /sleep/2000 HTTP/1.1\r\nHost: test\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    let mut waiting = Connection::open(server.address);
    waiting.send("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    server.wait_for_figure("/cores/queue", 1);
    let refused = server.get("/hello");
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    assert_eq!(running.reply().status, 200);
    assert_eq!(waiting.reply().status, 200);
    assert_eq!(server.figure("/requests/failures/queue_full"), 1);
    assert_eq!(server.figure("/instances_created"), 2);
}

#[test]
fn a_request_that_waits_too_long_is_refused() {
    let server = faults("--cores 1 --queue-timeout 0.2");
    let mut running = Connection::open(server.address);
    running.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    assert_eq!(server.get("/hello").status, 503);
    assert_eq!(server.figure("/cores/queue"), 0);
}

#[test]
fn requests_wait_in_order_of_arrival() {
    // On one thread, lines are written in the order in which calls end.
    let server = faults("--cores 1 --threads 1");
    let mut running = Connection::open(server.address);
    running.send("GET /sleep/500 HTTP/1.1\r\nHost: test\r\n\r\n");
    server.wait_for_figure("/cores/busy", 1);
    let mut waiting = Vec::new();
    for number in 0..5 {
        let mut connection = Connection::open(server.address);
        connection.send(format!("GET /in-order-{number} HTTP/1.1\r\nHost: test\r\n\r\n"));
        server.wait_for_figure("/cores/queue", number + 1);
        waiting.push(connection);
    }
    for connection in &mut waiting {
        // The guest knows no such path; it answers all the same.
        assert_eq!(connection.reply().status, 404);
    }
    let order: Vec<String> = wait_for("five lines", || {
        let log = server.log();
        let order: Vec<String> =
            log.lines().filter_map(|line| Some(line.split("/in-order-").nth(1)?[..1].to_owned())).collect();
        (order.len() == 5).then_some(order)
    });
    assert_eq!(order, ["0", "1", "2", "3", "4"]);
}

#[test]
fn memory_does_not_grow_with_the_number_of_requests() {
    let server = setup(guest("hello")).options("--cores 4").start();
    let burst = || {
        let mut connection = Connection::open(server.address);
        for _ in 0..3000 {
            assert_eq!(connection.get("/").status, 200);
        }
        server.resident_bytes()
    };
    let first = burst();
    burst();
    let third = burst();
    assert!(third < first + first / 10, "{first} bytes, then {third}");
}

#[test]
fn no_response_is_lost_when_many_clients_ask_at_once() {
    // Each on a connection of its own, as `ab` does it.
    let server = setup(guest("hello")).options("--cores 2").start();
    let address = server.address;
    let clients: Vec<_> = (0..50)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..200 {
                    let mut connection = Connection::open(address);
                    connection.send("GET / HTTP/1.0\r\n\r\n");
                    assert_eq!(connection.reply().text(), "Hello World");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    server.wait_for_figure("/requests/answered/2xx", 10_000);
    assert_eq!(server.figure("/requests/broken"), 0);
    assert_eq!(server.figure("/requests/cancelled"), 0);
}

#[test]
fn one_thread_serves_many_cores() {
    let server = faults("--cores 8 --cores-per-client 0 --threads 1");
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let mut connection = Connection::open(server.address);
            connection.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
            connection
        })
        .collect();
    server.wait_for_figure("/cores/busy", 8);
    drop(waiting);
    server.wait_for_figure("/cores/busy", 0);
}
