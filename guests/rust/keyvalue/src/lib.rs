//! Asks key-value stores, and for values by name, what the URL says: the first part of the path is
//! the draft or version, the second the function, and the query has what it is called with, such as
//! `/draft2/set?store=default&key=a&value=b`. An error of the interface is a 502 with its name.
//!
//! `/later/...` does the same in a deferred call, of which the log tells.

use std::io::Write;

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use exports::wasm_serve::deferred::callback;
use wasi::config0_2_0_draft::{runtime, store as values_draft};
use wasi::config0_2_0_draft_2024_09_27::store as values_2024_09_27;
use wasi::config0_2_0_rc_1::store as values_rc_1;
use wasi::keyvalue0_2_0_draft as draft;
use wasi::keyvalue0_2_0_draft2 as draft2;
use wasm_serve::deferred::timers;
use wasm_serve::deferred::types::DeferredCall;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guest:keyvalue;
        world guest {
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:keyvalue/batch@0.2.0-draft;
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import wasi:config/store@0.2.0-rc.1;
            import wasi:config/store@0.2.0-draft;
            import wasi:config/runtime@0.2.0-draft;
            import wasi:config/store@0.2.0-draft-2024-09-27;
            import wasm-serve:deferred/timers@0.1.0;
            export wasm-serve:deferred/callback@0.1.0;
        }
    ",
    generate_all,
});

struct Keyvalue;

export!(Keyvalue);
wasip2::http::proxy::export!(Keyvalue);

/// How often a swap is tried again that others come before.
const TRIES_MAX: usize = 1000;

type Answer = Result<String, String>;

impl wasip2::exports::http::incoming_handler::Guest for Keyvalue {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let done = match target.strip_prefix("/later") {
            Some(target) => timers::call_later(0, target.as_bytes())
                .map(|id| id.to_string())
                .map_err(|error| format!("{error:?}")),
            None => ask(&target),
        };
        answer(response_out, done);
    }
}

impl callback::Guest for Keyvalue {
    fn run(call: DeferredCall) -> Result<(), String> {
        let target = String::from_utf8(call.payload).map_err(|error| error.to_string())?;
        let done = ask(&target)?;
        println!("later: {done}");
        Ok(())
    }
}

fn answer(response_out: ResponseOutparam, done: Answer) {
    let answer = OutgoingResponse::new(Fields::new());
    answer.set_status_code(if done.is_ok() { 200 } else { 502 }).expect("the status exists");
    let body = answer.body().expect("the body is taken once");
    let mut stream = body.write().expect("the stream is taken once");
    ResponseOutparam::set(response_out, Ok(answer));
    let _ = stream.write_all(done.unwrap_or_else(|error| error).as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn ask(target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = Query(query);
    match path.trim_start_matches('/').split_once('/') {
        Some(("draft", function)) => ask_draft(function, &query),
        Some(("draft2", function)) => ask_draft2(function, &query),
        Some(("config", version)) => named_value(version, &query),
        _ => Err(format!("{path} is nothing")),
    }
}

/// What comes after the `?`: nothing in it is escaped.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    }

    fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// A value, or one of so many bytes.
    fn value(&self) -> Vec<u8> {
        match self.get("bytes").and_then(|bytes| bytes.parse().ok()) {
            Some(bytes) => vec![b'x'; bytes],
            None => self.text("value").as_bytes().to_vec(),
        }
    }

    /// The key, repeated as often as is said.
    fn key(&self) -> String {
        let times = self.get("times").and_then(|times| times.parse().ok()).unwrap_or(1);
        self.text("key").repeat(times)
    }

    fn keys(&self) -> Vec<String> {
        self.text("keys").split(',').filter(|key| !key.is_empty()).map(str::to_owned).collect()
    }

    /// Of `keys=a,b` and a value each has that; with `count`, there are that many keys.
    fn pairs(&self) -> Vec<(String, Vec<u8>)> {
        let counted = (0..self.get("count").and_then(|count| count.parse().ok()).unwrap_or(0))
            .map(|number: u32| format!("{}{number}", self.text("key")));
        self.keys().into_iter().chain(counted).map(|key| (key, self.value())).collect()
    }
}

fn shown(value: Option<Vec<u8>>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) if value.len() < 100 => format!("some {}", String::from_utf8_lossy(&value)),
        Some(value) => format!("some {} bytes", value.len()),
    }
}

