//! What a session that takes all it can get does to another one: the neighbour's commands are timed while a flood of output, a fork bomb, a
//! memory hog and a full workspace run beside it, each against a quiet machine:
//! `cargo run --release -p tools --example neighbours [RUNS]`. Exit code 1 when a 99th percentile is more than three times the quiet one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tools::{Command, Policy, Sandbox};

const RUNS: usize = 300;
/// How long a nuisance is let run before it is measured what it does.
const UNDERWAY: Duration = Duration::from_millis(700);
/// How many times the quiet 99th percentile is borne.
const BEARABLE: f64 = 3.0;

/// What a session may do that others should not notice: a name, and a line for the shell. Each is started again when it was ended.
const NUISANCES: [(&str, &str); 4] = [
    ("a flood of output", "head -c 10G /dev/zero"),
    ("a fork bomb", "bomb() { bomb | bomb & }; bomb; sleep 60"),
    ("a memory hog", "tail /dev/zero"),
    ("a full workspace", "n=0; while :; do n=$((n+1)); head -c 300M /dev/zero > fill$n; done"),
];

fn main() -> std::process::ExitCode {
    tools::maybe_become_helper();
    let runs = std::env::args().nth(1).and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    match runtime.block_on(measure(runs)) {
        true => std::process::ExitCode::SUCCESS,
        false => std::process::ExitCode::FAILURE,
    }
}

async fn measure(runs: usize) -> bool {
    let base = std::env::var_os("SAGA_NEIGHBOURS_DIR").map_or_else(std::env::temp_dir, Into::into);
    let base = base.join(format!("saga-neighbours-{}", std::process::id()));
    let [ours, theirs] = ["ours", "theirs"].map(|name| base.join(name));
    for folder in [&ours, &theirs] {
        std::fs::create_dir_all(folder).expect("a temporary folder can be made");
    }
    let neighbour = Sandbox::open(Policy::new(&ours)).await.expect("the sandbox opens");
    for layer in neighbour.missing() {
        println!("the layer {} does not hold here: {}", layer.name, layer.detail);
    }
    // The first ones find nothing warm.
    times(&neighbour, 20).await;
    let quiet = show("quiet", times(&neighbour, runs).await);
    let mut bearable = true;
    for (name, line) in NUISANCES {
        let over = Arc::new(AtomicBool::new(false));
        let nuisance = tokio::spawn(annoy(theirs.clone(), line, over.clone()));
        tokio::time::sleep(UNDERWAY).await;
        let beside = show(&format!("beside {name}"), times(&neighbour, runs).await);
        over.store(true, Ordering::SeqCst);
        let times = nuisance.await.expect("it does not panic");
        println!("  {:.1} times the quiet p99; it was started {times} times", beside / quiet);
        bearable &= beside <= BEARABLE * quiet;
        empty(&theirs);
        // What it leaves to be written to the disk is not the next one's doing.
        tokio::time::sleep(UNDERWAY).await;
    }
    show("quiet again", times(&neighbour, runs).await);
    drop(neighbour);
    // It is empty but for the two; leaving them would do no harm.
    let _ = std::fs::remove_dir_all(&base);
    bearable
}

/// Does it again and again until it is over, in a session of its own.
async fn annoy(workspace: std::path::PathBuf, line: &'static str, over: Arc<AtomicBool>) -> usize {
    let mut policy = Policy::new(&workspace);
    // Beyond its default, so that all of the flood goes through the service.
    policy.limits.output_bytes = 20 << 30;
    let sandbox = Sandbox::open(policy).await.expect("the sandbox opens");
    let mut times = 0;
    while !over.load(Ordering::SeqCst) {
        let stop = async {
            while !over.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        times += 1;
        tokio::select! {
            ran = sandbox.run(Command::shell(line)) => { ran.expect("the sandbox holds"); }
            () = stop => {}
        }
        empty(&workspace);
    }
    times
}

fn empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        // Another one may be at it.
        let _ = std::fs::remove_file(entry.path());
    }
}

/// How long commands take. Milliseconds.
async fn times(sandbox: &Sandbox, runs: usize) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let began = Instant::now();
        sandbox.run(Command::new(["/bin/true"])).await.expect("true runs");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        // As a session does: the next command comes when somebody has thought of it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times
}

/// Shows a list of times and gives its 99th percentile. Milliseconds.
fn show(what: &str, mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms, n {}", at(50), at(99), at(100), times.len());
    at(99)
}
