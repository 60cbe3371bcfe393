use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::client::{Connection, Reply};
use crate::support::peers::{Peer, mail_server};
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;
use crate::support::server::{Server, setup_python};
use crate::support::tls::Authority;
use crate::support::upstream::{Asked, Upstream};
use crate::support::{Folder, packages, root, wait_for};

/// The server of `tests/fixtures/shop.py`, and all that it needs.
struct Shop {
    server: Server,
    postgres: Postgres,
    prices: Upstream,
    mails: Arc<Mutex<Vec<String>>>,
    notes: Folder,
    _authorities: Folder,
    _redis: Redis,
    _mail_server: Peer,
}

impl Shop {
    /// Its database and cache are reached by TLS, or not.
    fn open(with_tls: bool) -> Shop {
        let (authority, notes) = (Authority::new(), Folder::new());
        // Where the application cannot write.
        let authorities = Folder::new();
        let ca_file = authorities.join("ca.pem");
        let postgres = Postgres::start(&authority);
        postgres.execute(
            "CREATE TABLE items (id integer PRIMARY KEY, name text NOT NULL);
             CREATE TABLE sales (item integer REFERENCES items, customer text, cents integer);
             INSERT INTO items VALUES (1, 'teapot'), (2, 'süß')",
        );
        let redis = if with_tls { Redis::start_tls(&authority) } else { Redis::start() };
        let prices = Upstream::start_with_authority(&authority, &["localhost"], tell_price);
        let (mail_server, mails) = mail_server();
        std::fs::write(&ca_file, authority.pem()).expect("the folder can be written");
        let (database, cache) = (postgres.url(), redis.url());
        let database = if with_tls { format!("{database}?sslmode=verify-full") } else { database };
        let server = setup_python(root().join("tests/fixtures/shop.py"))
            .option("--pythonpath", packages::flask())
            .option("--pythonpath", packages::pg8000())
            .option("--pythonpath", packages::redis())
            .option("--pythonpath", packages::requests())
            .option("--pythonpath", packages::httpx())
            .option("--env", format!("DATABASE_URL={database}"))
            .option("--env", format!("REDIS_URL={cache}"))
            .option("--env", format!("PRICES_URL=https://localhost:{}", prices.address.port()))
            .option("--env", format!("MAIL_URL=smtp://{}", mail_server.address))
            .option("--allow-outbound", format!("postgres://{}", postgres.address))
            .option("--allow-outbound", format!("redis://{}", redis.address))
            .option("--allow-outbound", format!("https://localhost:{}", prices.address.port()))
            .option("--allow-outbound", format!("smtp://{}", mail_server.address))
            .option("--ca-file", &ca_file)
            .option("--dir", format!("{}::/notes", notes.0.display()))
            .options("--cores 2 --allow-outbound-private")
            .start();
        Shop {
            server,
            postgres,
            prices,
            mails,
            notes,
            _authorities: authorities,
            _redis: redis,
            _mail_server: mail_server,
        }
    }

    fn get(&self, path: &str) -> Value {
        answer(path, &self.server.get(path), 200)
    }

    fn post(&self, path: &str, form: &str, status: u16) -> Value {
        let mut connection = Connection::open(self.server.address);
        connection.send(format!(
            "POST {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        ));
        answer(path, &connection.reply(), status)
    }

    fn mail(&self, index: usize) -> Option<String> {
        self.mails.lock().unwrap().get(index).cloned()
    }
}

fn answer(path: &str, reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{path}: {}", reply.text());
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("{path}: {}", reply.text()))
}

/// A price for what the query asks.
fn tell_price(asked: &Asked, stream: &mut dyn Write) -> std::io::Result<()> {
    let is_price = asked.head[0].starts_with("GET /prices?of=");
    let (status, body) = if is_price { ("200 OK", r#"{"cents": 1999}"#) } else { ("404 Not Found", "{}") };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A sale within a request, and one in a deferred call, seen by each of the four services.
fn sells(with_tls: bool) {
    let shop = Shop::open(with_tls);
    assert_eq!(shop.get("/items/2"), json!({"name": "süß"}));
    assert_eq!(shop.get("/items/1"), json!({"name": "teapot"}));
    // From now on it is in the cache.
    shop.postgres.execute("UPDATE items SET name = 'kettle' WHERE id = 1");
    assert_eq!(shop.get("/items/1"), json!({"name": "teapot"}));
    assert_eq!(shop.server.get("/items/3").status, 404);

    let sold = shop.post("/sales", "item=1&customer=you@there.test", 200);
    assert_eq!(sold, json!({"item": "teapot", "cents": 1999, "sales": 1}));
    assert_eq!(shop.postgres.execute("SELECT * FROM sales"), "1|you@there.test|1999");
    assert_eq!(shop.prices.asked().len(), 1);
    let mail = shop.mail(0).expect("it was sent");
    assert!(mail.contains("To: you@there.test\n") && mail.contains("It costs 1999 cents."), "{mail}");

    assert_eq!(shop.post("/orders", "item=2&customer=me@there.test", 202), json!({"accepted": true}));
    shop.server.wait_for_figure("/deferred/done", 1);
    let sales = shop.postgres.execute("SELECT * FROM sales ORDER BY item");
    assert_eq!(sales, "1|you@there.test|1999\n2|me@there.test|1999");
    let asked = shop.prices.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].head[0].starts_with("GET /prices?of=s%C3%BC%C3%9F "), "{}", asked[1].head[0]);
    let mail = wait_for("the second mail", || shop.mail(1));
    assert!(mail.contains("To: me@there.test\n"), "{mail}");
    let sold = shop.post("/sales", "item=2&customer=you@there.test", 200);
    assert_eq!(sold["sales"], 3);
}

#[test]
fn a_request_and_a_deferred_call_use_four_services() {
    sells(false);
}

#[test]
fn they_use_the_same_by_tls() {
    sells(true);
}

#[test]
fn other_clients_of_http_and_a_database_in_a_file_work() {
    let shop = Shop::open(false);
    for client in ["urllib3", "httpx", "httpx-asyncio"] {
        let before = shop.prices.asked().len();
        assert_eq!(shop.get(&format!("/prices/{client}/tea")), json!({"cents": 1999}), "{client}");
        let asked = shop.prices.asked();
        assert!(
            asked[before..].iter().all(|asked| asked.head[0] == "GET /prices?of=tea HTTP/1.1"),
            "{client}"
        );
        assert_eq!(asked.len() - before, if client == "httpx-asyncio" { 3 } else { 1 }, "{client}");
    }
    assert_eq!(shop.post("/notes", "text=one", 200), json!(["one"]));
    assert_eq!(shop.post("/notes", "text=two", 200), json!(["one", "two"]));
    assert!(shop.notes.join("notes.db").is_file());
}
