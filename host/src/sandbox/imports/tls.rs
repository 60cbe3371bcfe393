//! `wasm-serve:gateway/tls`: TLS over the sockets of guests, as texts whose characters are bytes.

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType, WasmStr};

use super::gateway::{bytes_of, no_byte};
use crate::contract::TLS;
use crate::outbound::Checks;
use crate::outbound::tls::Asked;
use crate::sandbox::state::State;
use crate::sandbox::tls::{self, Engine, PIECE_BYTES_MAX, Received};
use crate::telemetry::labelled::Outcome;

/// Of certificates: a bundle of all authorities has a third of it.
const PEM_BYTES_MAX: usize = 1 << 20;
/// Names of protocols.
const PROTOCOLS_MAX: usize = 64;

type Store<'a> = StoreContextMut<'a, State>;
type Connection = Resource<Engine>;

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[expect(dead_code, reason = "guests make them")]
#[repr(u8)]
enum Checking {
    #[component(name = "nothing")]
    Nothing,
    #[component(name = "authority")]
    Authority,
    #[component(name = "name")]
    Name,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Settings {
    #[component(name = "server-name")]
    server_name: WasmStr,
    checks: Checking,
    #[component(name = "with-system")]
    with_system: bool,
    authorities: WasmStr,
    identity: WasmStr,
    protocols: WasmStr,
    #[component(name = "with-1-2")]
    with_1_2: bool,
    #[component(name = "with-1-3")]
    with_1_3: bool,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum Failure {
    #[component(name = "certificate")]
    Certificate((u32, String)),
    #[component(name = "alert")]
    Alert(String),
    #[component(name = "protocol")]
    Protocol(String),
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Facts {
    version: String,
    cipher: String,
    protocol: String,
    certificates: Vec<String>,
}

pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut tls = linker.instance(TLS)?;
    tls.resource("connection", ResourceType::host::<Engine>(), |mut store, number| {
        store.data_mut().table().delete(Connection::new_own(number))?;
        Ok(())
    })?;
    tls.func_wrap("[static]connection.begin", |store, (settings,)| Ok((begin(store, settings)?,)))?;
    tls.func_wrap("[method]connection.feed", |mut store: Store<'_>, (connection, sent): (_, WasmStr)| {
        let sent = piece(&sent.to_str(&store)?)?;
        let engine = engine(&mut store, &connection)?;
        let (fed, handshake) = (engine.feed(&sent), engine.handshake());
        if let Some(outcome) = handshake {
            store.data().server.stats.outbound_tls.count(Outcome { outcome });
        }
        Ok((fed.map_err(Failure::from),))
    })?;
    tls.func_wrap("[method]connection.take", |mut store: Store<'_>, (connection,)| {
        Ok((text(&engine(&mut store, &connection)?.take()),))
    })?;
    tls.func_wrap("[method]connection.read", |mut store: Store<'_>, (connection, bytes_max): (_, u32)| {
        let received = engine(&mut store, &connection)?.read(bytes_max as usize);
        let received = received.map(|received| match received {
            Received::Bytes(bytes) => Some(text(&bytes)),
            Received::End => Some(String::new()),
            Received::Nothing => None,
        });
        Ok((received.map_err(Failure::from),))
    })?;
    tls.func_wrap("[method]connection.write", |mut store: Store<'_>, (connection, bytes): (_, WasmStr)| {
        let bytes = piece(&bytes.to_str(&store)?)?;
        Ok((engine(&mut store, &connection)?.write(&bytes) as u32,))
    })?;
    tls.func_wrap("[method]connection.end", |mut store: Store<'_>, (connection,)| {
        engine(&mut store, &connection)?.end();
        Ok(())
    })?;
    tls.func_wrap("[method]connection.facts", |mut store: Store<'_>, (connection,)| {
        Ok((Facts::from(engine(&mut store, &connection)?.facts()),))
    })?;
    Ok(())
}

fn begin(mut store: Store<'_>, settings: Settings) -> wasmtime::Result<Result<Connection, String>> {
    let engine = made(&store, &settings)?;
    Ok(match engine {
        Ok(engine) => Ok(store.data_mut().table().push(engine)?),
        Err(wrong) => Err(wrong),
    })
}

fn made(store: &Store<'_>, settings: &Settings) -> wasmtime::Result<Result<Engine, String>> {
    let (name, authorities) = (settings.server_name.to_str(store)?, settings.authorities.to_str(store)?);
    let identity = settings.identity.to_str(store)?;
    if authorities.len() > PEM_BYTES_MAX || identity.len() > PEM_BYTES_MAX {
        return Ok(Err(format!("certificates of over {PEM_BYTES_MAX} bytes")));
    }
    let protocols = bytes_of(&settings.protocols.to_str(store)?).ok_or_else(no_byte)?;
    let Some(protocols) = names(&protocols) else {
        return Ok(Err("the names of protocols are too many, or none".to_owned()));
    };
    let checks = match settings.checks {
        Checking::Nothing => Checks::Nothing,
        Checking::Authority => Checks::Authority,
        Checking::Name if name.is_empty() => {
            return Ok(Err("there is no name that could be checked".to_owned()));
        }
        Checking::Name => Checks::Name,
    };
    let versions: Vec<&'static SupportedProtocolVersion> =
        [(settings.with_1_3, &TLS13), (settings.with_1_2, &TLS12)]
            .into_iter()
            .filter_map(|(is_asked, version)| is_asked.then_some(version))
            .collect();
    let Some(trust) = store.data().server.outbound.trust() else {
        return Ok(Err("nothing is granted to the guest by --allow-outbound".to_owned()));
    };
    let config = trust.config_for(Asked {
        checks,
        with_system: settings.with_system,
        authorities: &authorities,
        identity: &identity,
        protocols,
        versions: &versions,
    });
    Ok(config.and_then(|config| Engine::new(config, &name)))
}

/// Each comes after a byte that is its length.
fn names(mut list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    while let [length @ 1..=255, rest @ ..] = list {
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        names.push(name.to_vec());
        list = rest;
    }
    (list.is_empty() && names.len() <= PROTOCOLS_MAX).then_some(names)
}

fn engine<'a>(store: &'a mut Store<'_>, connection: &Connection) -> wasmtime::Result<&'a mut Engine> {
    Ok(store.data_mut().table().get_mut(connection)?)
}

/// A character of the text is a byte.
fn piece(text: &str) -> wasmtime::Result<Vec<u8>> {
    // Each has two bytes at most.
    if text.len() > 2 * PIECE_BYTES_MAX {
        wasmtime::bail!("over {PIECE_BYTES_MAX} bytes at once");
    }
    bytes_of(text).ok_or_else(no_byte)
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

impl From<tls::Failure> for Failure {
    fn from(failure: tls::Failure) -> Failure {
        match failure {
            tls::Failure::Certificate(number, why) => Failure::Certificate((number, why)),
            tls::Failure::Alert(alert) => Failure::Alert(alert),
            tls::Failure::Protocol(why) => Failure::Protocol(why),
        }
    }
}

impl From<tls::Facts> for Facts {
    fn from(facts: tls::Facts) -> Facts {
        Facts {
            version: facts.version,
            cipher: facts.cipher,
            protocol: text(&facts.protocol),
            certificates: facts.certificates.iter().map(|certificate| text(certificate)).collect(),
        }
    }
}
