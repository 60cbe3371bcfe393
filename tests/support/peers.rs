//! Peers of plain sockets, for guests to connect to. Each runs until the tests end.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

/// One that accepts connections.
pub struct Peer {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Peer {
    /// One that does this with each connection, in a thread of its own.
    pub fn start(serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (accepted, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let peer = Peer { address, accepted: accepted.clone(), ended: ended.clone() };
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (serve, ended) = (serve.clone(), ended.clone());
                // Whoever breaks off is of no concern.
                thread::spawn(move || {
                    let _ = serve(stream);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        peer
    }

    /// One that sends back what it gets, as it comes.
    pub fn echo() -> Peer {
        Peer::start(|mut stream| std::io::copy(&mut stream.try_clone()?, &mut stream).map(|_| ()))
    }

    /// One that neither reads nor writes, and ends when the other side does.
    pub fn idle() -> Peer {
        Peer::start(|stream| {
            let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
            let mut polled = [PollFd::new(&stream, PollFlags::RDHUP)];
            while !polled[0].revents().intersects(ends) {
                poll(&mut polled, None)?;
            }
            Ok(())
        })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections there were up to now.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many of them have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

/// A server of SMTP, and the mails that it got.
pub fn mail_server() -> (Peer, Arc<Mutex<Vec<String>>>) {
    let mails: Arc<Mutex<Vec<String>>> = Arc::default();
    let all = mails.clone();
    (Peer::start(move |stream| take_mails(stream, &all)), mails)
}

fn take_mails(mut stream: TcpStream, mails: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.write_all(b"220 mail.test ESMTP\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(line) = lines.next().transpose()? {
        let command = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match command.as_str() {
            "EHLO" => b"250-mail.test\r\n250 8BITMIME\r\n",
            "DATA" => {
                stream.write_all(b"354 go on\r\n")?;
                let mut mail = String::new();
                while let Some(line) = lines.next().transpose()?.filter(|line| line != ".") {
                    mail.push_str(&line);
                    mail.push('\n');
                }
                mails.lock().unwrap().push(mail);
                b"250 taken\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 well\r\n",
        };
        stream.write_all(answer)?;
    }
    Ok(())
}

/// A peer by UDP. What it gets is answered twice: by a stranger, and then by itself.
pub fn datagrams() -> SocketAddr {
    let (peer, stranger) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = peer.local_addr().expect("an address");
    thread::spawn(move || {
        let mut bytes = [0; 2000];
        while let Ok((count, from)) = peer.recv_from(&mut bytes) {
            let _ = stranger.send_to(b"strange", from);
            let _ = peer.send_to(&[b"pong to ", &bytes[..count]].concat(), from);
        }
    });
    address
}

/// A port of which nobody takes connections: the system has as many waiting as it keeps, and
/// answers no more. What this gives keeps it so.
pub fn full_port() -> (SocketAddr, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept = vec![listener];
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address);
        kept.push(socket);
    }
    (address.as_socket().unwrap(), kept)
}