fn list<C: std::fmt::Display>(keys: Vec<String>, cursor: Option<C>) -> String {
    let cursor = cursor.map_or_else(|| "end".to_owned(), |cursor| cursor.to_string());
    format!("{cursor}\n{}", keys.join("\n"))
}

fn ask_draft(function: &str, query: &Query<'_>) -> Answer {
    let bucket = draft::store::open(query.text("store")).map_err(name)?;
    Ok(match function {
        "open" => "opened".to_owned(),
        "get" => shown(bucket.get(&query.key()).map_err(name)?),
        "set" => bucket.set(&query.key(), &query.value()).map(|()| "set".to_owned()).map_err(name)?,
        "delete" => bucket.delete(&query.key()).map(|()| "deleted".to_owned()).map_err(name)?,
        "exists" => bucket.exists(&query.key()).map_err(name)?.to_string(),
        "list" => {
            let cursor = query.get("cursor").map(|cursor| cursor.parse().expect("a number"));
            let page = bucket.list_keys(cursor).map_err(name)?;
            list(page.keys, page.cursor)
        }
        "increment" => {
            let delta = query.text("delta").parse().map_err(|_| "no delta")?;
            draft::atomics::increment(&bucket, &query.key(), delta).map_err(name)?.to_string()
        }
        "get-many" => {
            let found = draft::batch::get_many(&bucket, &query.keys()).map_err(name)?;
            let each = found.into_iter().map(|pair| match pair {
                Some((key, value)) => format!("{key} {}", shown(Some(value))),
                None => "none".to_owned(),
            });
            each.collect::<Vec<_>>().join("\n")
        }
        "set-many" => {
            draft::batch::set_many(&bucket, &query.pairs()).map(|()| "set".to_owned()).map_err(name)?
        }
        "delete-many" => {
            draft::batch::delete_many(&bucket, &query.keys()).map(|()| "deleted".to_owned()).map_err(name)?
        }
        function => return Err(format!("{function} is no function")),
    })
}

fn ask_draft2(function: &str, query: &Query<'_>) -> Answer {
    let bucket = draft2::store::open(query.text("store")).map_err(name2)?;
    Ok(match function {
        "open" => "opened".to_owned(),
        "get" => shown(bucket.get(&query.key()).map_err(name2)?),
        "set" => bucket.set(&query.key(), &query.value()).map(|()| "set".to_owned()).map_err(name2)?,
        "delete" => bucket.delete(&query.key()).map(|()| "deleted".to_owned()).map_err(name2)?,
        "exists" => bucket.exists(&query.key()).map_err(name2)?.to_string(),
        "list" => {
            let page = bucket.list_keys(query.get("cursor")).map_err(name2)?;
            list(page.keys, page.cursor)
        }
        "increment" => {
            let delta = query.text("delta").parse().map_err(|_| "no delta")?;
            draft2::atomics::increment(&bucket, &query.key(), delta).map_err(name2)?.to_string()
        }
        "get-many" => {
            let found = draft2::batch::get_many(&bucket, &query.keys()).map_err(name2)?;
            let each = found.into_iter().map(|(key, value)| format!("{key} {}", shown(value)));
            each.collect::<Vec<_>>().join("\n")
        }
        "set-many" => {
            draft2::batch::set_many(&bucket, &query.pairs()).map(|()| "set".to_owned()).map_err(name2)?
        }
        "delete-many" => draft2::batch::delete_many(&bucket, &query.keys())
            .map(|()| "deleted".to_owned())
            .map_err(name2)?,
        "swap" => return swap(&bucket, query),
        "append" => return append(&bucket, query),
        "hold" => return hold(&bucket, query),
        function => return Err(format!("{function} is no function")),
    })
}

