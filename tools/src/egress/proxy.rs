//! The proxy: one listener inside a session's network, which speaks HTTP (CONNECT, and requests for whole URLs) and SOCKS 5.
//!
//! It runs in the service. The session's anchor made the listener inside the session's network namespace and handed it
//! over, so nothing else can connect to it, and no command can take it away.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::contacts::Way;
use super::forward::{self, Answer, HEAD_BYTES_MAX};
use super::gate::{Gate, Passed, Refusal};
use super::rules::Target;
use super::secret::Scheme;
use super::socks;
use super::stream::Bounded;

/// Connections of one session at a time; more wait until one ends. npm opens 15, a browser 6 to each host.
const CONNECTIONS_MAX: usize = 64;

/// How long it may take to say what is wanted.
pub(super) const ASKING_WALL: Duration = Duration::from_secs(20);

/// How many headers a request may have.
const HEADERS_MAX: usize = 100;

/// A session's proxy. Dropping it closes its connections.
#[derive(Debug)]
pub(crate) struct Proxy(tokio::task::JoinHandle<()>);

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Proxy {
    /// Serves a listener until it is dropped.
    pub(crate) fn start(listener: std::net::TcpListener, gate: Arc<Gate>) -> io::Result<Proxy> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Proxy(tokio::spawn(accept(listener, gate))))
    }
}

async fn accept(listener: TcpListener, gate: Arc<Gate>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Ending this ends every connection.
    let mut connections = JoinSet::new();
    loop {
        // Before accepting: what there is no room for waits in the kernel's queue, and beyond that is refused there.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let gate = gate.clone();
                connections.spawn(async move {
                    // Whoever asked sees the connection end; there is nobody else to tell.
                    let _ = serve(stream, gate).await;
                    drop(place);
                });
            }
            // Out of descriptors, say: it is tried again when some may have been closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, gate: Arc<Gate>) -> io::Result<()> {
    let mut first = [0];
    let peeked = tokio::time::timeout(ASKING_WALL, stream.peek(&mut first)).await??;
    let stream = Bounded::new(stream, None);
    match (peeked, first) {
        (0, _) => Ok(()),
        (_, [socks::VERSION]) => socks::serve(stream, &gate).await,
        // What is neither is no valid request, and is told so.
        _ => serve_http(stream, gate).await,
    }
}

/// What is opened when an HTTP connection becomes a tunnel.
pub(super) enum Tunnel {
    /// Bytes, to and fro.
    Bytes(Bounded<TcpStream>),
    /// The proxy stands for the host, and puts its secret into each request.
    Standing(Passed, Arc<ServerConfig>),
}

impl Tunnel {
    /// Opens a tunnel to what may be reached.
    pub(super) async fn open(gate: &Gate, target: &Target, way: Way) -> Result<Tunnel, Refusal> {
        let passed = gate.judge(target, Scheme::Tls, way).await?;
        match gate.egress().standing_for(target) {
            Some(server) => Ok(Tunnel::Standing(passed, server)),
            None => Ok(Tunnel::Bytes(gate.dial(&passed).await?)),
        }
    }

    /// Carries what comes from the one side to the other until one of them ends.
    pub(super) async fn carry<S>(self, mut near: S, gate: &Arc<Gate>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self {
            Tunnel::Bytes(mut far) => tokio::io::copy_bidirectional(&mut near, &mut far).await.map(|_| ()),
            Tunnel::Standing(passed, server) => {
                let accepted = TlsAcceptor::from(server).accept(near);
                let near = tokio::time::timeout(ASKING_WALL, accepted).await??;
                let passed = Arc::new(passed);
                let service = service_fn(|request| {
                    let (gate, passed) = (gate.clone(), passed.clone());
                    async move { answered(stand_for(&gate, &passed, request).await) }
                });
                http().serve_connection(TokioIo::new(near), service).await.map_err(io::Error::other)
            }
        }
    }
}

fn http() -> hyper::server::conn::http1::Builder {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(ASKING_WALL)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .auto_date_header(false);
    http
}

