//! Runs a file of attack cases (one JSON object a line) against the tools and says which were held.
//!
//! `cargo run -p tools --example attack -- FILE.jsonl [ID…]`. Cases of other tools than the built-in ones are skipped.
//! The example is its own helper.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command as Host, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tools::{Call, Policy, Sandbox, Toolbox};

/// Finding this in a result proves a leak; it is in no command.
const CANARY: &str = "CANARY-7f3a9c51e2";

fn main() -> ExitCode {
    tools::maybe_become_helper();
    let mut arguments = std::env::args().skip(1);
    let Some(file) = arguments.next() else {
        eprintln!("usage: attack FILE.jsonl [ID…]; the layers here are:");
        for layer in tools::probe() {
            eprintln!(
                "{} {}: {} {}",
                if layer.holds { "+" } else { "-" },
                layer.name,
                layer.detail,
                layer.mend
            );
        }
        return ExitCode::from(2);
    };
    let only: Vec<String> = arguments.collect();
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let case: Value = match serde_json::from_str(line) {
            Ok(case) => case,
            Err(error) => {
                eprintln!("a line is no JSON: {error}");
                return ExitCode::from(2);
            }
        };
        let id = case["id"].as_str().unwrap_or("?").to_owned();
        if !only.is_empty() && !only.contains(&id) {
            continue;
        }
        let verdict = runtime.block_on(attack(&case, !only.is_empty()));
        let word = match &verdict {
            Verdict::Held => "held",
            Verdict::Leaked(_) => "leaked",
            Verdict::Skipped(_) => "skipped",
        };
        *counts.entry(word).or_default() += 1;
        match verdict {
            Verdict::Held => println!("held    {id}"),
            Verdict::Leaked(why) => println!("LEAKED  {id}: {why}"),
            Verdict::Skipped(why) => println!("skipped {id}: {why}"),
        }
    }
    println!("{}", json!(counts));
    ExitCode::SUCCESS
}

