use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::relay::{Relay, Way};
use crate::support::server::{Server, Setup, program, setup};
use crate::support::tls::Authority;
use crate::support::{Folder, client, guest, postgres, redis, wait_for};

/// Real servers, for the stores that need one.
struct Databases {
    postgres: Postgres,
    redis: Redis,
}

impl Databases {
    fn start() -> Databases {
        Databases { postgres: Postgres::start(&Authority::new()), redis: Redis::start() }
    }

    /// A server with a store of each kind, by the name of its kind.
    fn setup(&self, folder: &Folder) -> Setup {
        setup(guest("keyvalue"))
            .option("--keyvalue", "memory=memory")
            .option("--keyvalue", sqlite("sqlite", &folder.join("store.db")))
            .option("--keyvalue", format!("postgres={}", self.postgres.url()))
            .option("--keyvalue", format!("redis={}", self.redis.url()))
    }
}

const STORES: [&str; 4] = ["memory", "sqlite", "postgres", "redis"];
const DRAFTS: [&str; 2] = ["draft", "draft2"];

fn sqlite(name: &str, file: &Path) -> String {
    format!("{name}=sqlite:{}", file.display())
}

/// What the guest answers that is asked this.
fn ask(server: &Server, target: &str) -> String {
    answer(server.address, target, 200)
}

/// The error that it gets.
fn error(server: &Server, target: &str) -> String {
    answer(server.address, target, 502)
}

fn answer(address: SocketAddr, target: &str, status: u16) -> String {
    let reply = client::get(address, target);
    assert_eq!(reply.status, status, "{target}: {}", reply.text());
    reply.text().to_owned()
}

/// All keys of a store, page by page.
fn keys(server: &Server, draft: &str, store: &str) -> (usize, BTreeSet<String>) {
    let (mut pages, mut keys, mut cursor) = (0, BTreeSet::new(), String::new());
    loop {
        let page = ask(server, &format!("/{draft}/list?store={store}{cursor}"));
        let mut lines = page.lines();
        let next = lines.next().expect("a cursor").to_owned();
        keys.extend(lines.map(str::to_owned));
        pages += 1;
        if next == "end" {
            return (pages, keys);
        }
        cursor = format!("&cursor={next}");
    }
}

/// What is asked one after the other, and what comes. `D` is the draft.
const CASES: &[(&str, &str)] = &[
    ("get?key=a", "none"),
    ("exists?key=a", "false"),
    ("delete?key=a", "deleted"),
    ("set?key=a&value=1", "set"),
    ("get?key=a", "some 1"),
    ("exists?key=a", "true"),
    ("set?key=a&value=2", "set"),
    ("get?key=a", "some 2"),
    ("set?key=empty&value=", "set"),
    ("get?key=empty", "some "),
    ("exists?key=empty", "true"),
    ("set?key=&value=of-no-name", "set"),
    ("get?key=", "some of-no-name"),
    ("delete?key=", "deleted"),
    ("delete?key=empty", "deleted"),
    ("exists?key=empty", "false"),
    ("set?key=large&bytes=1048576", "set"),
    ("get?key=large", "some 1048576 bytes"),
    ("delete?key=large", "deleted"),
    ("set?key=k&times=1024&value=long", "set"),
    ("get?key=k&times=1024", "some long"),
    ("delete?key=k&times=1024", "deleted"),
    ("increment?key=n&delta=5", "5"),
    ("increment?key=n&delta=37", "42"),
    ("get?key=n", "some 42"),
    ("increment?key=a&delta=1", "3"),
    ("set-many?keys=b,c,b&value=9", "set"),
    ("set-many?keys=", "set"),
    ("get-many?keys=", ""),
    ("delete-many?keys=", "deleted"),
    ("delete-many?keys=c,d,c", "deleted"),
    ("list?", "end\na\nb\nn"),
];