/// One swap; with `between`, that value is set after the present one was seen.
fn swap(bucket: &draft2::store::Bucket, query: &Query<'_>) -> Answer {
    let cas = draft2::atomics::Cas::new(bucket, &query.key()).map_err(name2)?;
    let seen = shown(cas.current().map_err(name2)?);
    if let Some(between) = query.get("between") {
        bucket.set(&query.key(), between.as_bytes()).map_err(name2)?;
    }
    match draft2::atomics::swap(cas, &query.value()) {
        Ok(()) => Ok(format!("swapped {seen}")),
        Err(draft2::atomics::CasError::CasFailed(cas)) => {
            Ok(format!("failed {seen}, now {}", shown(cas.current().map_err(name2)?)))
        }
        Err(draft2::atomics::CasError::StoreError(error)) => Err(name2(error)),
    }
}

/// Adds a byte to the value, by swaps until one is done.
fn append(bucket: &draft2::store::Bucket, query: &Query<'_>) -> Answer {
    let mut cas = draft2::atomics::Cas::new(bucket, &query.key()).map_err(name2)?;
    for _ in 0..TRIES_MAX {
        let mut value = cas.current().map_err(name2)?.unwrap_or_default();
        value.push(b'x');
        match draft2::atomics::swap(cas, &value) {
            Ok(()) => return Ok("appended".to_owned()),
            Err(draft2::atomics::CasError::CasFailed(again)) => cas = again,
            Err(draft2::atomics::CasError::StoreError(error)) => return Err(name2(error)),
        }
    }
    Err("others were always faster".to_owned())
}

/// Has seen a key so many times, and keeps that.
fn hold(bucket: &draft2::store::Bucket, query: &Query<'_>) -> Answer {
    let count: usize = query.text("count").parse().map_err(|_| "no count")?;
    let held: Result<Vec<_>, _> =
        (0..count).map(|_| draft2::atomics::Cas::new(bucket, &query.key())).collect();
    Ok(format!("held {}", held.map_err(name2)?.len()))
}

fn name(error: draft::store::Error) -> String {
    match error {
        draft::store::Error::NoSuchStore => "no-such-store".to_owned(),
        draft::store::Error::AccessDenied => "access-denied".to_owned(),
        draft::store::Error::Other(why) => format!("other: {why}"),
    }
}

fn name2(error: draft2::store::Error) -> String {
    match error {
        draft2::store::Error::NoSuchStore => "no-such-store".to_owned(),
        draft2::store::Error::AccessDenied => "access-denied".to_owned(),
        draft2::store::Error::Other(why) => format!("other: {why}"),
    }
}

/// The value of this name, or all of them.
fn named_value(version: &str, query: &Query<'_>) -> Answer {
    match query.get("name") {
        Some(name) => {
            let value = match version {
                "rc.1" => values_rc_1::get(name).map_err(|error| format!("{error:?}"))?,
                "draft" => values_draft::get(name).map_err(|error| format!("{error:?}"))?,
                "runtime" => runtime::get(name).map_err(|error| format!("{error:?}"))?,
                "2024-09-27" => values_2024_09_27::get(name).map_err(|error| format!("{error:?}"))?,
                _ => return Err(format!("{version} is no version")),
            };
            Ok(value.map_or_else(|| "none".to_owned(), |value| format!("some {value}")))
        }
        None => {
            let all = match version {
                "rc.1" => values_rc_1::get_all().map_err(|error| format!("{error:?}"))?,
                "draft" => values_draft::get_all().map_err(|error| format!("{error:?}"))?,
                "runtime" => runtime::get_all().map_err(|error| format!("{error:?}"))?,
                "2024-09-27" => values_2024_09_27::get_all().map_err(|error| format!("{error:?}"))?,
                _ => return Err(format!("{version} is no version")),
            };
            Ok(all.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect())
        }
    }
}
