//! The programs that projects are built with reach their registries through the proxy, encrypted, with nothing but the environment
//! that the sandbox gives them: in a tunnel, and where the proxy stands for the host and adds a token.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

mod kit;

use std::fs;
use std::path::Path;
use std::process::Command;

use kit::{Answer, Authority, Server, Session, files, has, open};
use sha2::Digest as _;
use tools::egress::{Secret, Settings};

/// What the registries ask for.
const TOKEN: &str = "tok-0123456789abcdef";

/// Runs a program on the host, to set a scene.
fn host(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn settings(authority: &Authority, server: &Server, secret: bool) -> Settings {
    let token =
        Secret { host: server.place(), header: "authorization".to_owned(), value: format!("Bearer {TOKEN}") };
    Settings {
        secrets: if secret { vec![token] } else { Vec::new() },
        ca_file: Some(authority.pem.clone()),
        ..open(&[&server.place()])
    }
}

/// A server of a folder that answers only those who show the token.
fn guarded(authority: &Authority, folder: &Path) -> Server {
    let files = files(folder);
    Server::start(Some(authority), move |port, seen| -> Answer {
        if seen.head.contains(&format!("authorization: bearer {TOKEN}")) {
            files(port, seen)
        } else {
            (401, Vec::new(), b"who are you".to_vec())
        }
    })
}

/// Tries a line in a session that reaches a server of `folder`: through a tunnel, and with a token that only the proxy has.
async fn try_both(
    folder: &Path,
    line: impl Fn(&str) -> String,
    prepare: impl Fn(&Session, &str),
    expected: &str,
) {
    let authority = Authority::new();
    for secret in [false, true] {
        let server =
            if secret { guarded(&authority, folder) } else { Server::of_folder(Some(&authority), folder) };
        let session = Session::open(settings(&authority, &server, secret)).await;
        let base = format!("https://{}", server.place());
        prepare(&session, &base);
        let outcome = session.exec(&line(&base)).await;
        assert!(outcome.ok && outcome.text.contains(expected), "with a token: {secret}\n{}", outcome.text);
        assert!(!outcome.text.contains(TOKEN) && !server.seen().is_empty());
        let contacts = session.contacts();
        assert!(contacts.iter().all(|contact| contact.allowed && contact.secret == secret), "{contacts:?}");

        // Without the line that opens it, the very same fails.
        let mut closed = settings(&authority, &server, false);
        closed.allow = vec!["example.test:443".to_owned()];
        let shut = Session::open(closed).await;
        prepare(&shut, &base);
        let seen = server.seen().len();
        let outcome = shut.exec(&line(&base)).await;
        assert!(!outcome.ok && server.seen().len() == seen, "{}", outcome.text);
    }
}

#[tokio::test]
async fn cargo_builds_with_a_crate_of_a_sparse_registry() {
    if !has("cargo") || !has("tar") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(
        &at.join("src/greet-0.1.0/Cargo.toml"),
        "[package]\nname = \"greet\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    );
    write(&at.join("src/greet-0.1.0/src/lib.rs"), "pub fn greet() -> &'static str { \"greetings\" }\n");
    fs::create_dir_all(at.join("index/dl")).unwrap();
    host(&at.join("src"), "tar", &["czf", "../index/dl/greet-0.1.0.crate", "greet-0.1.0"]);
    let sum = sha2::Sha256::digest(fs::read(at.join("index/dl/greet-0.1.0.crate")).unwrap());
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    write(
        &at.join("index/gr/ee/greet"),
        &format!(
            "{{\"name\":\"greet\",\"vers\":\"0.1.0\",\"deps\":[],\"cksum\":\"{sum}\",\"features\":{{}},\"yanked\":false}}\n"
        ),
    );
    let prepare = |session: &Session, base: &str| {
        // The index says where crates are, and so it is written for each server.
        let config = format!("{{\"dl\": \"{base}/dl/{{crate}}-{{version}}.crate\"}}");
        write(&at.join("index/config.json"), &config);
        write(
            &session.workspace.join("Cargo.toml"),
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\ngreet = { version = \"0.1\", registry = \"local\" }\n",
        );
        write(&session.workspace.join("src/main.rs"), "fn main() { println!(\"{}\", greet::greet()); }\n");
        write(
            &session.workspace.join(".cargo/config.toml"),
            &format!("[registries.local]\nindex = \"sparse+{base}/\"\n"),
        );
    };
    try_both(&at.join("index"), |_| "cargo run -q 2>&1".to_owned(), prepare, "greetings").await;
}

#[tokio::test]
async fn pip_installs_from_a_simple_index() {
    if !has("python3") || !has("pip3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let wheel = "import zipfile\n\
        z = zipfile.ZipFile('simple/greet/greet-0.1.0-py3-none-any.whl', 'w')\n\
        z.writestr('greet.py', 'print(\"greetings\")\\n')\n\
        z.writestr('greet-0.1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: greet\\nVersion: 0.1.0\\n')\n\
        z.writestr('greet-0.1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        z.writestr('greet-0.1.0.dist-info/RECORD', '')\n\
        z.close()";
    write(
        &at.join("simple/greet/index.html"),
        "<!doctype html><a href=\"greet-0.1.0-py3-none-any.whl\">greet-0.1.0-py3-none-any.whl</a>",
    );
    host(at, "python3", &["-c", wheel]);
    let line = |base: &str| {
        format!(
            "python3 -m pip install -q --disable-pip-version-check --retries 0 --index-url {base}/simple --target lib greet 2>&1 && \
             PYTHONPATH=lib python3 -c 'import greet'"
        )
    };
    try_both(at, line, |_, _| (), "greetings").await;
}

#[tokio::test]
async fn python_itself_asks_the_proxy() {
    if !has("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("index.html"), "greetings");
    let line = |base: &str| {
        format!("python3 -c 'import urllib.request as r; print(r.urlopen(\"{base}/\").read().decode())' 2>&1")
    };
    try_both(folder.path(), line, |_, _| (), "greetings").await;
}

#[tokio::test]
async fn npm_installs_from_a_registry() {
    if !has("npm") || !has("node") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(
        &at.join("src/package/package.json"),
        "{\"name\": \"greet\", \"version\": \"0.1.0\", \"main\": \"index.js\"}",
    );
    write(&at.join("src/package/index.js"), "console.log('greetings')\n");
    fs::create_dir_all(at.join("files/greet")).unwrap();
    host(&at.join("src"), "tar", &["czf", "../files/greet-0.1.0.tgz", "package"]);
    let sum = host(at, "sha1sum", &["files/greet-0.1.0.tgz"]);
    let sum = sum.split(' ').next().unwrap().to_owned();
    let prepare = |_: &Session, base: &str| {
        let version = format!(
            "{{\"name\": \"greet\", \"version\": \"0.1.0\", \"main\": \"index.js\", \"dist\": {{\"shasum\": \"{sum}\", \"tarball\": \"{base}/greet-0.1.0.tgz\"}}}}"
        );
        let page = format!(
            "{{\"name\": \"greet\", \"dist-tags\": {{\"latest\": \"0.1.0\"}}, \"versions\": {{\"0.1.0\": {version}}}}}"
        );
        write(&at.join("files/greet/index.html"), &page);
    };
    let line = |base: &str| {
        format!(
            "npm install --no-audit --no-fund --no-update-notifier --fetch-retries 0 --registry {base}/ greet 2>&1 && node -e 'require(\"greet\")'"
        )
    };
    try_both(&at.join("files"), line, prepare, "greetings").await;
}

#[tokio::test]
async fn git_clones_over_https() {
    if !has("git") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(&at.join("work/greet.txt"), "greetings\n");
    let work = at.join("work");
    host(&work, "git", &["init", "-q"]);
    host(&work, "git", &["add", "."]);
    host(&work, "git", &["-c", "user.name=a", "-c", "user.email=a@b.test", "commit", "-qm", "greet"]);
    fs::create_dir_all(at.join("files")).unwrap();
    host(at, "git", &["clone", "-q", "--bare", "work", "files/greet.git"]);
    // As plain files, which git reads as well.
    host(&at.join("files/greet.git"), "git", &["update-server-info"]);
    let line = |base: &str| format!("git clone -q {base}/greet.git got 2>&1 && cat got/greet.txt");
    try_both(&at.join("files"), line, |_, _| (), "greetings").await;
}
