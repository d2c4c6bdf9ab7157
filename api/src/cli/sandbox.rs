//! `saga sandbox`: run a command as the tools of a session would.

use std::path::PathBuf;
use std::time::Duration;

use tools::{Command, Ended, Policy, Sandbox};

use crate::failure::Failure;
use crate::host;
use crate::term::{To, clean, write_to};

#[derive(clap::Subcommand)]
pub(crate) enum Args {
    /// Run one command in a sandbox: it sees the workspace and read-only system folders, and no network.
    #[command(after_help = "\
Examples:
  saga sandbox run --workspace . -- cargo test --offline
  saga sandbox run --workspace /tmp/x -- sh -c 'id; ls /'

The exit code is the command's own; 124 when its time was up, 125 when the sandbox could not be opened, 127 when the \
command could not be started, 128 + N when signal N ended it.")]
    Run(Run),
}

#[derive(clap::Args)]
pub(crate) struct Run {
    /// The folder the command may write.
    #[arg(long, value_name = "DIR")]
    workspace: PathBuf,
    /// A sandbox layer that may be missing (repeatable); `saga doctor` names them.
    #[arg(long, env = "SAGA_LOWERED", value_name = "LAYER", value_delimiter = ',')]
    lowered: Vec<String>,
    /// Seconds the command may take.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_secs: Option<u64>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// The exit codes of `timeout` and `env`, which scripts know.
const TIMED_OUT: u8 = 124;
const NO_SANDBOX: u8 = 125;
const NOT_STARTED: u8 = 127;
/// What shells add to the number of the signal that ended a command.
const SIGNAL_BASE: i32 = 128;

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let Args::Run(args) = args;
    let (_, config) = super::settings()?;
    let workspace = args.workspace.canonicalize().map_err(|error| {
        Failure::new(format!("the workspace {} cannot be used: {error}", args.workspace.display()))
            .next("name an existing folder")
            .exit(NO_SANDBOX)
    })?;
    let lowered = if args.lowered.is_empty() { config.sandbox.lowered } else { args.lowered };
    let policy = Policy { lowered, ..Policy::new(workspace) };
    let sandbox = Sandbox::open(policy).await.map_err(|error| Failure::from(error).exit(NO_SANDBOX))?;
    for layer in sandbox.missing() {
        write_to(To::Stderr, &format!("warning: the layer {} does not hold: {}\n", layer.name, layer.detail));
    }
    let mut command = Command::new(args.command.clone());
    command.timeout = args.timeout_secs.map(Duration::from_secs);
    let show = |text: &str| write_to(To::Stdout, &clean(text));
    let ran =
        sandbox.run_streaming(command, &show).await.map_err(|error| Failure::from(error).exit(NO_SANDBOX))?;
    let say = |line: String| write_to(To::Stderr, &format!("saga: {line}\n"));
    if ran.leftovers {
        say("processes that the command had left behind were ended".to_string());
    }
    Ok(match ran.ended {
        Ended::Exited(code) => u8::try_from(code).unwrap_or(1),
        Ended::Signalled(signal) => {
            say(format!("the command was ended by signal {signal}"));
            u8::try_from(SIGNAL_BASE + signal).unwrap_or(1)
        }
        Ended::TimedOut(after) => {
            say(format!("the command was stopped after {}", host::seconds(after.as_secs_f64())));
            TIMED_OUT
        }
        Ended::Flooded => {
            say(format!("the command was stopped: it printed {}", host::bytes(ran.bytes_total)));
            1
        }
        Ended::OutOfMemory => {
            say("the command was stopped: its memory was used up".to_string());
            1
        }
        Ended::NotStarted(why) => {
            return Err(
                Failure::new(format!("{} could not be started: {why}", args.command[0])).exit(NOT_STARTED)
            );
        }
    })
}
