//! What listens on the host's loopback beside a service: whoever gets through to it is told the secret, or is led on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::scene::CANARY;

/// The ports of the servers; they end with the process.
pub(super) struct Servers {
    /// Tells the secret to whoever connects.
    pub(super) canary: u16,
    /// Answers every HTTP request with the way to the secret.
    pub(super) redirect: u16,
    /// Answers every HTTP request with its own head, and with what the secret is if it says so.
    pub(super) echo: u16,
}

impl Servers {
    pub(super) fn start() -> io::Result<Servers> {
        // At once, so that nobody has to know what to ask for; and as a page, for those who ask for one.
        let canary = serve(|mut stream| {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{CANARY}", CANARY.len())?;
            stream.shutdown(Shutdown::Write)?;
            // What was asked is read, since closing before would take the answer back.
            stream.read(&mut [0; 4096]).map(drop)
        })?;
        let redirect = serve(move |mut stream| {
            head(&mut stream)?;
            let to = format!("http://127.0.0.1:{canary}/");
            let empty = "Content-Length: 0\r\nConnection: close\r\n\r\n";
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\n{empty}")
        })?;
        let echo = serve(|mut stream| {
            let head = head(&mut stream)?;
            let length = head.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{head}"
            )
        })?;
        Ok(Servers { canary, redirect, echo })
    }
}

/// Listens, and answers each connection by itself.
fn serve(answer: impl Fn(TcpStream) -> io::Result<()> + Send + 'static) -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // One that says nothing must not keep the others waiting.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            // Whoever has gone needs no answer.
            let _ = answer(stream);
        }
    });
    Ok(port)
}

/// The head of a request, up to a length that none here has.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 << 10 && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
