//! The options of sockets of TCP.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use wasmtime::component::LinkerInstance;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};

use super::functions::{Version, get, set};
use crate::sandbox::sockets::BUFFER_BYTES_MAX;
use crate::sandbox::sockets::tcp::Socket;
use crate::sandbox::state::State;

/// What the system takes, in seconds.
const KEEP_ALIVE_TIME: [u64; 2] = [1, i16::MAX as u64];
/// And how often.
const KEEP_ALIVE_COUNT: [u32; 2] = [1, i8::MAX as u32];

pub(super) fn add<V: Version>(tcp: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    add_keep_alive::<V>(tcp)?;
    get::<V, _>(tcp, "hop-limit", hop_limit)?;
    set::<V, _>(tcp, "set-hop-limit", set_hop_limit)?;
    get::<V, _>(tcp, "receive-buffer-size", |socket| size(sockopt::socket_recv_buffer_size(socket.fd()?)))?;
    set::<V, _>(tcp, "set-receive-buffer-size", |socket, bytes| {
        done(sockopt::set_socket_recv_buffer_size(socket.fd()?, buffer_bytes(bytes)?))
    })?;
    get::<V, _>(tcp, "send-buffer-size", |socket| size(sockopt::socket_send_buffer_size(socket.fd()?)))?;
    set::<V, _>(tcp, "set-send-buffer-size", |socket, bytes| {
        done(sockopt::set_socket_send_buffer_size(socket.fd()?, buffer_bytes(bytes)?))
    })
}

fn add_keep_alive<V: Version>(tcp: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    get::<V, _>(tcp, "keep-alive-enabled", |socket| done(sockopt::socket_keepalive(socket.fd()?)))?;
    set::<V, _>(tcp, "set-keep-alive-enabled", |socket, is_on| {
        done(sockopt::set_socket_keepalive(socket.fd()?, is_on))
    })?;
    get::<V, _>(tcp, "keep-alive-idle-time", |socket| nanos(sockopt::tcp_keepidle(socket.fd()?)))?;
    set::<V, _>(tcp, "set-keep-alive-idle-time", |socket, time| {
        done(sockopt::set_tcp_keepidle(socket.fd()?, keep_alive_time(time)?))
    })?;
    get::<V, _>(tcp, "keep-alive-interval", |socket| nanos(sockopt::tcp_keepintvl(socket.fd()?)))?;
    set::<V, _>(tcp, "set-keep-alive-interval", |socket, time| {
        done(sockopt::set_tcp_keepintvl(socket.fd()?, keep_alive_time(time)?))
    })?;
    get::<V, _>(tcp, "keep-alive-count", |socket| done(sockopt::tcp_keepcnt(socket.fd()?)))?;
    set::<V, _>(tcp, "set-keep-alive-count", |socket, count: u32| {
        let [least, most] = KEEP_ALIVE_COUNT;
        match count {
            0 => Err(ErrorCode::InvalidArgument),
            _ => done(sockopt::set_tcp_keepcnt(socket.fd()?, count.clamp(least, most))),
        }
    })
}

fn hop_limit(socket: &Socket) -> Result<u8, ErrorCode> {
    match socket.family() {
        IpAddressFamily::Ipv4 => {
            u8::try_from(done(sockopt::ip_ttl(socket.fd()?))?).map_err(|_| ErrorCode::NotSupported)
        }
        IpAddressFamily::Ipv6 => done(sockopt::ipv6_unicast_hops(socket.fd()?)),
    }
}

fn set_hop_limit(socket: &mut Socket, limit: u8) -> Result<(), ErrorCode> {
    match socket.family() {
        _ if limit == 0 => Err(ErrorCode::InvalidArgument),
        IpAddressFamily::Ipv4 => done(sockopt::set_ip_ttl(socket.fd()?, limit.into())),
        IpAddressFamily::Ipv6 => done(sockopt::set_ipv6_unicast_hops(socket.fd()?, Some(limit))),
    }
}

fn done<T>(result: rustix::io::Result<T>) -> Result<T, ErrorCode> {
    result.map_err(|error| io::Error::from(error).into())
}

/// The system says twice what it was told, for what it needs itself.
fn size(bytes: rustix::io::Result<usize>) -> Result<u64, ErrorCode> {
    Ok(done(bytes)? as u64 / 2)
}

fn buffer_bytes(bytes: u64) -> Result<usize, ErrorCode> {
    match bytes {
        0 => Err(ErrorCode::InvalidArgument),
        _ => Ok(bytes.min(BUFFER_BYTES_MAX) as usize),
    }
}

fn nanos(time: rustix::io::Result<Duration>) -> Result<u64, ErrorCode> {
    Ok(u64::try_from(done(time)?.as_nanos()).unwrap_or(u64::MAX))
}

fn keep_alive_time(nanos: u64) -> Result<Duration, ErrorCode> {
    let [least, most] = KEEP_ALIVE_TIME.map(Duration::from_secs);
    match nanos {
        0 => Err(ErrorCode::InvalidArgument),
        _ => Ok(Duration::from_nanos(nanos).clamp(least, most)),
    }
}
