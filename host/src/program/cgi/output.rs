//! A program's standard output: the head of a response, an empty line, and its body
//! (RFC 3875, 6).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use wasmtime_wasi_http::Error;

use super::head;
use crate::sandbox::imports::http::Head;
use crate::sandbox::left_out::LeftOut;
use crate::statuses::Failure;

/// Bytes of the body that wait for the client. A program that writes more waits, too.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Clones write to the same response.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

struct Shared {
    content: Mutex<Content>,
    /// There is room again, or nobody reads any more.
    room: Arc<Notify>,
    left_out: Arc<LeftOut>,
}

struct Content {
    /// Some as long as the head is not complete.
    head: Option<oneshot::Sender<Head>>,
    /// What is written of the head, then what is not read of the body.
    bytes: BytesMut,
    /// Where in it the last line of the head begins, as far as it is written.
    line: usize,
    /// Some while the client waits for more.
    reader: Option<Waker>,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The program may write more.
    Open,
    /// The program has ended, and nothing is missing.
    Complete,
    /// The program has gone without that.
    Broken,
    /// Nobody reads what it writes.
    Unread,
}

/// The response that a program writes. If this is dropped before it is finished,
/// something is missing, and the client learns of that.
pub(crate) struct Answer(Output);

impl Answer {
    pub(crate) fn new(head: oneshot::Sender<Head>, left_out: Arc<LeftOut>) -> Answer {
        let content = Content {
            head: Some(head),
            bytes: BytesMut::new(),
            line: 0,
            reader: None,
            progress: Progress::Open,
        };
        let shared = Shared { content: Mutex::new(content), room: Arc::new(Notify::new()), left_out };
        Answer(Output(Arc::new(shared)))
    }

    pub(crate) fn output(&self) -> Output {
        self.0.clone()
    }

    /// The program has ended, and wrote all that it wanted to write.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let mut content = self.0.0.content.lock();
        match content.head.take() {
            None => content.end(Progress::Complete),
            Some(_) if content.bytes.is_empty() => return Err(Failure::NoResponse),
            Some(head) => {
                let _ = head.send(Err("the output ends in the head of the response".to_owned()));
            }
        }
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.0.content.lock().end(Progress::Broken);
    }
}

impl Output {
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut content = self.0.content.lock();
        if content.progress != Progress::Open {
            return;
        }
        content.bytes.extend_from_slice(bytes);
        if content.head.is_none() {
            return content.wake_reader();
        }
        let Some(head) = content.take_head(&self.0.left_out) else { return };
        let Some(sender) = content.head.take() else { return };
        // A response that nobody waits for is dropped here, and looks at the content.
        drop(content);
        let _ = sender.send(head.map(|head| head.map(|()| Reader(self.0.clone()).boxed_unsync())));
    }

    /// Is told when more may be written, or nobody reads any more.
    pub(super) fn more_room(&self) -> &Arc<Notify> {
        &self.0.room
    }

    /// Bytes that may be written now.
    pub(super) fn room(&self) -> Result<usize, Closed> {
        let content = self.0.content.lock();
        match content.progress {
            Progress::Unread => Err(Closed),
            _ if content.head.is_some() => Ok(BODY_BYTES_MAX),
            _ => Ok(BODY_BYTES_MAX.saturating_sub(content.bytes.len())),
        }
    }
}

/// Nobody reads what the program writes.
pub(super) struct Closed;

impl Content {
    /// The head of the response, if all of it is there.
    fn take_head(&mut self, left_out: &LeftOut) -> Option<Result<Response<()>, String>> {
        let head = head::take(&mut self.bytes, &mut self.line, left_out)?;
        if head.is_err() {
            self.progress = Progress::Unread;
        }
        Some(head)
    }