#[test]
fn every_store_answers_in_both_drafts_as_they_say() {
    let (databases, folder) = (Databases::start(), Folder::new());
    for draft in DRAFTS {
        let server = databases.setup(&folder).start();
        for store in STORES {
            for (asked, expected) in CASES {
                let asked = format!("/{draft}/{asked}&store={store}");
                let mut said: Vec<_> = ask(&server, &asked).lines().map(str::to_owned).collect();
                let mut expected: Vec<_> = expected.lines().collect();
                if asked.contains("/list?") {
                    said[1..].sort_unstable();
                    expected[1..].sort_unstable();
                }
                assert_eq!(said, expected, "{asked}");
            }
            let many = ask(&server, &format!("/{draft}/get-many?store={store}&keys=n,x,a"));
            let expected =
                if draft == "draft" { "n some 42\nnone\na some 3" } else { "n some 42\nx none\na some 3" };
            assert_eq!(many, expected, "{store}");
            // The next draft finds nothing of this one.
            ask(&server, &format!("/{draft}/delete-many?store={store}&keys=a,b,n"));
            assert_eq!(ask(&server, &format!("/{draft}/list?store={store}")), "end\n", "{store}");
        }
    }
}

#[test]
fn numbers_are_whole_and_of_64_bits() {
    let (databases, folder) = (Databases::start(), Folder::new());
    let server = databases.setup(&folder).start();
    for store in STORES {
        let ask = |asked: &str| ask(&server, &format!("/{asked}&store={store}"));
        let error = |asked: &str| error(&server, &format!("/{asked}&store={store}"));
        let no_number = "other: the value is not a whole number of 64 bits, or would not be one";
        assert_eq!(ask("draft2/increment?key=n&delta=-3"), "-3", "{store}");
        // What is refused is not done.
        assert_eq!(error("draft/increment?key=n&delta=1"), "other: the value would be below 0", "{store}");
        assert_eq!(ask("draft/get?key=n"), "some -3", "{store}");
        assert_eq!(ask("draft/increment?key=n&delta=3"), "0", "{store}");
        assert!(error("draft/increment?key=n&delta=9223372036854775808").contains("9223372036854775807"));
        assert_eq!(ask("draft/increment?key=n&delta=9223372036854775807"), "9223372036854775807", "{store}");
        assert_eq!(error("draft2/increment?key=n&delta=1"), no_number, "{store}");
        for (right, sum) in [("007", "8"), ("-0", "1"), ("-012", "-11"), ("000", "1")] {
            ask(&format!("draft/set?key=text&value={right}"));
            assert_eq!(ask("draft2/increment?key=text&delta=1"), sum, "{store} {right}");
        }
        // What fails leaves it as it was.
        ask("draft/set?key=text&value=007");
        assert_eq!(error("draft2/increment?key=text&delta=9223372036854775807"), no_number, "{store}");
        assert_eq!(ask("draft/get?key=text"), "some 007", "{store}");
        for wrong in ["", "-", "+5", "0x1F", "1_000", "x", "1.5", "99999999999999999999"] {
            ask(&format!("draft/set?key=text&value={wrong}"));
            assert_eq!(error("draft/increment?key=text&delta=1"), no_number, "{store} {wrong}");
            assert_eq!(ask("draft/get?key=text"), format!("some {wrong}"), "{store}");
        }
    }
}

#[test]
fn a_swap_is_done_only_if_the_value_is_the_one_that_was_seen() {
    let (databases, folder) = (Databases::start(), Folder::new());
    let server = databases.setup(&folder).start();
    for store in STORES {
        let swap = |rest: &str| ask(&server, &format!("/draft2/swap?store={store}&key=s&{rest}"));
        assert_eq!(swap("value=1"), "swapped none", "{store}");
        assert_eq!(swap("value=2"), "swapped some 1", "{store}");
        assert_eq!(swap("value=3&between=x"), "failed some 2, now some x", "{store}");
        assert_eq!(swap("value=4&between=x"), "swapped some x", "{store}: the same value again");
        ask(&server, &format!("/draft2/delete?store={store}&key=s"));
        assert_eq!(swap("value=5&between=y"), "failed none, now some y", "{store}");
    }
}

