//! Sends one request as it is told, and tells what came of it, line by line: for tests of
//! `wasi:http`. The fields of its own request say what to send.
//!
//! `x-url`, `x-method`; `x-field`, `x-trailer`: a `name: value`, any number; `x-body`: lengths of
//! pieces, such as `5,5`; `x-times`: three numbers of milliseconds. `x-end` is what becomes of the
//! bodies: `drop` ends the outgoing one by an error, `leave` does not read the incoming one.
//! `x-many` is how many such requests are under way at once.

use std::cell::RefCell;
use std::rc::Rc;

use futures::future::join_all;
use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme};
use wasip3::{spawn_local, wit_future, wit_stream};
use wit_bindgen::rt::async_support::StreamWriter;

struct Probe;

wasip3::http::service::export!(Probe);

/// What came of it, a line each.
type Told = Rc<RefCell<Vec<String>>>;

impl Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (fields, told) = (request.get_headers(), Told::default());
        let many = text(&fields, "x-many").parse::<usize>().unwrap_or(1);
        let asked = (0..many).map(|_| async {
            if let Err(code) = ask(&fields, &told).await {
                told.borrow_mut().push(format!("error {code:?}"));
            }
        });
        join_all(asked).await;
        let text = told.borrow().join("\n");
        let (mut body, reader) = wit_stream::new();
        let (_, no_trailers) = wit_future::new(|| Ok(None));
        let (answer, _sent) = Response::new(Fields::new(), Some(reader), no_trailers);
        spawn_local(async move {
            let _ = body.write_all(text.into_bytes()).await;
        });
        Ok(answer)
    }
}

async fn ask(fields: &Fields, told: &Told) -> Result<(), ErrorCode> {
    let url = text(fields, "x-url");
    let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let has_body = fields.has("x-body");
    let (writer, body) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let options = options(&text(fields, "x-times"));
    let pairs_of_request = pairs(fields, "x-field", told);
    let (asked, sent) =
        Request::new(pairs_of_request, has_body.then_some(body), trailers_reader, Some(options));
    let scheme = match scheme {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => Some(Scheme::Other(other.to_owned())),
    };
    let set = [
        ("method", asked.set_method(&method(text(fields, "x-method")))),
        ("scheme", asked.set_scheme(scheme.as_ref())),
        ("authority", asked.set_authority(Some(authority).filter(|authority| !authority.is_empty()))),
        ("path", asked.set_path_with_query(Some(path).filter(|path| !path.is_empty()))),
    ];
    let wrong: Vec<_> = set.iter().filter(|(_, set)| set.is_err()).collect();
    if !wrong.is_empty() {
        told.borrow_mut().extend(wrong.iter().map(|(what, _)| format!("refused {what}")));
        return Ok(());
    }
    let lengths = text(fields, "x-body");
    let is_dropped = text(fields, "x-end") == "drop";
    let given = fields.has("x-trailer").then(|| pairs(fields, "x-trailer", told));
    let of_body = told.clone();
    spawn_local(async move {
        if has_body {
            write(writer, &lengths, &of_body).await;
        }
        let end = if is_dropped { Err(ErrorCode::InternalError(None)) } else { Ok(given) };
        let _ = trailers.write(end).await;
    });
    let of_sending = told.clone();
    spawn_local(async move {
        if let Err(code) = sent.await {
            of_sending.borrow_mut().push(format!("sent {code:?}"));
        }
    });
    let response = client::send(asked).await?;
    told.borrow_mut().push(format!("status {}", response.get_status_code()));
    told.borrow_mut().extend(lines("field", &response.get_headers()));
    if text(fields, "x-end") != "leave" {
        read(response, told).await?;
    }
    Ok(())
}

async fn write(mut writer: StreamWriter<u8>, lengths: &str, told: &Told) {
    for length in lengths.split(',').filter_map(|length| length.parse().ok()) {
        let left = writer.write_all(vec![b'x'; length]).await;
        if !left.is_empty() {
            return told.borrow_mut().push("write closed".to_owned());
        }
    }
}

async fn read(response: Response, told: &Told) -> Result<(), ErrorCode> {
    let (_, no_error) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, no_error);
    let bytes = body.collect().await.len();
    match trailers.await {
        Ok(trailers) => {
            told.borrow_mut().push(format!("body {bytes}"));
            told.borrow_mut().extend(trailers.iter().flat_map(|trailers| lines("trailer", trailers)));
        }
        Err(code) => told.borrow_mut().push(format!("body {bytes} then {code:?}")),
    }
    Ok(())
}

fn lines(what: &str, fields: &Fields) -> Vec<String> {
    let lines = fields.copy_all().into_iter();
    lines.map(|(name, value)| format!("{what} {name}: {}", String::from_utf8_lossy(&value))).collect()
}

/// The fields that one of this name lists. Those that are refused are told.
fn pairs(fields: &Fields, name: &str, told: &Told) -> Fields {
    let pairs = Fields::new();
    for value in fields.get(name) {
        let value = String::from_utf8_lossy(&value).into_owned();
        let (name, value) = value.split_once(": ").unwrap_or((&value, ""));
        if let Err(error) = pairs.append(name, value.as_bytes()) {
            told.borrow_mut().push(format!("refused {name} {error:?}"));
        }
    }
    pairs
}

fn method(name: String) -> Method {
    match name.as_str() {
        "" | "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        _ => Method::Other(name),
    }
}

fn options(text: &str) -> RequestOptions {
    let options = RequestOptions::new();
    let mut times = text.split(' ').map(|time| time.parse().ok().map(|time: u64| time * 1_000_000));
    let set = options.set_connect_timeout(times.next().flatten());
    let set = set.and_then(|()| options.set_first_byte_timeout(times.next().flatten()));
    set.and_then(|()| options.set_between_bytes_timeout(times.next().flatten()))
        .expect("the server has them");
    options
}

fn text(fields: &Fields, name: &str) -> String {
    let values = fields.get(name);
    String::from_utf8_lossy(values.first().map_or(&[], Vec::as_slice)).into_owned()
}