async fn serve_http(stream: Bounded<TcpStream>, gate: Arc<Gate>) -> io::Result<()> {
    // A tunnel begins when the connection has ended as one of HTTP.
    let tunnel: Mutex<Option<(OnUpgrade, Tunnel)>> = Mutex::default();
    let service = service_fn(|request| {
        let (gate, tunnel) = (gate.clone(), &tunnel);
        async move {
            answered(if request.method() == Method::CONNECT {
                connect(&gate, request, tunnel).await
            } else {
                plain(&gate, request).await
            })
        }
    });
    http().serve_connection(TokioIo::new(stream), service).with_upgrades().await.map_err(io::Error::other)?;
    let opened = tunnel.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    match opened {
        Some((upgrade, tunnel)) => {
            let near = upgrade.await.map_err(io::Error::other)?;
            tunnel.carry(TokioIo::new(near), &gate).await
        }
        None => Ok(()),
    }
}

type Reply = Response<Either<Full<Bytes>, Answer>>;

/// `CONNECT host:port`.
async fn connect(
    gate: &Gate,
    mut request: Request<Incoming>,
    tunnel: &Mutex<Option<(OnUpgrade, Tunnel)>>,
) -> Result<Reply, Refusal> {
    let asked = request.uri().authority().map_or("", |authority| authority.as_str());
    let target = Target::read(asked, None).map_err(Refusal::Wrong)?;
    let opened = Tunnel::open(gate, &target, Way::Connect).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    *tunnel.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((upgrade, opened));
    Ok(Response::new(Either::Left(Full::default())))
}

/// A request for a whole URL. Where it goes is what the URL says; what its `Host` says is nobody's business.
async fn plain(gate: &Gate, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let uri = request.uri();
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Refusal::Wrong(
            "this is a proxy: ask it for a whole URL (http://host/path) or for a tunnel (CONNECT host:port)"
                .to_owned(),
        ));
    };
    if scheme != "http" {
        return Err(Refusal::Wrong(format!("ask for a tunnel (CONNECT host:port) to speak {scheme}")));
    }
    let target = Target::read(authority.as_str(), Some(80)).map_err(Refusal::Wrong)?;
    framed_once(&request)?;
    let passed = gate.judge(&target, Scheme::Plain, Way::Http).await?;
    Ok(forward::send(gate, &passed, Scheme::Plain, request).await?.map(Either::Right))
}

/// A request that came encrypted, for a host that the proxy stands for.
async fn stand_for(gate: &Gate, passed: &Passed, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let named = request.uri().authority().map(|authority| authority.as_str());
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or(""));
    for other in [named, host].into_iter().flatten() {
        if Target::read(other, Some(443)).as_ref() != Ok(&passed.target)
            && Target::read(other, Some(passed.target.port)).as_ref() != Ok(&passed.target)
        {
            return Err(Refusal::Wrong(format!(
                "this connection is for {} and no other host",
                passed.target
            )));
        }
    }
    framed_once(&request)?;
    Ok(forward::send(gate, passed, Scheme::Tls, request).await?.map(Either::Right))
}

/// A request whose end can be read in two ways is refused (RFC 9112, 6.3), though it would be framed anew.
fn framed_once(request: &Request<Incoming>) -> Result<(), Refusal> {
    let headers = request.headers();
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    let hosts = headers.get_all(header::HOST).iter().count();
    if lengths > 1 || hosts > 1 || (lengths == 1 && headers.contains_key(header::TRANSFER_ENCODING)) {
        return Err(Refusal::Wrong("the request says in two ways where it goes or ends".to_owned()));
    }
    Ok(())
}

/// What is told of a refusal, in words that reach whoever reads what a program prints.
fn answered(reply: Result<Reply, Refusal>) -> Result<Reply, Infallible> {
    Ok(reply.unwrap_or_else(|refusal| {
        let status = match &refusal {
            Refusal::Denied(_) => StatusCode::FORBIDDEN,
            Refusal::Unreachable(_) => StatusCode::BAD_GATEWAY,
            Refusal::Wrong(_) => StatusCode::BAD_REQUEST,
        };
        let text = Full::new(Bytes::from(format!("saga's sandbox: {refusal}\n")));
        let mut reply = Response::new(Either::Left(text));
        *reply.status_mut() = status;
        reply
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        reply
    }))
}
