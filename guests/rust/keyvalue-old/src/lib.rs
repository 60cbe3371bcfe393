//! The same names with other shapes: `get-many` as the second draft had it first, and values by
//! name without errors. `/` answers with what both give.

use std::io::Write;

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

use wasi::config::store as values;
use wasi::keyvalue::{batch, store};

wit_bindgen::generate!({
    inline: "
        package guest:old;

        package wasi:keyvalue@0.2.0-draft2 {
            interface store {
                variant error { no-such-store, access-denied, other(string) }
                open: func(identifier: string) -> result<bucket, error>;
                resource bucket {
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                }
            }
            interface batch {
                use store.{bucket, error};
                get-many: func(bucket: borrow<bucket>, keys: list<string>)
                    -> result<list<option<tuple<string, list<u8>>>>, error>;
            }
        }

        package wasi:config@0.2.0-draft {
            interface store {
                get: func(key: string) -> option<string>;
                get-all: func() -> list<tuple<string, string>>;
            }
        }

        world guest {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import wasi:config/store@0.2.0-draft;
        }
    ",
    generate_all,
});

struct Old;

wasip2::http::proxy::export!(Old);

impl wasip2::exports::http::incoming_handler::Guest for Old {
    fn handle(_: IncomingRequest, response_out: ResponseOutparam) {
        let done = ask().unwrap_or_else(|error| error);
        let answer = OutgoingResponse::new(Fields::new());
        let body = answer.body().expect("the body is taken once");
        let mut stream = body.write().expect("the stream is taken once");
        ResponseOutparam::set(response_out, Ok(answer));
        let _ = stream.write_all(done.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

fn ask() -> Result<String, String> {
    let bucket = store::open("default").map_err(|error| format!("{error:?}"))?;
    bucket.set("a", b"1").map_err(|error| format!("{error:?}"))?;
    let keys = ["a".to_owned(), "b".to_owned()];
    let found = batch::get_many(&bucket, &keys).map_err(|error| format!("{error:?}"))?;
    Ok(format!("{found:?} {:?} {:?} {:?}", values::get("colour"), values::get("none"), values::get_all()))
}
