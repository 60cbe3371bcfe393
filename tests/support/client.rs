//! A client that hides nothing: it sends what it is told, byte by byte if need
//! be, and says whether a response was complete.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A response as it came over the socket.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The end of the body was where the head, or the last chunk, said.
    pub complete: bool,
}

impl Reply {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// `GET path` on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Reply {
    Connection::open(address).get(path)
}

/// One connection over TCP or a Unix socket.
pub struct Connection<S = TcpStream> {
    pub socket: S,
    /// Bytes that came after the last reply.
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        let socket = TcpStream::connect(address).expect("the server accepts");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
        socket.set_nodelay(true).expect("TCP");
        Connection::over(socket)
    }
}

/// A connection from another address of this machine.
pub fn open_from(local: [u8; 4], address: SocketAddr) -> Connection {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((local, 0)).into()).expect("all of 127.0.0.0/8 is this machine");
    socket.connect(&address.into()).expect("the server accepts");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    Connection::over(socket.into())
}

impl<S: Read + Write> Connection<S> {
    pub fn over(socket: S) -> Connection<S> {
        Connection { socket, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("the server reads");
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.reply()
    }

    pub fn post(&mut self, path: &str, body: &[u8]) -> Reply {
        self.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
        self.send(body);
        self.reply()
    }

    /// Reads one response. It panics if there is no whole head.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("a response")
    }

    /// Reads one response to a request that was not HEAD. An error if the
    /// connection ends or breaks before the end of the head.
    pub fn try_reply(&mut self) -> io::Result<Reply> {
        loop {
            let mut reply = self.head()?;
            // Interim responses are for whoever asked for them.
            if reply.status == 100 {
                continue;
            }
            reply.complete = self.body(&mut reply).is_ok();
            return Ok(reply);
        }
    }

    /// Reads the head of a response, to look at it before its body.
    pub fn head(&mut self) -> io::Result<Reply> {
        let head = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
        let fields = lines.filter_map(field).collect();
        Ok(Reply { status, fields, body: Vec::new(), trailers: Vec::new(), complete: false })
    }

    /// Reads the body that follows a head.
    pub fn body(&mut self, reply: &mut Reply) -> io::Result<()> {
        if reply.status == 204 || reply.status == 304 {
            return Ok(());
        }
        if reply.field("transfer-encoding") == Some("chunked") {
            while self.chunk(&mut reply.body)? {}
            let end = self.until_empty_line()?;
            reply.trailers = end.split("\r\n").filter_map(field).collect();
            return Ok(());
        }
        let length: usize = match reply.field("content-length") {
            Some(length) => length.parse().map_err(io::Error::other)?,
            None => 0,
        };
        while self.buffer.len() < length {
            if let Err(error) = self.fill() {
                reply.body = std::mem::take(&mut self.buffer);
                return Err(error);
            }
        }
        let rest = self.buffer.split_off(length);
        reply.body = std::mem::replace(&mut self.buffer, rest);
        Ok(())
    }

    /// Reads one chunk of a body. False if it was the last.
    pub fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        let line = self.until(b"\r\n")?;
        let line = String::from_utf8_lossy(&line);
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(false);
        }
        while self.buffer.len() < length + 2 {
            self.fill()?;
        }
        let rest = self.buffer.split_off(length + 2);
        let chunk = std::mem::replace(&mut self.buffer, rest);
        body.extend_from_slice(&chunk[..length]);
        Ok(true)
    }

    fn until_empty_line(&mut self) -> io::Result<String> {
        let mut lines = String::new();
        loop {
            let line = self.until(b"\r\n")?;
            if line == b"\r\n" {
                return Ok(lines);
            }
            lines.push_str(&String::from_utf8_lossy(&line));
        }
    }

    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                let rest = self.buffer.split_off(at + end.len());
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64 << 10];
        match self.socket.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            // Whoever reads with a time limit, and is stopped and goes on (`signal(7)`).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until the server closes the connection, and gives what it still
    /// sent.
    pub fn until_closed(mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the connection stays open")
                }
                Err(_) => return self.buffer,
            }
        }
    }
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}
