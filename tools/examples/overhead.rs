//! Times opening a sandbox and running commands in it, beside plain ones: `cargo run --release -p tools --example overhead`.

use std::time::Instant;

use tools::{Command, Policy, Sandbox};

const RUNS: usize = 200;

fn main() {
    tools::maybe_become_helper();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(measure());
}

async fn measure() {
    let folder = std::env::temp_dir().join(format!("saga-overhead-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    let mut times = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let sandbox = Sandbox::open(Policy::new(&folder)).await.expect("the sandbox opens");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        drop(sandbox);
    }
    show("open", &mut times);
    let sandbox = Sandbox::open(Policy::new(&folder)).await.expect("the sandbox opens");
    let (mut plain, mut inside) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let began = Instant::now();
        let mut command = tokio::process::Command::new("/bin/true");
        command.stdin(std::process::Stdio::null()).output().await.expect("true runs");
        plain.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        sandbox.run(Command::new(["/bin/true"])).await.expect("true runs");
        inside.push(began.elapsed().as_secs_f64() * 1e3);
    }
    show("plain /bin/true", &mut plain);
    show("sandboxed /bin/true", &mut inside);
    // The folder is empty; leaving it would do no harm.
    let _ = std::fs::remove_dir(&folder);
}

fn show(what: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, least {:.2} ms, n {}",
        at(50),
        at(99),
        times[0],
        times.len()
    );
}
