//! Programs that know nothing of components or HTTP (CGI, RFC 3875): each call runs one
//! from its beginning to its end. A request is in its environment and on its standard
//! input, and the response is what it writes to its standard output. For a deferred call
//! the payload is on its standard input.

mod head;
mod input;
pub(crate) mod output;
mod streams;

use std::pin::pin;

use http::Request;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::Accessor;
use wasmtime_wasi::cli::StdoutStream;
use wasmtime_wasi::{I32Exit, p2, p3};
use wasmtime_wasi_http::WasiBody;

use self::input::Input;
use self::output::Answer;
use crate::deferred::Call;
use crate::sandbox::imports::http::Head;
use crate::sandbox::meta_variables::{self, ServerAddress};
use crate::sandbox::output::Output;
use crate::sandbox::state::State;
use crate::sandbox::store::Ground;
use crate::statuses::Failure;

/// The id of the deferred call that a run is for. Requests do not have it.
const DEFERRED: &str = "WASM_SERVE_DEFERRED";

/// The entry point of a program.
pub(crate) enum Command {
    /// A core module's `_start` (WASI 0.1).
    Module(wasmtime::InstancePre<State>),
    /// `wasi:cli/run` 0.2.
    P2(wasmtime::component::InstancePre<State>, p2::bindings::CommandIndices),
    /// `wasi:cli/run` 0.3.
    P3(wasmtime::component::InstancePre<State>, p3::bindings::CommandIndices),
}

impl Command {
    fn is_module(&self) -> bool {
        matches!(self, Command::Module(_))
    }

    /// Runs it in `store`, until it ends.
    async fn run(&self, store: &mut Store<State>) -> Result<(), Failure> {
        let ended = match self {
            Command::Module(pre) => {
                let start = async {
                    let instance = pre.instantiate_async(&mut *store).await?;
                    instance.get_typed_func::<(), ()>(&mut *store, "_start")
                };
                let start = start.await.map_err(Failure::from_instantiation)?;
                start.call_async(store, ()).await.map(Ok)
            }
            Command::P2(pre, indices) => {
                let command = async {
                    let instance = pre.instantiate_async(&mut *store).await?;
                    indices.load(&mut *store, &instance)
                };
                let command = command.await.map_err(Failure::from_instantiation)?;
                command.wasi_cli_run().call_run(store).await
            }
            Command::P3(pre, indices) => {
                let command = async {
                    let instance = pre.instantiate_async(&mut *store).await?;
                    indices.load(&mut *store, &instance)
                };
                let command = command.await.map_err(Failure::from_instantiation)?;
                let run = async |accessor: &Accessor<State>| command.wasi_cli_run().call_run(accessor).await;
                store.run_concurrent(run).await.flatten()
            }
        };
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(())) => Err(Failure::ExitStatus(1)),
            Err(error) => match error.downcast_ref() {
                Some(I32Exit(0)) => Ok(()),
                Some(I32Exit(status)) => Err(Failure::ExitStatus(*status)),
                None => Err(Failure::from_trap(error)),
            },
        }
    }
}

/// Runs the program for a request. The head of the response goes to `head`, its body
/// belongs to the head. `note_bytes` is told what the instance took.
pub(crate) async fn handle(
    command: &Command,
    ground: Ground<'_>,
    request: Request<WasiBody>,
    head: oneshot::Sender<Head>,
    note_bytes: impl FnOnce(u64),
) -> Result<(), Failure> {
    let environment = environment(&request, &ground.host.address)?;
    let answer = Answer::new(head, ground.host.left_out.clone());
    let input = Input::body(request.into_body());
    let store = store(command, ground, environment, input, answer.output());
    run(command, store, note_bytes).await?;
    answer.finish()
}