#[test]
fn what_is_done_at_once_is_all_counted() {
    let (databases, folder) = (Databases::start(), Folder::new());
    let server = databases.setup(&folder).options("--cores 128").start();
    std::thread::scope(|scope| {
        for number in 0..64 {
            let address = server.address;
            scope.spawn(move || {
                for store in STORES {
                    let draft = DRAFTS[number % 2];
                    answer(address, &format!("/{draft}/increment?store={store}&key=n&delta=1"), 200);
                    if number % 4 == 0 {
                        answer(address, &format!("/draft2/append?store={store}&key=text"), 200);
                    }
                }
            });
        }
    });
    for store in STORES {
        assert_eq!(ask(&server, &format!("/draft/get?store={store}&key=n")), "some 64", "{store}");
        let text = ask(&server, &format!("/draft/get?store={store}&key=text"));
        assert_eq!(text, format!("some {}", "x".repeat(16)), "{store}");
    }
}

#[test]
fn keys_come_in_pages_each_of_them_once() {
    let (databases, folder) = (Databases::start(), Folder::new());
    let server = databases.setup(&folder).start();
    for store in STORES {
        for prefix in ["a*", "b?", "c[1]"] {
            let set = format!("/draft/set-many?store={store}&key={prefix}&count=800&value=1");
            assert_eq!(ask(&server, &set), "set");
        }
        for draft in DRAFTS {
            let (pages, keys) = keys(&server, draft, store);
            assert_eq!(keys.len(), 2400, "{store} {draft}");
            assert!(pages >= 2 && keys.contains("c[1]799"), "{store} {draft}: {pages}");
        }
        let wrong = error(&server, &format!("/draft2/list?store={store}&cursor=x"));
        assert!(wrong.starts_with("other: no list of keys"), "{wrong}");
        // Where a database searches on, only itself knows.
        if store != "redis" {
            let beyond = format!("/draft/list?store={store}&cursor=9223372036854775807");
            assert_eq!(ask(&server, &beyond), "end\n", "{store}");
        }
    }
}

/// Stores in one place are told from each other by their names, and by nothing else.
#[test]
fn a_store_is_its_place_and_its_name() {
    let (databases, folder) = (Databases::start(), Folder::new());
    let places = [
        format!("sqlite:{}", folder.join("store.db").display()),
        databases.postgres.url(),
        databases.redis.url(),
    ];
    for place in places {
        let server = setup(guest("keyvalue"))
            .option("--keyvalue", format!("a={place}"))
            .option("--keyvalue", format!("a.b={place}"))
            .option("--keyvalue", format!("={place}"))
            .start();
        for store in ["a", "a.b", ""] {
            ask(&server, &format!("/draft/set?store={store}&key=k&value=of-{store}"));
        }
        for store in ["a", "a.b", ""] {
            let got = ask(&server, &format!("/draft2/get?store={store}&key=k"));
            assert_eq!(got, format!("some of-{store}"));
            assert_eq!(ask(&server, &format!("/draft/list?store={store}")), "end\nk");
        }
    }
    // Others find it where the documents say.
    let rows = databases.postgres.execute("SELECT store, key FROM wasm_serve_keyvalue_1 ORDER BY id");
    assert_eq!(rows, "a|k\na.b|k\n|k");
}

#[test]
fn what_was_set_outlives_the_server_but_in_memory() {
    let (databases, folder) = (Databases::start(), Folder::new());
    for round in 1..=3 {
        let server = databases.setup(&folder).start();
        for store in STORES {
            let expected = if store == "memory" { 1 } else { round };
            let sum = ask(&server, &format!("/draft/increment?store={store}&key=n&delta=1"));
            assert_eq!(sum, expected.to_string(), "{store}");
        }
        // A server that is killed has told nobody that something is kept that is not.
        if round == 1 {
            server.signal("KILL");
            server.wait();
        } else {
            assert!(server.stop().status.success());
        }
    }
}

