//! Times opening a sandbox and running commands in it, beside plain ones and bubblewrap's, and measures what a flood of output
//! costs the service: `cargo run --release -p tools --example overhead [RUNS [native|runsc [PAUSE_MS]]]`. On a busy machine, `chrt -f 50`
//! before it takes the waiting for a processor out of the figures. With a pause between two commands, what is made ready for the next
//! one while nobody waits is ready.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tools::{Backend, Command, Policy, Sandbox};

const RUNS: usize = 200;
const SESSIONS: usize = 40;

/// How much the flood prints. Bytes.
const FLOOD_BYTES: u64 = 10 << 30;

fn main() {
    tools::maybe_become_helper();
    let number = |index: usize| std::env::args().nth(index).and_then(|number| number.parse().ok());
    let runs = number(1).unwrap_or(RUNS);
    let backend = match std::env::args().nth(2).as_deref() {
        Some("runsc") => Backend::Runsc,
        Some(_) | None => Backend::Native,
    };
    let pause = Duration::from_millis(number(3).unwrap_or(0) as u64);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(measure(runs, backend, pause));
}

async fn measure(runs: usize, backend: Backend, pause: Duration) {
    let folder = std::env::temp_dir().join(format!("saga-overhead-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    let policy = || Policy { backend, ..Policy::new(&folder) };
    let mut times = Vec::new();
    for _ in 0..SESSIONS {
        let began = Instant::now();
        let sandbox = Sandbox::open(policy()).await.expect("the sandbox opens");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        drop(sandbox);
    }
    show("a session's start", &mut times);

    let sandbox = Sandbox::open(policy()).await.expect("the sandbox opens");
    let bubblewrap =
        ["/usr/bin/bwrap", "/usr/local/bin/bwrap"].into_iter().find(|path| Path::new(path).exists());
    let (mut plain, mut inside, mut wrapped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        plain.push(timed(tokio::process::Command::new("/bin/true")).await);
        if let Some(bubblewrap) = bubblewrap {
            let mut command = tokio::process::Command::new(bubblewrap);
            command.args([
                "--ro-bind",
                "/usr",
                "/usr",
                "--symlink",
                "usr/bin",
                "/bin",
                "--symlink",
                "usr/lib",
                "/lib",
            ]);
            command.args([
                "--symlink",
                "usr/lib64",
                "/lib64",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "--tmpfs",
                "/tmp",
            ]);
            command.arg("--bind").args([&folder, &folder]).args(["--unshare-all", "--die-with-parent"]);
            command.args(["--clearenv", "/bin/true"]);
            wrapped.push(timed(command).await);
        }
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        sandbox.run(Command::new(["/bin/true"])).await.expect("true runs");
        inside.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let base = show("plain /bin/true", &mut plain);
    if wrapped.is_empty() {
        println!("no bubblewrap here to compare with");
    } else {
        over("bubblewrap", base, show("the same in bubblewrap", &mut wrapped));
    }
    over("the sandbox", base, show("the same in the kept sandbox", &mut inside));
    drop(sandbox);

    let before = peak_kib();
    let mut policy = policy();
    // Beyond its default, so that all of it goes through the service.
    policy.limits.output_bytes = 2 * FLOOD_BYTES;
    let sandbox = Sandbox::open(policy).await.expect("the sandbox opens");
    let mut flood =
        Command::new(["head".to_owned(), "-c".to_owned(), FLOOD_BYTES.to_string(), "/dev/zero".to_owned()]);
    flood.timeout = Some(Duration::from_secs(300));
    let ran = sandbox.run(flood).await.expect("head runs");
    println!(
        "a flood of {} bytes in {:.1} s: the service grew by {} KiB at its peak and shows {} bytes",
        ran.bytes_total,
        ran.wall.as_secs_f32(),
        peak_kib().saturating_sub(before),
        ran.output.len()
    );
    // The folder is empty; leaving it would do no harm.
    let _ = std::fs::remove_dir(&folder);
}

/// How long a command takes with its output read, as the sandbox does. Milliseconds.
async fn timed(mut command: tokio::process::Command) -> f64 {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    began.elapsed().as_secs_f64() * 1e3
}

/// Shows a list of times, and gives its median and its 99th percentile. Milliseconds.
fn show(what: &str, times: &mut [f64]) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let least = times[0];
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms, least {least:.2} ms, n {}", at(50), at(99), times.len());
    [at(50), at(99)]
}

fn over(what: &str, base: [f64; 2], with: [f64; 2]) {
    println!("{what} adds: p50 {:.2} ms, p99 {:.2} ms", with[0] - base[0], with[1] - base[1]);
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