enum Verdict {
    Held,
    Leaked(String),
    Skipped(&'static str),
}

async fn attack(case: &Value, verbose: bool) -> Verdict {
    let tool = match case["tool"].as_str().unwrap_or("") {
        "exec" => "exec",
        "read_file" => "read",
        "write_file" => "write",
        "edit" => "edit",
        "grep" => "grep",
        "glob" => "glob",
        "list" => "list",
        _ => return Verdict::Skipped("no such tool yet"),
    };
    let base = PathBuf::from(format!("/var/tmp/saga-attack-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&base);
    let (out, ws, ws2, home) = (base.join("out"), base.join("ws"), base.join("ws2"), base.join("home"));
    for folder in [&out, &ws, &ws2, &home.join(".ssh")] {
        std::fs::create_dir_all(folder).expect("the scene can be made");
    }
    for (path, text) in [
        (out.join("secret.txt"), CANARY),
        (out.join("target.txt"), "ORIGINAL\n"),
        (ws2.join("secret.txt"), CANARY),
        (home.join(".ssh/id_rsa"), CANARY),
    ] {
        std::fs::write(&path, text).expect("the scene can be made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
            .expect("the scene can be made");
    }
    // Something of the service's to reach: a process with a secret in its environment, sockets, a port.
    let mut service = Host::new("sleep")
        .arg("120")
        .env("SERVICE_SECRET", CANARY)
        .stdin(Stdio::null())
        .spawn()
        .expect("sleep can be started");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let socket = std::os::unix::net::UnixListener::bind(out.join("svc.sock")).expect("a socket can be made");
    let name = format!("saga-attack-{}-{port}", std::process::id());
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
    let unnamed = std::os::unix::net::UnixListener::bind_addr(&address.expect("a short name is valid"))
        .expect("an abstract socket can be made");
    // Whoever gets through is told a secret. The threads end with the process.
    for socket in [socket, unnamed] {
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = socket.accept() {
                let _ = stream.write_all(CANARY.as_bytes());
            }
        });
    }
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(CANARY.as_bytes());
        }
    });

    let pid = service.id().to_string();
    let places = [
        ("{HOME}", home.display().to_string()),
        ("{OUT}", out.display().to_string()),
        ("{WS2}", ws2.display().to_string()),
        ("{WS}", ws.display().to_string()),
        ("{IN}", ws.display().to_string()),
        ("{SVC}", pid),
        ("{CANARY}", CANARY.to_owned()),
        ("{PORT}", port.to_string()),
        ("{ABS}", name),
    ];
    let fill =
        |text: &str| places.iter().fold(text.to_owned(), |text, (mark, value)| text.replace(mark, value));
    let host = |line: &str| {
        Host::new("bash")
            .arg("-c")
            .arg(line)
            .current_dir(&ws)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    };
    let setup = fill(case["setup"].as_str().unwrap_or(""));
    if !setup.is_empty() {
        let _ = host(&setup);
    }

    let timeout = case["timeout_s"].as_u64().unwrap_or(10);
    let mut arguments = match &case["args"] {
        Value::Object(_) => serde_json::from_str(&fill_json(&case["args"], &fill)).unwrap_or(Value::Null),
        _ => json!({"command": fill(case["command"].as_str().unwrap_or(""))}),
    };
    if tool == "exec" {
        arguments["timeout_s"] = json!(timeout);
    }
    let mut policy = Policy::new(&ws);
    policy.limits.processes = 256;
    let verdict = match Sandbox::open(policy).await {
        Err(error) => Verdict::Leaked(format!("no sandbox: {error}")),
        Ok(sandbox) => {
            let call = Call { id: "1".to_owned(), name: tool.to_owned(), arguments };
            let began = Instant::now();
            match Toolbox::builtin().perform(&call, &sandbox, &|_| ()).await {
                Err(error) => Verdict::Leaked(format!("the sandbox broke: {error}")),
                Ok(outcome) => {
                    if verbose {
                        println!("{}\n{}", outcome.summary, outcome.text);
                    }
                    judge(&case["check"], &outcome.text, began.elapsed(), &fill, &|line| {
                        host(line).is_ok_and(|status| status.success())
                    })
                }
            }
        }
    };
    let alive = service.try_wait().is_ok_and(|ended| ended.is_none());
    let _ = service.kill();
    let _ = service.wait();
    let _ = std::fs::remove_dir_all(&base);
    match verdict {
        Verdict::Held if !alive => Verdict::Leaked("the service's process was killed".to_owned()),
        verdict => verdict,
    }
}

fn fill_json(value: &Value, fill: &dyn Fn(&str) -> String) -> String {
    fill(&value.to_string())
}

fn judge(
    check: &Value,
    text: &str,
    wall: Duration,
    fill: &dyn Fn(&str) -> String,
    host: &dyn Fn(&str) -> bool,
) -> Verdict {
    let words = |name: &str| -> Vec<String> {
        check[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(fill).collect()
    };
    if let Some(found) = words("stdout_lacks").iter().find(|word| text.contains(word.as_str())) {
        return Verdict::Leaked(format!("the result holds {found:?}"));
    }
    if let Some(missing) = words("stdout_has").iter().find(|word| !text.contains(word.as_str())) {
        return Verdict::Leaked(format!(
            "the result lacks {missing:?}: {}",
            text.chars().take(200).collect::<String>()
        ));
    }
    if let Some(max) = check["max_out_bytes"].as_u64().filter(|max| text.len() as u64 > *max) {
        return Verdict::Leaked(format!("the result has {} bytes, more than {max}", text.len()));
    }
    if let Some(max) = check["max_wall_s"].as_f64().filter(|max| wall.as_secs_f64() > *max) {
        return Verdict::Leaked(format!("it took {wall:?}, more than {max} s"));
    }
    match check["host"].as_str().map(fill) {
        Some(line) if !host(&line) => Verdict::Leaked(format!("on the host, this does not hold: {line}")),
        Some(_) | None => Verdict::Held,
    }
}
