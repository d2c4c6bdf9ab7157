//! The service as people start it: `saga up` as a process of its own, asked over HTTP. It can be killed and started again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything here may take before it is given up as lost. Only a broken service reaches it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A service with a home of its own, whose sessions think with a mind elsewhere.
pub struct Saga {
    binary: PathBuf,
    home: PathBuf,
    roots: PathBuf,
    child: Option<Child>,
    address: Option<SocketAddr>,
}

impl Saga {
    /// A service that is not started yet. `binary` is `saga`; `mind` is where its sessions think; `home` gets folders for its settings and
    /// data (`home`), temporary files (`tmp`) and workspaces (`work`).
    ///
    /// # Panics
    /// When the folders cannot be made.
    pub fn new(binary: &Path, home: &Path, mind: &str, settings: &str) -> Saga {
        for folder in ["home", "tmp", "work"] {
            std::fs::create_dir_all(home.join(folder)).expect("the folder can be written");
        }
        let mind =
            format!("[minds.scripted]\nurl = \"{mind}\"\nmodel = \"scripted\"\ncontext_tokens = 1000000\n");
        let text = format!("model = \"remote:scripted\"\nmemory = false\n{settings}\n{mind}");
        std::fs::write(home.join("home/config.toml"), text).expect("the folder can be written");
        let roots = home.join("work");
        Saga { binary: binary.to_owned(), home: home.to_owned(), roots, child: None, address: None }
    }

    /// The folder that workspaces lie in.
    pub fn work(&self) -> &Path {
        &self.roots
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.home.join("log"));
        let log = log.expect("the folder can be written");
        let mut child = Command::new(&self.binary)
            .args(["up", "--no-key", "--listen", "127.0.0.1:0", "--root"])
            .arg(&self.roots)
            .env_clear()
            .env("SAGA_HOME", self.home.join("home"))
            .env("SAGA_OFFLINE", "1")
            .env("TMPDIR", self.home.join("tmp"))
            .env("HOME", &self.home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(&self.roots)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let mut lines =
            BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let address = lines.by_ref().find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            rest.split(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).next()?.parse().ok()
        });
        // A reader that has gone would end the service; this one stays until it stops.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
        let Some(address) = address else {
            panic!("the service did not start:\n{}", self.log());
        };
        self.address = Some(address);
        let began = Instant::now();
        while self.ask("GET", "/health", None).is_none_or(|(status, _)| status != 200) {
            assert!(began.elapsed() < PATIENCE, "the service does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has said of itself, the end of it.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Its process.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it was started").id()
    }

    /// Ends it as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGKILL; it may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.address = None;
    }

    /// Asks it something. Nothing when it does not answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        ask(self.address?, method, path, body)
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it is not running.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it was started")
    }

    /// Asks it something that must go well.
    ///
    /// # Panics
    /// When it does not.
    pub fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        match self.ask(method, path, body) {
            Some((200..=299, answer)) => answer,
            other => panic!("{method} {path} {body:?}: {other:?}\n{}", self.log()),
        }
    }

    /// Makes a session of this name in a workspace of the same name.
    pub fn session(&self, id: &str, instructions: &str) {
        let new =
            serde_json::json!({"workspace": self.roots.join(id), "id": id, "instructions": instructions});
        self.must("POST", "/v1/sessions", Some(&new));
    }

    /// Waits until a session rests, and returns it.
    ///
    /// # Panics
    /// When it never does.
    pub fn rested(&self, id: &str) -> Value {
        let began = Instant::now();
        loop {
            let session = self.must("GET", &format!("/v1/sessions/{id}"), None);
            if session["status"] != "running" && session["waiting"] == 0 {
                return session;
            }
            assert!(began.elapsed() < PATIENCE, "{id} never rests: {session}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// All events of a session.
    pub fn events(&self, id: &str) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let after = all.last().and_then(|event| event["seq"].as_u64()).unwrap_or(0);
            let page = self.must(
                "GET",
                &format!("/v1/sessions/{id}/events?format=json&limit=1000&after={after}"),
                None,
            );
            let events = page["events"].as_array().cloned().unwrap_or_default();
            if events.is_empty() {
                return all;
            }
            all.extend(events);
        }
    }
}

impl Drop for Saga {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One request over a connection of its own. Nothing when the answer does not come in whole.
pub fn ask(address: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..at]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &answer[at + 4..];
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    if length.is_some_and(|length| body.len() < length) {
        return None;
    }
    Some((status, serde_json::from_slice(body).unwrap_or_default()))
}
