//! Sends the request on to the URL that its field `x-upstream` has, and the response back. It
//! hands on the streams themselves, so no byte of a body passes through the guest. The name of
//! what went wrong is the text of a 502.

use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, RequestOptions, Response, Scheme};
use wasip3::{spawn_local, wit_future, wit_stream};

struct Proxy;

wasip3::http::service::export!(Proxy);

/// What is of the first of two exchanges alone, beside what the server sees to.
const LEFT_OUT: [&str; 3] = ["x-upstream", "x-timeouts", "host"];

impl Guest for Proxy {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        match ask(request).await {
            Ok(response) => Ok(pass_back(response)),
            Err(code) => Ok(refuse(&code)),
        }
    }
}

async fn ask(request: Request) -> Result<Response, ErrorCode> {
    let (fields, method) = (request.get_headers(), request.get_method());
    let url = text(&fields, "x-upstream");
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let options = options(&text(&fields, "x-timeouts"));
    // Nobody writes to this future, so it resolves to: all is well.
    let (_, no_error) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, no_error);
    let (asked, _sent) = Request::new(copied(&fields), Some(body), trailers, Some(options));
    let set = asked.set_method(&method).and_then(|()| asked.set_scheme(Some(&scheme)));
    let set = set.and_then(|()| asked.set_authority(Some(authority)));
    set.and_then(|()| asked.set_path_with_query(Some(path)))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    client::send(asked).await
}

/// Three numbers of milliseconds, if any: to connect, for the first byte, and between bytes.
fn options(text: &str) -> RequestOptions {
    let options = RequestOptions::new();
    let mut times = text.split(' ').map(|time| time.parse().ok().map(|time: u64| time * 1_000_000));
    let set = options.set_connect_timeout(times.next().flatten());
    let set = set.and_then(|()| options.set_first_byte_timeout(times.next().flatten()));
    set.and_then(|()| options.set_between_bytes_timeout(times.next().flatten()))
        .expect("the server has them");
    options
}

fn pass_back(response: Response) -> Response {
    let (fields, status) = (copied(&response.get_headers()), response.get_status_code());
    let (_, no_error) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, no_error);
    let (answer, _sent) = Response::new(fields, Some(body), trailers);
    answer.set_status_code(status).expect("the status exists");
    answer
}

fn refuse(code: &ErrorCode) -> Response {
    let text = format!("{code:?}");
    let (mut body, reader) = wit_stream::new();
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (answer, _sent) = Response::new(Fields::new(), Some(reader), no_trailers);
    answer.set_status_code(502).expect("the status exists");
    spawn_local(async move {
        let _ = body.write_all(text.into_bytes()).await;
    });
    answer
}

fn text(fields: &Fields, name: &str) -> String {
    let values = fields.get(name);
    String::from_utf8_lossy(values.first().map_or(&[], Vec::as_slice)).into_owned()
}

fn copied(fields: &Fields) -> Fields {
    let copied = Fields::new();
    for (name, value) in fields.copy_all() {
        if !LEFT_OUT.contains(&name.as_str()) {
            // What is about the connection is the server's, and so is the host.
            let name = if name == "x-host" { "host" } else { &name };
            let _ = copied.append(name, &value);
        }
    }
    copied
}
