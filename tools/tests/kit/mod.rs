//! What the tests of the network need: an authority, and servers on this machine's loopback that are watched.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use tools::egress::{Contact, Egress, Settings};
use tools::{Call, Outcome, Policy, Sandbox, Toolbox};

/// A request as a server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) line: String,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// An answer: status, further headers, body.
pub(crate) type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// A server of HTTP, in the clear or not.
pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Who vouches for the servers.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: PathBuf,
    _folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the tests' authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        let pem = folder.path().join("ca.pem");
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate.der());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let text = lines.join("\n");
        fs::write(&pem, format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")).unwrap();
        Authority { issuer: Issuer::new(params, key), pem, _folder: folder }
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            );
        Arc::new(config.unwrap())
    }
}

impl Server {
    /// Serves HTTP, with TLS when somebody vouches for it. Its thread ends with the test.
    pub(crate) fn start(
        authority: Option<&Authority>,
        answer: impl Fn(u16, &Seen) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (kept, config, answer) = (seen.clone(), authority.map(Authority::server), Arc::new(answer));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (kept, config, answer) = (kept.clone(), config.clone(), answer.clone());
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    // A client that goes away is no fault of the test.
                    let _ = match config {
                        None => serve(stream, port, &kept, &*answer),
                        Some(config) => {
                            let connection = rustls::ServerConnection::new(config).unwrap();
                            serve(rustls::StreamOwned::new(connection, stream), port, &kept, &*answer)
                        }
                    };
                });
            }
        });
        Server { port, seen }
    }

    /// Serves the files of a folder.
    pub(crate) fn of_folder(authority: Option<&Authority>, folder: &Path) -> Server {
        Server::start(authority, files(folder))
    }

    /// What it was asked.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn place(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn serve<S: Read + Write>(
    stream: S,
    port: u16,
    kept: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(u16, &Seen) -> Answer + Send + Sync),
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let head = lines[1..].join("\n").to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
        stream.read_exact(&mut body)?;
        let seen = Seen { line: lines[0].clone(), head, body: String::from_utf8_lossy(&body).into_owned() };
        kept.lock().unwrap().push(seen.clone());
        let (status, headers, body) = answer(port, &seen);
        let mut text = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        let out = stream.get_mut();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\r\n")?;
        out.write_all(&body)?;
        out.flush()?;
    }
}

/// The files of a folder as answers.
pub(crate) fn files(folder: &Path) -> impl Fn(u16, &Seen) -> Answer + Send + Sync + 'static {
    let folder = folder.to_owned();
    move |_, seen| {
        let path = seen.line.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
        let mut file = folder.join(path.trim_start_matches('/'));
        if file.is_dir() {
            file = file.join("index.html");
        }
        let kind = match file.extension().and_then(|end| end.to_str()) {
            Some("html") => "text/html",
            Some("json") => "application/json",
            _ => "application/octet-stream",
        };
        match fs::read(&file) {
            Ok(bytes) => (200, vec![("content-type".to_owned(), kind.to_owned())], bytes),
            Err(_) => (404, Vec::new(), b"not here".to_vec()),
        }
    }
}

/// A text as an answer.
pub(crate) fn said(text: impl Into<String>) -> Answer {
    (200, vec![("content-type".to_owned(), "text/plain".to_owned())], text.into().into_bytes())
}

/// A session that may reach out.
pub(crate) struct Session {
    pub(crate) sandbox: Sandbox,
    pub(crate) toolbox: Toolbox,
    pub(crate) workspace: PathBuf,
    _folder: tempfile::TempDir,
}

impl Session {
    pub(crate) async fn open(settings: Settings) -> Session {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().canonicalize().unwrap();
        let egress = Egress::new(settings).unwrap();
        let mut policy = Policy::new(&workspace);
        policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
        policy.egress = Some(egress.clone());
        let toolbox = Toolbox::new(Some(&egress), &[]);
        Session { sandbox: Sandbox::open(policy).await.unwrap(), toolbox, workspace, _folder: folder }
    }

    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Outcome {
        let call = Call { id: "1".to_owned(), name: tool.to_owned(), arguments };
        self.toolbox.perform(&call, &self.sandbox, &|_| ()).await.unwrap()
    }

    pub(crate) async fn exec(&self, line: &str) -> Outcome {
        self.call("exec", serde_json::json!({"command": line, "timeout_s": 120})).await
    }

    pub(crate) fn contacts(&self) -> Vec<Contact> {
        self.sandbox.contacts().0
    }
}

/// The settings that open these places.
pub(crate) fn open(allow: &[&str]) -> Settings {
    Settings { allow: allow.iter().map(|line| (*line).to_owned()).collect(), ..Settings::default() }
}

/// Whether a program is installed; says so when it is not.
pub(crate) fn has(program: &str) -> bool {
    let found = std::process::Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: {program} is not installed here");
    }
    found
}
