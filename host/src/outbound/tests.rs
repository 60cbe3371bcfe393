//! What becomes of names, with a lookup that answers what these tests say.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http_body_util::Empty;

use super::http::HttpClient;
use super::sent::Cut;
use super::sockets::Protocol;
use super::*;
use crate::telemetry::log::{GuestLines, Log};
use crate::telemetry::stats::Stats;

const LIMITS: Limits = Limits {
    requests_max: 100,
    requests_of_one_max: 100,
    times: Times {
        connect: Duration::from_secs(60),
        first_byte: Duration::from_secs(60),
        between_bytes: Duration::from_secs(60),
    },
};

/// How often anything was looked up under `changes.test`.
static CHANGES: AtomicUsize = AtomicUsize::new(0);

/// The addresses of a name. 127.0.0.2 and all special ones are never granted here.
fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: &[&str] = match name {
        "two.test" => &["127.0.0.2", "127.0.0.1"],
        "changes.test" if CHANGES.fetch_add(1, SeqCst) == 0 => &["127.0.0.1"],
        "changes.test" => &["127.0.0.2"],
        "metadata.test" => &["169.254.169.254", "fd00:ec2::254"],
        "mapped.test" => &["::ffff:169.254.169.254", "::ffff:127.0.0.2"],
        "translated.test" => &["64:ff9b::a9fe:a9fe", "2002:7f00:2::", "2002:a9fe:a9fe::"],
        "nothing.test" => &["0.0.0.0", "::", "::1"],
        "none.test" => &[],
        name if name.ends_with("example.com") => &["127.0.0.1"],
        name => panic!("{name} is looked up"),
    };
    Ok(addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect())
}

/// Two servers at one port: at 127.0.0.1, which is granted, and at 127.0.0.2. They run until the tests end.
struct Servers {
    port: u16,
    accepted: [Arc<AtomicUsize>; 2],
}

impl Servers {
    fn start() -> Servers {
        // The port is free at both addresses, sooner or later.
        loop {
            let granted = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = granted.local_addr().unwrap().port();
            if let Ok(other) = TcpListener::bind(("127.0.0.2", port)) {
                return Servers { port, accepted: [granted, other].map(answer) };
            }
        }
    }

    /// How many connections have come since this was last asked.
    fn accepted(&self) -> [usize; 2] {
        self.accepted.each_ref().map(|count| count.swap(0, SeqCst))
    }

    fn outbound(&self, grants: &str) -> Arc<Outbound> {
        let grants = format!("{grants} *://127.0.0.1:PORT").replace("PORT", &self.port.to_string());
        let grants = grants.split(' ').map(|grant| grant.parse().unwrap()).collect();
        let grants = Grants { grants, private: false };
        let log = Log::open(Some(Path::new("/dev/null")), GuestLines::default()).unwrap();
        let book = record::Book::new(log, Arc::new(Stats::new(&[])), false);
        Arc::new(Outbound { resolve: look_up, ..Outbound::new(grants, LIMITS, None, book) })
    }
}

/// Counts connections, and answers each.
fn answer(server: TcpListener) -> Arc<AtomicUsize> {
    let count = Arc::<AtomicUsize>::default();
    let accepted = count.clone();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            accepted.fetch_add(1, SeqCst);
            // Its request comes in one piece.
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    });
    count
}

/// Sends a request, over a connection of its own.
async fn connect(outbound: &Arc<Outbound>, name: &str, port: u16) -> Result<(), Failure> {
    let client: HttpClient<Empty<Bytes>> = HttpClient::new(outbound.clone());
    let request = ::http::Request::get(format!("http://{name}:{port}/")).body(Empty::new()).unwrap();
    client.send(request, LIMITS.times, &permits::semaphore(1), Cut::default()).await.map(|_| ())
}

async fn find(outbound: &Outbound, name: &str) -> Result<Vec<IpAddr>, Failure> {
    Ok(outbound.find(name, permits::semaphore(1)).await?.addresses)
}