#[test]
fn a_store_in_memory_outlives_a_swap_of_the_guest() {
    let server = setup(guest("keyvalue")).option("--keyvalue", "m=memory").start();
    ask(&server, "/draft/set?store=m&key=a&value=1");
    server.signal("HUP");
    server.wait_for_line("swapped the guest");
    assert_eq!(ask(&server, "/draft/get?store=m&key=a"), "some 1");
}

#[test]
fn servers_share_a_file_of_sqlite() {
    let folder = Folder::new();
    let start =
        || setup(guest("keyvalue")).option("--keyvalue", sqlite("s", &folder.join("store.db"))).start();
    let servers = [start(), start()];
    std::thread::scope(|scope| {
        for number in 0..32 {
            let address = servers[number % 2].address;
            scope.spawn(move || {
                answer(address, "/draft/increment?store=s&key=n&delta=1", 200);
                answer(address, "/draft2/append?store=s&key=text", 200);
            });
        }
    });
    for server in &servers {
        assert_eq!(ask(server, "/draft/get?store=s&key=n"), "some 32");
        assert_eq!(ask(server, "/draft/get?store=s&key=text"), format!("some {}", "x".repeat(32)));
    }
}

const NOT_AVAILABLE: &str = "other: the store is not available";

#[test]
fn a_database_that_is_not_reached_is_an_error_until_it_is_again() {
    let databases = Databases::start();
    let (to_postgres, to_redis) = (Relay::to(databases.postgres.address), Relay::to(databases.redis.address));
    let through = |url: String, from: &SocketAddr, relay: &Relay| {
        url.replace(&from.to_string(), &relay.address.to_string())
    };
    let server = setup(guest("keyvalue"))
        .options("--keyvalue-timeout 1")
        .option(
            "--keyvalue",
            format!(
                "postgres={}",
                through(databases.postgres.url(), &databases.postgres.address, &to_postgres)
            ),
        )
        .option(
            "--keyvalue",
            format!("redis={}", through(databases.redis.url(), &databases.redis.address, &to_redis)),
        )
        .start();
    for (store, relay) in [("postgres", &to_postgres), ("redis", &to_redis)] {
        let increment = format!("/draft/increment?store={store}&key=n&delta=1");
        assert_eq!(ask(&server, &increment), "1");
        for (way, why) in [(Way::Cut, ""), (Way::Silent, "no answer within 1 s")] {
            relay.set(way);
            for target in [increment.clone(), format!("/draft/get?store={store}&key=n")] {
                assert_eq!(error(&server, &target), NOT_AVAILABLE, "{store}");
            }
            server.wait_for_line(&format!("the key-value store \"{store}\" is not available: {why}"));
            relay.set(Way::Open);
            // The first that is asked finds a new connection.
            assert!(ask(&server, &format!("/draft/get?store={store}&key=n")).starts_with("some "), "{store}");
        }
        assert_eq!(ask(&server, &format!("/draft/exists?store={store}&key=n")), "true");
    }
}

/// A statement in a database of PostgreSQL before a row with this key is written.
fn before_writing(postgres: &Postgres, key: &str, statement: &str) {
    postgres.execute(&format!(
        "CREATE FUNCTION before_{key}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN new; END $$;
         CREATE TRIGGER before_{key} BEFORE INSERT ON wasm_serve_keyvalue_1
         FOR EACH ROW WHEN (new.key = '{key}') EXECUTE FUNCTION before_{key}();"
    ));
}

/// What a guest no longer waits for ends in the database, too, and counts until it has.
#[test]
fn a_database_has_no_more_connections_than_are_said() {
    let databases = Databases::start();
    let server = setup(guest("keyvalue"))
        .options("--keyvalue-timeout 0.5 --keyvalue-connections 2")
        .option("--keyvalue", format!("p={}", databases.postgres.url()))
        .start();
    // The first may take its time to connect.
    wait_for("a connection", || {
        let reply = client::get(server.address, "/draft/set?store=p&key=a&value=1");
        (reply.status == 200).then_some(())
    });
    before_writing(&databases.postgres, "slow", "PERFORM pg_sleep(600)");
    let count = |which: &str| {
        let counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'wasm-serve'";
        databases.postgres.execute(&format!("{counted} {which}")).parse::<u32>().unwrap()
    };
    for _ in 0..5 {
        assert_eq!(error(&server, "/draft/set?store=p&key=slow&value=1"), NOT_AVAILABLE);
    }
    wait_for("the database to leave off", || (count("AND state = 'active'") == 0).then_some(()));
    wait_for("connections to end", || (count("") <= 2).then_some(()));
    wait_for("a connection", || {
        let reply = client::get(server.address, "/draft/get?store=p&key=a");
        (reply.status == 200 && reply.text() == "some 1").then_some(())
    });
}