/// Runs the program for a deferred call. What it writes goes to the log.
pub(crate) async fn run_callback(
    command: &Command,
    ground: Ground<'_>,
    call: Call,
    note_bytes: impl FnOnce(u64),
) -> Result<(), Failure> {
    let environment = vec![
        (DEFERRED.to_owned(), call.id.to_string()),
        ("WASM_SERVE_SCHEDULED_AT".to_owned(), call.scheduled.to_string()),
        ("WASM_SERVE_DUE_AT".to_owned(), call.due.to_string()),
        ("WASM_SERVE_ATTEMPT".to_owned(), call.attempt.to_string()),
    ];
    let output = Output::new(ground.host.log.clone());
    let input = Input::bytes(call.payload.into());
    let store = store(command, ground, environment, input, output.clone());
    let result = run(command, store, note_bytes).await;
    output.finish_line();
    result
}

/// Runs the program to its end, and with it that of its instance.
async fn run(
    command: &Command,
    mut store: Store<State>,
    note_bytes: impl FnOnce(u64),
) -> Result<(), Failure> {
    let account = store.data().account().clone();
    let result = account.charge(pin!(command.run(&mut store))).await;
    let state = store.data_mut();
    note_bytes(state.bytes());
    state.end_call(result.is_ok());
    result.map_err(|failure| state.cause(failure))
}

fn store(
    command: &Command,
    ground: Ground<'_>,
    environment: Vec<(String, String)>,
    input: Input,
    output: impl StdoutStream + 'static,
) -> Store<State> {
    let host = ground.host;
    let mut store = ground.store();
    store.data_mut().begin_program(command.is_module(), |wasi| {
        wasi.envs(&environment).envs(&host.environment_of_programs).stdin(input).stdout(output);
    });
    store
}

/// The variables of a request (RFC 3875, 4.1).
pub(crate) fn environment<B>(
    request: &Request<B>,
    server: &ServerAddress,
) -> Result<Vec<(String, String)>, Failure> {
    let mut variables = vec![
        ("GATEWAY_INTERFACE".to_owned(), "CGI/1.1".to_owned()),
        ("SERVER_SOFTWARE".to_owned(), concat!("wasm-serve/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("SCRIPT_NAME".to_owned(), String::new()),
    ];
    let (mut has_nul, mut is_path_text) = (false, true);
    meta_variables::each(request, server, |name, value| {
        has_nul |= value.contains(&0);
        is_path_text &= name != "PATH_INFO" || std::str::from_utf8(value).is_ok();
        variables.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
    });
    if has_nul {
        // A program would see only what is before it, another value than was checked.
        return Err(Failure::BadRequest("a NUL in the path, which an environment cannot have"));
    }
    if !is_path_text {
        return Err(Failure::BadRequest("a path that is not UTF-8, which WASI's environment has to be"));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_of_the_request_and_not_of_a_proxy() {
        let request =
            Request::post("/a/b%C3%A9?x=1").header("host", "h:81").header("proxy", "evil").body(()).unwrap();
        let variables = environment(&request, &ServerAddress::default()).unwrap();
        let of = |name: &str| {
            let values: Vec<_> = variables.iter().filter(|pair| pair.0 == name).collect();
            assert!(values.len() < 2, "{name} is there twice");
            values.first().map(|pair| &*pair.1)
        };
        assert_eq!(of("GATEWAY_INTERFACE"), Some("CGI/1.1"));
        assert_eq!(of("REQUEST_METHOD"), Some("POST"));
        assert_eq!(of("SCRIPT_NAME"), Some(""));
        assert_eq!(of("PATH_INFO"), Some("/a/b\u{e9}"));
        assert_eq!(of("QUERY_STRING"), Some("x=1"));
        assert_eq!(of("HTTP_PROXY"), None);
        assert_eq!(of(DEFERRED), None);
    }

    #[test]
    fn a_path_that_an_environment_cannot_have_is_refused() {
        for path in ["/a%00b", "/%ff"] {
            let request = Request::get(path).body(()).unwrap();
            let refused = environment(&request, &ServerAddress::default());
            assert!(matches!(refused, Err(Failure::BadRequest(_))), "{path}");
        }
    }
}
