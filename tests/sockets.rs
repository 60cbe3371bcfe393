use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::client::{Connection, Reply};
use crate::support::peers::{Peer, datagrams, full_port, mail_server};
use crate::support::redis::{self, Redis};
use crate::support::server::{Server, setup, setup_python};
use crate::support::upstream::{Asked, Upstream};
use crate::support::{guest, packages, root, wait_for};

/// A server for `tests/fixtures/sockets.py`.
fn serve(options: &str) -> Server {
    setup_python(root().join("tests/fixtures/sockets.py"))
        .option("--pythonpath", packages::requests())
        .option("--pythonpath", packages::redis())
        .options(options)
        .start()
}

/// What one of its functions answers, or the exception that it raises.
fn ask(server: &Server, path: &str) -> String {
    let reply = server.get(path);
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.text().to_owned()
}

fn connect(server: &Server, host: &str, port: u16) -> String {
    ask(server, &format!("/connect?host={host}&port={port}"))
}

#[test]
fn urllib_and_requests_get_and_post() {
    let upstream = Upstream::start(|asked: &Asked, stream| {
        let body = [asked.head[0].as_bytes(), b" ", &asked.body].concat();
        write!(stream, "HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)
    });
    let url = format!("http://{}/path", upstream.address);
    let server = serve(&format!("--cores 1 --allow-outbound http://{}", upstream.address));
    assert_eq!(ask(&server, &format!("/urllib?url={url}")), "201 GET /path HTTP/1.1 ");
    assert_eq!(ask(&server, &format!("/urllib?url={url}&post=a+b")), "201 POST /path HTTP/1.1 a b");
    assert_eq!(ask(&server, &format!("/requests?url={url}")), "201 GET /path HTTP/1.1 ");
    let refused = ask(&server, "/requests?url=http://127.0.0.1:7/");
    assert!(refused.starts_with("ConnectionError") && refused.contains("Permission denied"), "{refused}");
    let refused = ask(&server, "/requests?url=http://api.example.com/");
    assert!(refused.starts_with("ConnectionError") && refused.contains("Name does not resolve"), "{refused}");
    let refused = ask(&server, "/urllib?url=http://127.0.0.1:7/");
    assert!(refused.contains("Permission denied"), "{refused}");
}

#[test]
fn the_client_of_redis_works_with_a_real_one() {
    let redis = Redis::start();
    let server = serve(&format!("--cores 1 --allow-outbound redis://{}", redis.address));
    let query = format!("host=127.0.0.1&port={}&password={}", redis.address.port(), redis::PASSWORD);
    assert_eq!(ask(&server, &format!("/redis?{query}")), "('42', 300000, ['1', '2', '3'])");
    for _ in 0..2 {
        assert_eq!(ask(&server, &format!("/redis_asyncio?{query}")), "[b'value', True]");
    }
}

#[test]
fn smtplib_sends_mail() {
    let (mail, mails) = mail_server();
    let server = serve(&format!("--cores 1 --allow-outbound smtp://127.0.0.1:{}", mail.port()));
    assert_eq!(ask(&server, &format!("/smtp?host=127.0.0.1&port={}", mail.port())), "{}");
    assert_eq!(*mails.lock().unwrap(), ["Subject: Hi\n\nA line.\n..dot\n"]);
}

#[test]
fn what_is_sent_arrives_and_so_does_the_answer() {
    let echo = Peer::echo();
    let (server, port) = (serve(&format!("--cores 1 --allow-outbound tcp://{}", echo.address)), echo.port());
    assert_eq!(ask(&server, &format!("/raw?host=127.0.0.1&port={port}&text=hello")), "hello");
    let count = 8 << 20;
    let bulk = ask(&server, &format!("/bulk?host=127.0.0.1&port={port}&count={count}"));
    assert_eq!(bulk, count.to_string());
    // Nothing waits for more to be sent with it, which would take 40 ms each time.
    let small = ask(&server, &format!("/small?host=127.0.0.1&port={port}&count=25"));
    assert!(small.parse::<u32>().expect("milliseconds") < 600, "{small}");
}

#[test]
fn a_name_leads_to_the_addresses_that_are_granted() {
    let peer = Peer::echo();
    let port = peer.port();
    let lookup = |server: &Server, name: &str| ask(server, &format!("/lookup?name={name}"));
    let server =
        serve(&format!("--cores 1 --allow-outbound tcp://localhost:{port} --allow-outbound-private"));
    // Before the lookup, and after it. Nothing else is at that name.
    assert!(connect(&server, "127.0.0.1", port).starts_with("PermissionError"));
    assert!(lookup(&server, "localhost").contains("127.0.0.1"));
    assert!(connect(&server, "localhost", port).starts_with("connected"));
    assert!(connect(&server, "127.0.0.1", port).starts_with("connected"));
    assert!(connect(&server, "127.0.0.1", 7).starts_with("PermissionError"));
    assert!(connect(&server, "127.0.0.2", port).starts_with("PermissionError"));
    assert_eq!(lookup(&server, "127.0.0.2"), "127.0.0.2");
    for name in ["other.test", "localhost.evil.test", "a.localhost"] {
        let refused = lookup(&server, name);
        assert!(refused.starts_with("gaierror"), "{name}: {refused}");
    }
    // Another instance has looked up nothing.
    let server = serve(&format!(
        "--cores 1 --max-requests 1 --allow-outbound tcp://localhost:{port} --allow-outbound-private"
    ));
    let both = ask(&server, &format!("/lookup_and_connect?name=localhost&address=127.0.0.1&port={port}"));
    assert!(both.starts_with("connected"), "{both}");
    assert!(connect(&server, "127.0.0.1", port).starts_with("PermissionError"));
    // Its addresses are private, and these are not granted.
    let server = serve(&format!("--cores 1 --allow-outbound tcp://localhost:{port}"));
    assert!(lookup(&server, "localhost").starts_with("gaierror"));
    let line = server.wait_for_line("localhost is granted to the guest, but its address");
    assert!(line.ends_with("or --allow-outbound-private"), "{line}");
    let server = serve(&format!(
        "--cores 1 --allow-outbound tcp://localhost:{port} --allow-outbound tcp://127.0.0.0/8:{port}"
    ));
    assert_eq!(lookup(&server, "localhost"), "127.0.0.1");
    // A name that nobody has.
    let server = serve("--cores 1 --allow-outbound tcp://*.test:80");
    let none = lookup(&server, "none.test");
    assert!(none.starts_with("gaierror"), "{none}");
}

#[test]
fn what_is_not_granted_is_told_with_what_to_add_once() {
    let server = serve("--cores 1");
    for _ in 0..3 {
        connect(&server, "10.1.2.3", 5432);
        ask(&server, "/lookup?name=db.example.com");
        ask(&server, "/udp?host=10.1.2.3&port=53");
    }
    let lines = [
        "tcp://10.1.2.3:5432 is not granted to the guest; to grant it, add --allow-outbound 'tcp://10.1.2.3:5432'",
        "the guest may not look up db.example.com; to let it connect, add --allow-outbound 'tcp://db.example.com:PORT'",
        "the guest may have no UDP socket; to let it send, add --allow-outbound 'udp://HOST:PORT'",
    ];
    let log = server.stop().log;
    for line in lines {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
}

#[test]
fn nothing_listens_and_no_port_is_chosen() {
    let echo = Peer::echo();
    let server = serve(&format!("--cores 1 --allow-outbound tcp://{}", echo.address));
    for path in ["/listen", "/bind?address=127.0.0.1&port=0", "/bind?address=0.0.0.0&port=9999"] {
        let refused = ask(&server, path);
        assert!(refused.starts_with("PermissionError EACCES"), "{path}: {refused}");
    }
    assert_eq!(ask(&server, "/bind?address=0.0.0.0&port=0"), "bound to 0.0.0.0");
    assert_eq!(ask(&server, &format!("/bound_connect?host=127.0.0.1&port={}", echo.port())), "connected");
    server.wait_for_line("the guest wants to listen for connections, which no guest may");
    server.wait_for_line("the guest wants to bind a socket to an address or a port, which no guest may");
}

#[test]
fn datagrams_reach_what_is_granted_and_none_comes_from_elsewhere() {
    let peer = datagrams();
    let server = serve(&format!("--cores 1 --allow-outbound udp://{peer}"));
    for connected in ["", "yes"] {
        let asked =
            |port: u16| ask(&server, &format!("/udp?host=127.0.0.1&port={port}&connected={connected}"));
        assert_eq!(asked(peer.port()), "pong to ping", "connected {connected}");
        assert!(asked(7).starts_with("PermissionError EACCES"), "connected {connected}");
    }
    server.wait_for_line("udp://127.0.0.1:7 is not granted");
    let server = serve(&format!("--cores 1 --allow-outbound tcp://{peer}"));
    let refused = ask(&server, &format!("/udp?host=127.0.0.1&port={}", peer.port()));
    assert!(refused.starts_with("PermissionError EACCES"), "{refused}");
}

#[test]
fn an_instance_and_all_have_a_bound_of_sockets() {
    let idle = Peer::idle();
    let port = idle.port();
    let granted = format!("--allow-outbound tcp://{}", idle.address);
    let server = serve(&format!("--cores 2 --open-files 50 {granted}"));
    let before = server.open_files();
    let answer = ask(&server, &format!("/many?host=127.0.0.1&port={port}&count=10000"));
    assert!(answer.ends_with(" EMFILE"), "{answer}");
    let opened: usize = answer.split(' ').next().unwrap().parse().expect("a number");
    assert!((40..=50).contains(&opened), "{opened}");
    server.wait_for_line("--open-files: 50 files and sockets are open, one more is refused");
    wait_for("the sockets to be closed", || (server.open_files() <= before + 1).then_some(()));
    // Each one that is closed makes room for another.
    assert_eq!(ask(&server, &format!("/often?host=127.0.0.1&port={port}&count=200")), "200");
    assert!(server.open_files() <= before + 1);
}

#[test]
fn a_call_that_is_cut_off_leaves_no_socket() {
    let idle = Peer::idle();
    let granted = format!("--allow-outbound tcp://{}", idle.address);
    let server = serve(&format!("--cores 2 --harakiri 60 {granted}"));
    connect(&server, "127.0.0.1", idle.port());
    let before = server.open_files();
    for (count, function) in ["wait", "endless", "wait", "endless"].into_iter().enumerate() {
        let mut client = Connection::open(server.address);
        client
            .send(format!("GET /{function}?host=127.0.0.1&port={} HTTP/1.1\r\nHost: a\r\n\r\n", idle.port()));
        wait_for("the connection", || (idle.accepted() == count + 2).then_some(()));
        drop(client);
        wait_for("the socket to be closed", || (server.open_files() <= before).then_some(()));
    }
    // One that is still connecting.
    let (full, _kept) = full_port();
    let server = serve(&format!("--cores 2 --harakiri 60 --allow-outbound tcp://{full}"));
    let before = (server.open_files(), connecting_to(full.port()));
    let mut client = Connection::open(server.address);
    client.send(format!("GET /connect?host=127.0.0.1&port={} HTTP/1.1\r\nHost: a\r\n\r\n", full.port()));
    wait_for("the socket", || (connecting_to(full.port()) == before.1 + 1).then_some(()));
    drop(client);
    wait_for("the socket to be closed", || (connecting_to(full.port()) == before.1).then_some(()));
    wait_for("its file to be, too", || (server.open_files() <= before.0 + 1).then_some(()));
    // One whose time is over.
    let server = serve(&format!("--cores 1 --harakiri 1 {granted}"));
    let before = server.open_files();
    let reply = server.get(&format!("/wait?host=127.0.0.1&port={}", idle.port()));
    assert_eq!(reply.status, 504);
    wait_for("the socket to be closed", || (server.open_files() <= before).then_some(()));
}

/// How many sockets of the system try to connect to this port of it.
fn connecting_to(port: u16) -> usize {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux shows them");
    sockets.lines().filter(|line| line.contains(&format!("0100007F:{port:04X} 02 "))).count()
}

#[test]
fn who_gives_a_peer_up_can_close_the_connection() {
    let idle = Peer::idle();
    let server = serve(&format!("--cores 1 --allow-outbound tcp://{}", idle.address));
    let seconds = ask(&server, &format!("/give_up?host=127.0.0.1&port={}", idle.port()));
    assert!((1..12).contains(&seconds.parse::<u32>().expect("seconds")), "{seconds}");
    wait_for("the connection to end", || (idle.ended() == 1).then_some(()));
}

#[test]
fn who_sends_without_end_to_one_that_reads_nothing_waits_alone() {
    let (idle, echo) = (Peer::idle(), Peer::echo());
    let server = serve(&format!(
        "--cores 8 --threads 1 --allow-outbound tcp://{} --allow-outbound tcp://{}",
        idle.address, echo.address
    ));
    let text = format!("/raw?host=127.0.0.1&port={}&text=hello", echo.port());
    assert_eq!(ask(&server, &text), "hello");
    let senders: Vec<_> = (0..6)
        .map(|_| {
            let mut client = Connection::open(server.address);
            client.send(format!(
                "GET /endless?host=127.0.0.1&port={} HTTP/1.1\r\nHost: a\r\n\r\n",
                idle.port()
            ));
            client
        })
        .collect();
    wait_for("the connections", || (idle.accepted() == senders.len()).then_some(()));
    let memory = server.resident_bytes();
    let begin = Instant::now();
    for _ in 0..20 {
        assert_eq!(ask(&server, &text), "hello");
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    std::thread::sleep(Duration::from_secs(1));
    let grown = server.resident_bytes().saturating_sub(memory);
    assert!(grown < 100 << 20, "{grown}");
}

#[test]
fn a_connection_that_nobody_takes_has_its_time() {
    let (address, _kept) = full_port();
    let server = serve(&format!("--cores 1 --outbound-connect-timeout 1 --allow-outbound tcp://{address}"));
    let begin = Instant::now();
    let answer = connect(&server, "127.0.0.1", address.port());
    assert!(answer.starts_with("TimeoutError"), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let server = serve(&format!("--cores 1 --allow-outbound tcp://{free}"));
    let answer = connect(&server, "127.0.0.1", free.port());
    assert!(answer.starts_with("ConnectionRefusedError"), "{answer}");
}

#[test]
fn a_kept_instance_keeps_its_sockets() {
    let echo = Peer::echo();
    let server = serve(&format!("--cores 1 --max-requests 3 --allow-outbound tcp://{}", echo.address));
    let before = server.open_files();
    for count in 0..9 {
        assert_eq!(ask(&server, &format!("/keep?host=127.0.0.1&port={}", echo.port())), "again\n");
        assert_eq!(echo.accepted(), count / 3 + 1);
    }
    wait_for("the last one to be closed", || (echo.ended() == 3).then_some(()));
    wait_for("it to be closed here", || (server.open_files() <= before + 1).then_some(()));
}

#[test]
fn streams_of_asyncio_work_in_both_kinds_of_loops() {
    let echo = Peer::echo();
    let server = serve(&format!("--cores 1 --allow-outbound tcp://{}", echo.address));
    let query = format!("host=127.0.0.1&port={}", echo.port());
    for _ in 0..2 {
        assert_eq!(ask(&server, &format!("/asyncio?{query}")), "again\n");
        let many = ask(&server, &format!("/asyncio_many?{query}"));
        assert_eq!(many, r"['again\n', 'again\n', 'again\n', 'slept']");
    }
    for left in 1..=2 {
        assert_eq!(ask(&server, &format!("/leaves?{query}")), format!("({left}, 0)"));
    }
    wait_for("the connections to end", || (echo.ended() == 10).then_some(()));
    let refused = ask(&server, "/asyncio?host=127.0.0.1&port=7");
    assert!(refused.starts_with("PermissionError EACCES"), "{refused}");
    let refused = ask(&server, "/asyncio?host=db.test&port=7");
    assert!(refused.starts_with("gaierror"), "{refused}");
}

#[test]
fn buffers_are_as_large_as_is_good() {
    let server = serve("--cores 1");
    let answer = ask(&server, "/buffers?size=1000000000");
    let sizes: Vec<u64> = answer
        .trim_matches(['[', ']'])
        .split(", ")
        .map(|size| size.parse().unwrap_or_else(|_| panic!("{answer}")))
        .collect();
    assert!(sizes.iter().all(|size| (1..=2 << 20).contains(size)), "{answer}");
}

/// Guests that connect to what a field of the request names: by WASI 0.2 and 0.3.
const GUESTS: [&str; 2] = ["connect", "connect-0.3"];

/// What such a guest makes of a connection that was asked for, and its request's body.
fn reply(server: &Server, path: &str, destination: &str, body: &[u8]) -> Reply {
    let mut connection = Connection::open(server.address);
    connection.send(format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nX-Connect: {destination}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    connection.send(body);
    connection.reply()
}

#[test]
fn both_versions_send_and_receive() {
    let echo = Peer::echo();
    for name in GUESTS {
        // The connection outlives its socket by 0.3, and then has the only place still.
        let server = setup(guest(name))
            .options(&format!(
                "--cores 2 --open-files 1 --max-requests 0 --allow-outbound tcp://{}",
                echo.address
            ))
            .start();
        let before = server.open_files();
        for bytes in [0, 1, 1000, 300_000] {
            let body: Vec<u8> = (0..bytes).map(|at: u32| (at % 251) as u8).collect();
            let reply = reply(&server, "/", &echo.address.to_string(), &body);
            assert_eq!((reply.status, reply.complete), (200, true), "{name}");
            assert!(reply.body == body, "{name}: {} of {bytes}", reply.body.len());
        }
        for _ in 0..50 {
            assert_eq!(reply(&server, "/", &echo.address.to_string(), b"again").text(), "again", "{name}");
        }
        wait_for("the sockets to be closed", || (server.open_files() <= before + 1).then_some(()));
    }
}

#[test]
fn both_versions_are_refused_the_same() {
    let (peer, datagrams) = (Peer::echo(), datagrams());
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let (full, _kept) = full_port();
    let port = peer.port();
    for name in GUESTS {
        let server = setup(guest(name))
            .options(&format!(
                "--cores 2 --outbound-connect-timeout 1 --allow-outbound tcp://127.0.0.1:{port} \
                 --allow-outbound tcp://{free} --allow-outbound tcp://{full} --allow-outbound udp://{datagrams} \
                 --allow-outbound tcp://localhost:{port}"
            ))
            .start();
        let rows = [
            ("/", format!("127.0.0.1:{port}"), "hello"),
            ("/", format!("localhost:{port}"), "hello"),
            ("/", format!("127.0.0.1:{}", datagrams.port()), "AccessDenied"),
            ("/", format!("127.0.0.2:{port}"), "AccessDenied"),
            ("/", "169.254.169.254:80".to_owned(), "AccessDenied"),
            ("/", format!("::ffff:127.0.0.2:{port}"), "AccessDenied"),
            ("/", format!("0.0.0.0:{port}"), "InvalidArgument"),
            ("/", format!("db.test:{port}"), "NameUnresolvable"),
            ("/", free.to_string(), "ConnectionRefused"),
            ("/", full.to_string(), "Timeout"),
            ("/?bind", String::new(), "AccessDenied"),
            ("/?listen", String::new(), "AccessDenied"),
            ("/?udp", datagrams.to_string(), "pong to ping"),
            ("/?udp", format!("127.0.0.1:{port}"), "AccessDenied"),
        ];
        for (path, destination, expected) in rows {
            let reply = reply(&server, path, &destination, b"hello");
            // One writes names as the interface does, one as Rust.
            let text = reply.text().replace('-', "").to_ascii_lowercase();
            let expected = expected.to_ascii_lowercase();
            assert!(text.contains(&expected), "{name} {path} {destination}: {}", reply.text());
        }
        server.wait_for_line("the guest may not look up db.test");
        server.wait_for_line("tcp://169.254.169.254:80 is not granted");
    }
}

#[test]
fn both_versions_close_what_a_client_leaves() {
    let idle = Peer::idle();
    for (index, name) in GUESTS.into_iter().enumerate() {
        let server =
            setup(guest(name)).options(&format!("--cores 2 --allow-outbound tcp://{}", idle.address)).start();
        let before = server.open_files();
        let mut client = Connection::open(server.address);
        // More than anybody takes of it.
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Connect: {}\r\nContent-Length: 100000000\r\n\r\n",
            idle.address
        ));
        client.send(vec![b'x'; 100_000]);
        wait_for("the connection", || (idle.accepted() == index + 1).then_some(()));
        drop(client);
        wait_for("the socket to be closed", || (server.open_files() <= before + 1).then_some(()));
        wait_for("the peer to know", || (idle.ended() == index + 1).then_some(()));
    }
}