#[test]
fn what_a_database_stops_for_others_is_tried_again_once() {
    let databases = Databases::start();
    let server =
        setup(guest("keyvalue")).option("--keyvalue", format!("p={}", databases.postgres.url())).start();
    assert_eq!(ask(&server, "/draft/exists?store=p&key=a"), "false");
    let fail = |code: &str, times: u32| {
        format!(
            "IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'stopped' USING ERRCODE = '{code}',
             DETAIL = 'a row of somebody'; END IF"
        )
    };
    databases.postgres.execute("CREATE SEQUENCE tries");
    for (key, code, times, is_done) in
        [("a", "40P01", 1, true), ("b", "40001", 1, true), ("c", "40001", 2, false), ("d", "P0001", 1, false)]
    {
        databases.postgres.execute("ALTER SEQUENCE tries RESTART");
        before_writing(&databases.postgres, key, &fail(code, times));
        let set = format!("/draft/set?store=p&key={key}&value=1");
        match is_done {
            true => assert_eq!(ask(&server, &set), "set", "{key}"),
            false => assert_eq!(error(&server, &set), NOT_AVAILABLE, "{key}"),
        }
        assert_eq!(ask(&server, &format!("/draft/exists?store=p&key={key}")), is_done.to_string());
    }
    server.wait_for_line("the key-value store \"p\" is not available: ERROR: stopped");
    assert!(!server.log().contains("somebody"), "{}", server.log());
}

/// They lock the same rows, in one order.
#[test]
fn many_keys_are_set_and_deleted_at_once() {
    let databases = Databases::start();
    let server = setup(guest("keyvalue"))
        .options("--cores 16 --keyvalue-timeout 60")
        .option("--keyvalue", format!("p={}", databases.postgres.url()))
        .start();
    let keys: Vec<String> = (0..200).rev().map(|number| format!("k{number}")).collect();
    let keys = keys.join(",");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (address, keys) = (server.address, &keys);
            scope.spawn(move || {
                for _ in 0..5 {
                    match number % 2 {
                        0 => answer(address, "/draft/set-many?store=p&key=k&count=200&value=1", 200),
                        _ => answer(address, &format!("/draft/delete-many?store=p&keys={keys}"), 200),
                    };
                }
            });
        }
    });
    let log = databases.postgres.log();
    assert!(!log.contains("deadlock"), "{log}");
    ask(&server, &format!("/draft/delete-many?store=p&keys={keys}"));
    assert_eq!(ask(&server, "/draft/list?store=p"), "end\n");
}

/// The time is that of the option, and not that of the system, which is minutes.
#[test]
fn nobody_waits_for_a_store_longer_than_is_said() {
    let silent = Relay::to("127.0.0.1:1".parse().expect("an address"));
    silent.set(Way::Silent);
    let server = setup(guest("keyvalue"))
        .options("--keyvalue-timeout 0.5 --harakiri 120")
        .option("--keyvalue", format!("r=redis://{}/0", silent.address))
        .start();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let address = server.address;
            scope.spawn(move || {
                assert_eq!(answer(address, "/draft/get?store=r&key=a", 502), NOT_AVAILABLE);
            });
        }
    });
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_file_that_is_none_of_sqlite_is_an_error_until_it_is_one() {
    let folder = Folder::new();
    let file = folder.join("store.db");
    std::fs::write(
        &file,
        "this is no database, but is as long as the head of one would be: 100 bytes, or some more of them",
    )
    .unwrap();
    let server = setup(guest("keyvalue")).option("--keyvalue", sqlite("s", &file)).start();
    assert_eq!(error(&server, "/draft/get?store=s&key=a"), NOT_AVAILABLE);
    server.wait_for_line("the key-value store \"s\" is not available: file is not a database");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(ask(&server, "/draft/get?store=s&key=a"), "none");
}

