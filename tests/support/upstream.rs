//! A server that guests ask: it keeps what it got, and answers byte by byte what it is told.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::ServerConfig;

use super::Folder;
use super::tls::{self, Authority};

/// A field of requests that are answered before their bodies have come.
pub const EARLY: &str = "x-early: 1";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its lines.
    pub head: Vec<String>,
    pub body: Vec<u8>,
}

/// It runs until the tests end.
pub struct Upstream {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    broken: Arc<AtomicUsize>,
}

trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

type Answer = dyn Fn(&Asked, &mut dyn Write) -> io::Result<()> + Send + Sync;

impl Upstream {
    /// One that answers so to each request.
    pub fn start(
        answer: impl Fn(&Asked, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::start_with(|stream| Ok(Box::new(stream)), answer)
    }

    /// The same by TLS, with a certificate for these names by an authority whose own is written
    /// to `ca.pem` in `folder`.
    pub fn start_tls(
        folder: &Folder,
        names: &[&str],
        answer: impl Fn(&Asked, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        let authority = Authority::new();
        std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
        Upstream::start_with_authority(&authority, names, answer)
    }

    /// The same, with a certificate by this authority.
    pub fn start_with_authority(
        authority: &Authority,
        names: &[&str],
        answer: impl Fn(&Asked, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        Upstream::start_by(authority.server(names), answer)
    }

    /// The same by such a server of TLS.
    pub fn start_by(
        config: ServerConfig,
        answer: impl Fn(&Asked, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        let config = Arc::new(config);
        Upstream::start_with(move |stream| Ok(Box::new(tls::wrapped(&config, stream)?)), answer)
    }

    fn start_with(
        wrap: impl Fn(TcpStream) -> io::Result<Box<dyn Duplex>> + Send + 'static,
        answer: impl Fn(&Asked, &mut dyn Write) -> io::Result<()> + Send + Sync + 'static,
    ) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (asked, answer): (Arc<Mutex<Vec<Asked>>>, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        let (all, broken) = (asked.clone(), Arc::<AtomicUsize>::default());
        let count = broken.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (all, count, answer) = (all.clone(), count.clone(), answer.clone());
                let Ok(stream) = stream.and_then(&wrap) else { continue };
                // Whoever leaves, or sends something else, is of no concern.
                thread::spawn(move || {
                    let _ = serve(stream, &all, &count, &*answer);
                });
            }
        });
        Upstream { address, asked, broken }
    }

    /// How many requests broke off in the middle.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }

    /// All that it was asked up to now.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: Box<dyn Duplex>,
    all: &Mutex<Vec<Asked>>,
    broken: &AtomicUsize,
    answer: &Answer,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_head(&mut stream)? {
        let is_early = head.iter().any(|line| line == EARLY);
        if is_early {
            answer(&Asked { head: head.clone(), body: Vec::new() }, stream.get_mut())?;
            stream.get_mut().flush()?;
        }
        let body = read_body(&mut stream, &head).inspect_err(|_| {
            broken.fetch_add(1, Ordering::SeqCst);
        })?;
        let asked = Asked { head, body };
        all.lock().unwrap().push(asked.clone());
        if !is_early {
            answer(&asked, stream.get_mut())?;
            stream.get_mut().flush()?;
        }
    }
    Ok(())
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut head = Vec::new();
    loop {
        match line(stream)? {
            None if head.is_empty() => return Ok(None),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(line) if line.is_empty() => return Ok(Some(head)),
            Some(line) => head.push(line),
        }
    }
}

fn read_body(stream: &mut impl BufRead, head: &[String]) -> io::Result<Vec<u8>> {
    let field = |name: &str| {
        let field = head.iter().filter_map(|line| line.split_once(':'));
        field.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    };
    let mut body = Vec::new();
    if field("transfer-encoding").is_some() {
        loop {
            let size = line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
            stream.take(size).read_to_end(&mut body)?;
            line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = field("content-length") {
        let length: u64 = length.parse().map_err(io::Error::other)?;
        if (stream.take(length).read_to_end(&mut body)? as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(body)
}

fn line(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    let count = stream.read_line(&mut line)?;
    Ok((count > 0).then(|| line.trim_end().to_owned()))
}
