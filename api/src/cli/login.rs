//! `saga mcp login`: a person's part of logging in to a server of tools, with a browser here or on another machine.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tools::mcp::Server;
use tools::mcp::login::Visit;

use crate::failure::Failure;
use crate::term::{Ink, Screen, To};

/// How long a person may take. The pages of most servers hold for less.
const VISIT_WALL: Duration = Duration::from_secs(15 * 60);

/// What a browser may send before it is answered, and how long it may take. Bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEAD_WALL: Duration = Duration::from_secs(10);

/// The path that the browser comes back to.
const PATH: &str = "/callback";

/// Logs somebody in to a server.
pub(super) async fn log_in(server: &Server) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(format!("no login to {}: {why}", server.name));
    let listener = listen(server).await.map_err(failed)?;
    let port = listener.local_addr().map_err(|error| failed(error.to_string()))?.port();
    let visit = server.log_in(&format!("http://127.0.0.1:{port}{PATH}")).await.map_err(failed)?;
    let screen = Screen::new(To::Stdout);
    let asks = match visit.scopes() {
        [] => String::new(),
        scopes => format!(", which is asked for: {}", scopes.join(" ")),
    };
    screen.line(&format!("Visit this page to log in at {}{asks}", visit.issuer()));
    screen.line("");
    screen.line(visit.url());
    screen.line("");
    screen.line(&screen.ink(
        Ink::Dim,
        "With a browser on another machine the last page does not open: paste its address here.",
    ));
    let back = tokio::time::timeout(VISIT_WALL, come_back(&listener, &visit, &screen)).await;
    let back =
        back.map_err(|_| failed(format!("nobody came back within {} minutes", VISIT_WALL.as_secs() / 60)))?;
    visit.finish(&back).await.map_err(failed)?;
    screen.line(&format!("{} logged in to {}", screen.ink(Ink::Good, "✓"), server.name));
    Ok(())
}

/// Listens where the browser will come back to: at the port of the settings, at the one that was registered, or at any.
async fn listen(server: &Server) -> Result<TcpListener, String> {
    let at = |port: u16| TcpListener::bind(("127.0.0.1", port));
    let failed = |port: u16, error| format!("127.0.0.1:{port} cannot be listened at: {error}");
    if let Some(port) = server.redirect_port() {
        return at(port).await.map_err(|error| failed(port, error));
    }
    // Where that is taken by somebody else, the service registers itself once more.
    match at(server.registered_port().unwrap_or(0)).await {
        Ok(listener) => Ok(listener),
        Err(_) => at(0).await.map_err(|error| failed(0, error)),
    }
}

/// The address that the login ended at: as the browser asks for it here, or as somebody pastes it.
async fn come_back(listener: &TcpListener, visit: &Visit, screen: &Screen) -> String {
    let (pasted, mut lines) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if pasted.blocking_send(line).is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            Some(line) = lines.recv() => match line.trim() {
                "" => {}
                line if visit.is_answered_by(line) => return line.to_string(),
                _ => screen.line(&screen.ink(Ink::Warn, "that is not the address this login ends at")),
            },
            accepted = listener.accept() => {
                // A browser asks for more than the page, and others may knock.
                let Ok((stream, _)) = accepted else { continue };
                if let Some(back) = hear(stream, visit).await {
                    return back;
                }
            }
        }
    }
}

/// Hears what a browser asks for; answers it, and gives back the address if it is the end of this login.
async fn hear(mut stream: TcpStream, visit: &Visit) -> Option<String> {
    let head = tokio::time::timeout(HEAD_WALL, head(&mut stream)).await.ok()??;
    let path = head.split(' ').nth(1)?.to_string();
    let is_it =
        head.starts_with("GET ") && path.split('?').next() == Some(PATH) && visit.is_answered_by(&path);
    let (status, said) = match is_it {
        true => ("200 OK", "That is all. saga goes on in the terminal, and this page can be closed."),
        false => ("404 Not Found", "This is not the end of the login that saga waits for."),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\
         referrer-policy: no-referrer\r\ncache-control: no-store\r\n\r\n{said}",
        said.len()
    );
    // A browser that has gone was told all the same what it came for.
    let _ = tokio::time::timeout(HEAD_WALL, stream.write_all(answer.as_bytes())).await;
    is_it.then_some(path)
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend(&piece[..read]);
        if bytes.len() > HEAD_BYTES_MAX {
            return None;
        }
    }
    String::from_utf8(bytes).ok()
}
