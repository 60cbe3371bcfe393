//! What an import grants, and what to do about one that the server does not have.

/// What a guest, which is or is not a program, gets by an import that is offered.
pub(crate) fn grant(import: &str, is_program: bool) -> &'static str {
    let (stdin, stdout) = match is_program {
        true => ("the request's body, or the payload", "the response, or to the log in a deferred call"),
        false => ("at its end", "to the log"),
    };
    let grants = [
        (
            "wasi_snapshot_preview1 ",
            "WASI 0.1: the folders of --dir, the variables of --env, clocks, random numbers",
        ),
        ("wasi:cli/environment@", "the variables of --env, and no others"),
        ("wasi:cli/exit@", "ends the call"),
        ("wasi:cli/stdin@", stdin),
        ("wasi:cli/stdout@", stdout),
        ("wasi:cli/stderr@", "to the log"),
        ("wasi:cli/terminal-", "never a terminal"),
        ("wasi:clocks/", "the system's clocks"),
        ("wasi:filesystem/", "the folders of --dir, and no others"),
        ("wasi:http/types@", "requests and responses"),
        ("wasi:http/outgoing-handler@", "requests to what --allow-outbound grants"),
        ("wasi:http/client@", "requests to what --allow-outbound grants"),
        ("wasi:http/handler@", "requests to what --allow-outbound grants"),
        ("wasi:keyvalue/", "the stores of --keyvalue"),
        ("wasi:config/", "the values of --config and --secret"),
        ("wasi:random/", "the system's random numbers"),
        ("wasi:sockets/", "connections to what --allow-outbound grants"),
        ("wasi:tls/", "TLS over connections that the guest has"),
        ("wasm_serve ", "deferred calls, within the limits of --deferred-..."),
        ("wasm-serve:deferred/timers@", "deferred calls, within the limits of --deferred-..."),
        ("wasm-serve:gateway/tls@", "TLS over connections that the guest has"),
        ("wasm-serve:gateway/", "a request's head and a whole response in one call each"),
    ];
    let grant = grants.iter().find(|(prefix, _)| import.starts_with(prefix));
    grant.map_or("without limits of its own", |(_, grant)| grant)
}

/// What to do about an import that is not offered.
pub(crate) fn advice(import: &str) -> &'static str {
    let offered = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];
    let package = import.strip_prefix("wasi:").and_then(|rest| rest.split('/').next());
    if let Some((module, _)) = import.split_once(' ') {
        return match module {
            "wasi_snapshot_preview1" | "wasm_serve" => "check its name and type",
            "wasi_unstable" => "build it with tools of today, for `wasi_snapshot_preview1`",
            _ => "build it without, such as for the target `wasm32-wasip1`",
        };
    }
    if package == Some("tls") {
        return "build it for `wasi:tls` 0.2.0-draft or 0.3.0-draft, of which there are the client's sides";
    }
    if import.starts_with("wasm-serve:gateway/") {
        return "build it again with `wasm-serve build --wsgi-file` of this version of the server";
    }
    if import.starts_with("wasm-serve:") {
        return "build it with the folder `wit` of this version of the server";
    }
    match package {
        Some("keyvalue") => {
            return "build it for `wasi:keyvalue` 0.2.0-draft or 0.2.0-draft2, without `watcher`";
        }
        Some("config") => return "build it for `wasi:config/store` 0.2.0-rc.1",
        _ => {}
    }
    if package.is_some_and(|package| offered.contains(&package)) {
        return "build it with tools for WASI 0.2 or for WASI 0.3.0, not for a draft of them";
    }
    "build it without, or compose it with a component that exports this, for example with `wac plug`"
}