#[test]
fn a_store_that_is_not_granted_is_not_there_and_the_log_says_what_to_add() {
    let server = setup(guest("keyvalue")).option("--keyvalue", "a=memory").start();
    for _ in 0..3 {
        for draft in DRAFTS {
            for name in ["b", "A", ""] {
                assert_eq!(error(&server, &format!("/{draft}/open?store={name}")), "no-such-store");
            }
        }
    }
    let line = server.wait_for_line("the key-value store \"b\" is not granted");
    assert!(line.contains("add --keyvalue 'b=sqlite:FILE'"), "{line}");
    assert_eq!(server.log().matches("the key-value store \"b\"").count(), 1);
    // Nobody is told to write down what no store can be called.
    for name in ["x';evil", "x:evil", "$(evil)", &"evil".repeat(17)] {
        assert_eq!(error(&server, &format!("/draft/open?store={name}")), "no-such-store");
    }
    assert_eq!(error(&server, "/draft/open?store=last"), "no-such-store");
    server.wait_for_line("the key-value store \"last\" is not granted");
    let log = server.log();
    assert!(!log.lines().any(|line| line.contains("--keyvalue") && line.contains("evil")), "{log}");
    let server = setup(guest("keyvalue")).start();
    assert_eq!(error(&server, "/draft/open?store=a"), "no-such-store");
}

#[test]
fn every_limit_is_an_error_and_changes_nothing() {
    let folder = Folder::new();
    let server = setup(guest("keyvalue"))
        .options("--keyvalue-value 1000 --keyvalue-memory 4K")
        .option("--keyvalue", "memory=memory")
        .option("--keyvalue", sqlite("sqlite", &folder.join("store.db")))
        .start();
    for draft in DRAFTS {
        for store in ["memory", "sqlite"] {
            for (asked, why) in [
                ("set?key=a&bytes=1001", "a value of over 1000 bytes"),
                ("set?key=a&bytes=20000000", "a value of over 1000 bytes"),
                ("set-many?keys=a,b&bytes=1001", "a value of over 1000 bytes"),
                ("set?key=k&times=1025&value=1", "a key of over 1024 bytes"),
                ("get?key=k&times=1025", "a key of over 1024 bytes"),
                ("exists?key=k&times=1025", "a key of over 1024 bytes"),
                ("delete?key=k&times=1025", "a key of over 1024 bytes"),
                ("increment?key=k&times=1025&delta=1", "a key of over 1024 bytes"),
                ("set-many?key=a&count=1001&value=1", "over 1000 keys in one call"),
            ] {
                let error = error(&server, &format!("/{draft}/{asked}&store={store}"));
                assert_eq!(error, format!("other: {why}"), "{store} {asked}");
            }
            assert_eq!(ask(&server, &format!("/{draft}/list?store={store}")), "end\n");
        }
        let full = error(&server, &format!("/{draft}/set-many?store=memory&key=a&count=50&value=1"));
        assert_eq!(full, "other: the store is full: it holds 4096 bytes");
        assert_eq!(ask(&server, &format!("/{draft}/list?store=memory")), "end\n");
        assert_eq!(ask(&server, &format!("/{draft}/set?store=memory&key=a&bytes=1000")), "set");
        ask(&server, &format!("/{draft}/delete?store=memory&key=a"));
    }
    let swap = error(&server, "/draft2/swap?store=memory&key=a&bytes=1001");
    assert_eq!(swap, "other: a value of over 1000 bytes");
}

