//! The sandbox as its users see it.

use std::path::Path;
use std::time::Duration;

use tools::{Command, Ended, Policy, Ran, Sandbox};

async fn open(workspace: &Path) -> Sandbox {
    let mut policy = Policy::new(workspace.canonicalize().unwrap());
    policy.helper = Some(env!("CARGO_BIN_EXE_saga-sandbox-helper").into());
    Sandbox::open(policy).await.unwrap()
}

async fn shell(sandbox: &Sandbox, line: &str) -> Ran {
    let mut command = Command::shell(line);
    command.timeout = Some(Duration::from_secs(20));
    sandbox.run(command).await.unwrap()
}

#[tokio::test]
async fn a_command_runs_and_its_output_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = open(folder.path()).await;
    let ran = shell(&sandbox, "id; pwd; ls -la / /root; echo $PATH; cat /proc/self/status | grep -E 'Cap|Sec|NoNew'; echo hi > made; exit 3").await;
    println!("{}", ran.output);
    println!("{:?}", sandbox.missing());
    assert_eq!(ran.ended, Ended::Exited(3));
}