#[tokio::test]
async fn of_two_addresses_the_one_that_is_granted_is_connected_to() {
    let servers = Servers::start();
    let outbound = servers.outbound("http://two.test:PORT");
    for _ in 0..3 {
        connect(&outbound, "two.test", servers.port).await.unwrap();
        assert_eq!(servers.accepted(), [1, 0]);
    }
    let found = find(&outbound, "two.test").await.unwrap();
    assert_eq!(found, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    let names = ["two.test".to_owned()];
    let refused = outbound.check_socket(Protocol::Tcp, ([127, 0, 0, 2], servers.port).into(), &names);
    assert!(matches!(refused, Err(Failure::Denied)), "{refused:?}");
}

#[tokio::test]
async fn a_name_that_changes_leads_to_what_was_checked() {
    let servers = Servers::start();
    let outbound = servers.outbound("http://changes.test:PORT");
    connect(&outbound, "changes.test", servers.port).await.unwrap();
    // One lookup served for the check and for the connection.
    assert_eq!((CHANGES.load(SeqCst), servers.accepted()), (1, [1, 0]));
    let refused = connect(&outbound, "changes.test", servers.port).await;
    assert!(matches!(refused, Err(Failure::AddressDenied)), "{refused:?}");
    // A socket that was told the first address has no right to the second one.
    CHANGES.store(0, SeqCst);
    let found = find(&outbound, "changes.test").await.unwrap();
    let names = ["changes.test".to_owned()];
    let check =
        |address| outbound.check_socket(Protocol::Tcp, SocketAddr::new(address, servers.port), &names);
    assert!(check(found[0]).is_ok());
    let refused = find(&outbound, "changes.test").await;
    assert!(matches!(refused, Err(Failure::AddressDenied)), "{refused:?}");
    assert!(check([127, 0, 0, 2].into()).is_err());
    assert_eq!(servers.accepted(), [0, 0]);
}

#[tokio::test]
async fn names_of_special_addresses_lead_nowhere() {
    let servers = Servers::start();
    let outbound = servers.outbound("http://*:*");
    for name in ["metadata.test", "mapped.test", "translated.test", "nothing.test"] {
        let refused = connect(&outbound, name, servers.port).await;
        assert!(matches!(refused, Err(Failure::AddressDenied)), "{name}: {refused:?}");
        let refused = find(&outbound, name).await;
        assert!(matches!(refused, Err(Failure::AddressDenied)), "{name}: {refused:?}");
    }
    let refused = connect(&outbound, "none.test", servers.port).await;
    assert!(matches!(refused, Err(Failure::Lookup(_))), "{refused:?}");
    assert_eq!(servers.accepted(), [0, 0]);
}

#[tokio::test]
async fn a_star_is_for_what_is_below_the_name() {
    let servers = Servers::start();
    let outbound = servers.outbound("http://*.example.com:PORT");
    for name in ["a.example.com", "a.b.example.com", "A.EXAMPLE.COM.", "example.com.example.com"] {
        connect(&outbound, name, servers.port).await.unwrap();
        assert_eq!(servers.accepted(), [1, 0], "{name}");
        find(&outbound, name).await.unwrap();
    }
    // None of these is looked up.
    for name in ["example.com", "aexample.com", "example.com.evil.test", "com", "a.example.com.evil.test"] {
        let refused = connect(&outbound, name, servers.port).await;
        assert!(matches!(refused, Err(Failure::Denied)), "{name}: {refused:?}");
        let refused = find(&outbound, name).await;
        assert!(matches!(refused, Err(Failure::Denied)), "{name}: {refused:?}");
    }
    let refused = connect(&outbound, "a.example.com", servers.port + 1).await;
    assert!(matches!(refused, Err(Failure::Denied)), "{refused:?}");
    assert_eq!(servers.accepted(), [0, 0]);
}