    fn end(&mut self, progress: Progress) {
        if self.progress == Progress::Open {
            self.progress = progress;
        }
        self.wake_reader();
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// The body of the response.
struct Reader(Arc<Shared>);

impl Body for Reader {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut content = self.0.content.lock();
        if !content.bytes.is_empty() {
            let bytes = content.bytes.split().freeze();
            self.0.room.notify_one();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match content.progress {
            Progress::Open => {
                content.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Progress::Complete => Poll::Ready(None),
            Progress::Broken | Progress::Unread => Poll::Ready(Some(Err(Error::ConnectionTerminated))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let content = self.0.content.lock();
        content.progress == Progress::Complete && content.bytes.is_empty()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.content.lock().progress = Progress::Unread;
        self.0.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use wasmtime_wasi::p2::{OutputStream, Pollable};

    use super::head::HEAD_BYTES_MAX;
    use super::*;
    use crate::telemetry::log::Log;

    type Heads = oneshot::Receiver<Head>;

    fn answer() -> (Answer, Output, Heads) {
        let (sender, head) = oneshot::channel();
        let log = Log::open(Some("/dev/null".as_ref()), Default::default()).unwrap();
        let answer = Answer::new(sender, Arc::new(LeftOut::new(log)));
        let output = answer.output();
        (answer, output, head)
    }

    async fn whole(mut head: Heads) -> (http::response::Parts, Result<Bytes, Error>) {
        let (parts, body) = head.try_recv().unwrap().unwrap().into_parts();
        (parts, body.collect().await.map(|body| body.to_bytes()))
    }

    #[tokio::test]
    async fn head_and_body_come_in_any_pieces() {
        let text = b"Status: 404 Not Found\r\nContent-Type: text/plain\nX-A: 1\r\nx-a:2\nConnection: close\n\r\n\nbody\n";
        for size in 1..=text.len() {
            let (answer, output, head) = answer();
            for piece in text.chunks(size) {
                output.write(piece);
            }
            answer.finish().unwrap();
            let (parts, body) = whole(head).await;
            assert_eq!(parts.status, StatusCode::NOT_FOUND);
            assert_eq!(parts.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
            assert!(!parts.headers.contains_key("connection"));
            assert_eq!(body.unwrap(), &b"\nbody\n"[..]);
        }
    }

    #[test]
    fn what_is_no_head_is_an_error() {
        for bad in [
            "\n",
            "hello\n\n",
            "Status: abc\n\n",
            "Status: 101 Switching\n\n",
            "Status: 600\n\n",
            "Status: 999\n\n",
            "A B: c\n\n",
            "Content-Length: 1\nContent-Length: 2\n\n",
            "X: a\x01\n\n",
        ] {
            let (_answer, output, mut head) = answer();
            output.write(bad.as_bytes());
            assert!(head.try_recv().unwrap().is_err(), "{bad:?}");
            assert!(output.room().is_err(), "nobody reads more");
        }
        // Too long, with its end and without.
        for end in ["", "\n\n"] {
            let (_answer, output, mut head) = answer();
            output.write(format!("X:{}{end}", "x".repeat(HEAD_BYTES_MAX)).as_bytes());
            assert!(head.try_recv().unwrap().is_err());
        }
    }

    #[test]
    fn a_program_that_ends_too_early_has_no_response() {
        let (answer, _output, mut head) = answer();
        assert!(matches!(answer.finish(), Err(Failure::NoResponse)));
        assert!(head.try_recv().is_err());
        let (answer, output, mut head) = self::answer();
        output.write(b"Content-Type: text/plain\n");
        answer.finish().unwrap();
        assert!(head.try_recv().unwrap().is_err());
    }

    #[test]
    fn a_location_alone_redirects() {
        let (_answer, output, mut head) = answer();
        output.write(b"Location: /there\n\n");
        assert_eq!(head.try_recv().unwrap().unwrap().status(), StatusCode::FOUND);
    }

    #[tokio::test]
    async fn a_body_without_its_end_is_broken() {
        let (answer, output, head) = answer();
        output.write(b"Status: 200\n\nhalf");
        drop((answer, output));
        assert!(whole(head).await.1.is_err());
    }

    #[test]
    fn a_program_writes_no_more_than_it_may() {
        let (_answer, mut output, mut head) = answer();
        output.write(b"Status: 200\n\n");
        let _body = head.try_recv().unwrap().unwrap();
        for (bytes, is_allowed) in [(BODY_BYTES_MAX - 1, true), (2, false), (1, true), (1, false)] {
            let written = OutputStream::write(&mut output, vec![b'x'; bytes].into());
            assert_eq!(written.is_ok(), is_allowed, "{bytes}");
        }
    }

    #[test]
    fn a_program_whose_client_left_before_the_head_writes_on() {
        let (_answer, mut output, head) = answer();
        drop(head);
        output.write(b"Status: 200\n\n");
        output.write(b"body");
        assert!(output.check_write().is_err(), "nobody reads more");
    }

    #[tokio::test]
    async fn a_program_waits_for_a_slow_client_and_not_for_one_that_left() {
        let (_answer, mut output, mut head) = answer();
        output.write(b"Status: 200\n\n");
        output.write(&vec![b'x'; BODY_BYTES_MAX]);
        let mut body = head.try_recv().unwrap().unwrap().into_body();
        assert_eq!(output.check_write().unwrap(), 0);
        let mut ready = tokio::spawn(async move {
            output.ready().await;
            output
        });
        tokio::task::yield_now().await;
        assert!(!ready.is_finished());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), BODY_BYTES_MAX);
        let mut output = (&mut ready).await.unwrap();
        assert_eq!(output.check_write().unwrap(), BODY_BYTES_MAX);
        drop(body);
        assert!(output.check_write().is_err());
    }
}
