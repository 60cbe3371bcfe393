//! Counts its requests in the store `default`, and answers with the number and with the value
//! `colour`: both interfaces are older than WASI 0.3, and go with it.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

use wasi::config0_2_0_rc_1::store as values;
use wasi::keyvalue0_2_0_draft2::{atomics, store};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guest:keyvalue;
        world guest {
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:config/store@0.2.0-rc.1;
        }
    ",
    generate_all,
});

struct Keyvalue;

wasip3::http::service::export!(Keyvalue);

impl wasip3::exports::http::handler::Guest for Keyvalue {
    async fn handle(_: Request) -> Result<Response, ErrorCode> {
        let text = ask().unwrap_or_else(|error| error);
        let (mut body, body_reader) = wit_stream::new();
        let (_, no_trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), no_trailers);
        spawn_local(async move {
            let _ = body.write_all(text.into_bytes()).await;
        });
        Ok(response)
    }
}

fn ask() -> Result<String, String> {
    let bucket = store::open("default").map_err(|error| format!("{error:?}"))?;
    let count = atomics::increment(&bucket, "requests", 1).map_err(|error| format!("{error:?}"))?;
    let colour = values::get("colour").map_err(|error| format!("{error:?}"))?;
    Ok(format!("{count} {}", colour.unwrap_or_default()))
}