/// What was set under another limit is not given to a guest, whichever the store.
#[test]
fn values_that_are_too_large_are_not_read() {
    let (databases, folder) = (Databases::start(), Folder::new());
    let names: Vec<String> = (0..12).map(|number| format!("k{number}")).collect();
    let names = names.join(",");
    {
        let server = databases.setup(&folder).options("--keyvalue-value 2M").start();
        for store in STORES {
            ask(&server, &format!("/draft/set?store={store}&key=large&bytes=2000000"));
            for half in ["k0,k1,k2,k3,k4,k5", "k6,k7,k8,k9,k10,k11"] {
                ask(&server, &format!("/draft/set-many?store={store}&keys={half}&bytes=1000000"));
            }
            let all = error(&server, &format!("/draft/get-many?store={store}&keys={names}"));
            assert_eq!(all, "other: the values have over 8388608 bytes together", "{store}");
        }
    }
    let server = databases.setup(&folder).start();
    for store in &STORES[1..] {
        let large = error(&server, &format!("/draft/get?store={store}&key=large"));
        assert_eq!(large, "other: the values have over 1048576 bytes together", "{store}");
        assert_eq!(ask(&server, &format!("/draft/get?store={store}&key=k0")), "some 1000000 bytes");
    }
}

#[test]
fn what_a_guest_keeps_of_a_store_is_on_its_account() {
    let server =
        setup(guest("keyvalue")).options("--host-memory-limit 8M").option("--keyvalue", "m=memory").start();
    ask(&server, "/draft/set?store=m&key=a&bytes=1000000");
    assert_eq!(ask(&server, "/draft2/hold?store=m&key=a&count=4"), "held 4");
    assert_eq!(server.get("/draft2/hold?store=m&key=a&count=100").status, 500);
    // Nor does what the store itself keeps stay on any.
    for _ in 0..20 {
        ask(&server, "/draft/set?store=m&key=a&bytes=1000000");
    }
    assert_eq!(ask(&server, "/draft/get?store=m&key=a"), "some 1000000 bytes");
}

#[test]
fn a_deferred_call_has_the_same_stores() {
    let server = setup(guest("keyvalue")).option("--keyvalue", "m=memory").start();
    ask(&server, "/later/draft/increment?store=m&key=n&delta=7");
    server.wait_for_line("later: 7");
    assert_eq!(ask(&server, "/draft2/get?store=m&key=n"), "some 7");
}

#[test]
fn guests_for_wasi_0_3_have_stores_and_values_too() {
    let folder = Folder::new();
    let server = setup(guest("keyvalue-0.3"))
        .option("--keyvalue", sqlite("default", &folder.join("store.db")))
        .option("--config", "colour=red")
        .start();
    let mut connection = client::Connection::open(server.address);
    for number in 1..=10 {
        assert_eq!(connection.get("/").text(), format!("{number} red"));
    }
}

#[test]
fn guests_find_the_shape_that_they_were_made_for() {
    let server = setup(guest("keyvalue-old"))
        .option("--keyvalue", "default=memory")
        .option("--config", "colour=red")
        .start();
    let expected = "[Some((\"a\", [49])), None] Some(\"red\") None [(\"colour\", \"red\")]";
    assert_eq!(ask(&server, "/"), expected);
}

#[test]
fn databases_are_reached_by_tls_and_their_names_checked() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (databases, folder) =
        (Databases { postgres: Postgres::start(&ours), redis: Redis::start_tls(&ours) }, Folder::new());
    std::fs::write(folder.join("ours.pem"), ours.pem()).unwrap();
    std::fs::write(folder.join("other.pem"), other.pem()).unwrap();
    for (authority, is_good) in [("ours.pem", true), ("other.pem", false)] {
        let server = setup(guest("keyvalue"))
            .option("--ca-file", folder.join(authority))
            .option("--keyvalue", format!("postgres={}?sslmode=require", databases.postgres.url()))
            .option("--keyvalue", format!("redis={}", databases.redis.url()))
            .start();
        for store in ["postgres", "redis"] {
            let set = format!("/draft/set?store={store}&key=a&value=1");
            match is_good {
                true => assert_eq!(ask(&server, &set), "set", "{store}: {}", server.log()),
                false => {
                    assert_eq!(error(&server, &set), NOT_AVAILABLE, "{store}");
                    server.wait_for_line(&format!("the key-value store \"{store}\" is not available"));
                    assert!(server.log().contains("UnknownIssuer"), "{}", server.log());
                }
            }
        }
    }
}

