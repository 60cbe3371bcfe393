//! A way to another server that can be cut, and be silent.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What becomes of connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// They end at once.
    Cut,
    /// Nothing ever comes back.
    Silent,
}

/// It stays until the tests end.
pub struct Relay {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    way: Way,
    connections: Vec<TcpStream>,
}

impl Relay {
    pub fn to(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State { way: Way::Open, connections: Vec::new() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut state = shared.lock().expect("nobody panics with it");
                match state.way {
                    Way::Cut => {}
                    Way::Silent => state.connections.push(client),
                    Way::Open => {
                        let server = TcpStream::connect(server).expect("the server is there");
                        for end in [&client, &server] {
                            state.connections.push(end.try_clone().expect("there are sockets"));
                        }
                        let both = (client.try_clone(), server.try_clone());
                        let both = (both.0.expect("there are sockets"), both.1.expect("there are sockets"));
                        std::thread::spawn(move || copy(client, server));
                        std::thread::spawn(move || copy(both.1, both.0));
                    }
                }
            }
        });
        Relay { address, state }
    }

    /// Ends all that is connected.
    pub fn set(&self, way: Way) {
        let mut state = self.state.lock().expect("nobody panics with it");
        state.way = way;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