#[test]
fn passwords_are_shown_nowhere() {
    let (databases, folder) = (Databases::start(), Folder::new());
    let file = folder.join("place");
    let wrong = |url: String, password: &str| url.replace(&format!(":{password}@"), ":hush-hush@");
    std::fs::write(&file, format!("{}\n", wrong(databases.postgres.url(), postgres::PASSWORD))).unwrap();
    let redis_file = folder.join("redis");
    std::fs::write(&redis_file, wrong(databases.redis.url(), redis::PASSWORD)).unwrap();
    let good = folder.join("good");
    std::fs::write(&good, databases.redis.url()).unwrap();
    let server = setup(guest("keyvalue"))
        .option("--keyvalue", format!("postgres=file:{}", file.display()))
        .option("--keyvalue", format!("redis=file:{}", redis_file.display()))
        .option("--keyvalue", format!("good=file:{}", good.display()))
        .start();
    assert_eq!(ask(&server, "/draft/set?store=good&key=a&value=1"), "set");
    for store in ["postgres", "redis"] {
        assert_eq!(error(&server, &format!("/draft/get?store={store}&key=a")), NOT_AVAILABLE);
        server.wait_for_line(&format!("the key-value store \"{store}\" is not available"));
    }
    let metrics = client::get(server.stats_address, "/metrics").text().to_owned();
    let shown = [
        server.log(),
        server.stats().to_string(),
        metrics,
        std::fs::read_to_string(format!("/proc/{}/cmdline", server.pid())).unwrap(),
        format!("{:?} {:?}", server.earlier_lines, server.first_lines),
    ];
    for text in shown {
        assert!(!text.contains("hush"), "{text}");
    }
}

#[test]
fn wrong_places_are_usage_errors_that_show_no_password() {
    let folder = Folder::new();
    let empty = folder.join("empty");
    std::fs::write(&empty, "").unwrap();
    let guest = guest("keyvalue");
    let (file, nowhere) = (format!("a=file:{}", empty.display()), "a=file:/nowhere/at/all");
    let rows: [(&[&str], &str); 12] = [
        (&["--keyvalue", "hush"], "expected NAME=PLACE"),
        (&["--keyvalue", "a:b=memory"], "expected NAME=PLACE"),
        (&["--keyvalue", "a=mysql://u:hush@db/d"], "--keyvalue a: expected memory, sqlite:FILE"),
        (&["--keyvalue", "a=postgres://u:hush@db:port/d"], "--keyvalue a: "),
        (&["--keyvalue", "a=redis://:hush@db:port/"], "--keyvalue a: "),
        (&["--keyvalue", "a=sqlite:/nowhere/at/all/store.db"], "there is no such folder"),
        (&["--keyvalue", "a=memory", "--keyvalue", "a=memory"], "another store of this name"),
        (&["--keyvalue", &file], "expected memory"),
        (&["--keyvalue", nowhere], "cannot be read"),
        (&["--keyvalue-timeout", "0"], "--keyvalue-timeout"),
        (&["--keyvalue-connections", "0"], "--keyvalue-connections"),
        (&["--ca-file", "/etc/hostname"], "--keyvalue over TLS"),
    ];
    for (arguments, says) in rows {
        let output = program().arg("--guest").arg(&guest).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {error}");
        assert!(error.contains(says) && !error.contains("hush"), "{arguments:?}: {error}");
    }
}

#[test]
fn no_guest_may_write_to_the_file_of_a_store() {
    let folder = Folder::new();
    let output = program()
        .arg("--guest")
        .arg(guest("keyvalue"))
        .arg("--dir")
        .arg(&folder.0)
        .arg("--keyvalue")
        .arg(sqlite("s", &folder.join("store.db")))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(error.contains("the guest could change --keyvalue"), "{error}");
}
