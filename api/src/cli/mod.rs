//! The `saga` command: one file per subcommand.

mod bench;
mod carry;
mod config;
mod context;
mod demo;
mod doctor;
mod eval;
mod experts;
mod follow;
mod limits;
mod login;
mod logits;
mod mcp;
mod memory;
mod model;
mod plan;
pub(crate) mod reach;
mod render;
mod replay;
mod resume;
mod rules;
mod run;
mod sandbox;
mod schedule;
mod sessions;
mod tenants;
mod top;
mod until;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{Config, Folders};
use crate::failure::Failure;
use crate::term::{To, write_to};

const ABOUT: &str = "A coding agent that lives on your machine: it thinks with its own embedded engine, works in a sandbox, \
and remembers every session.";

const EXAMPLES: &str = "\
Examples:
  saga demo                                  watch it fix a small bug
  saga run \"the tests fail, find out why\"    work in this folder
  saga resume s-1m5k3f8q2z0ab                go on with a session
  saga up --root ~/src                       serve the HTTP API on 127.0.0.1:7777
  saga doctor                                what this machine can do, and what to mend

Exit codes:
  0  done
  1  it could not be done; the `error:` line says why and what to do
  2  the command line makes no sense
  3  it was done, and the answer is no (a turn that ended early, a demo that was not fixed, a layer that does not hold)
  130  interrupted

Environment:
  SAGA_HOME    one folder for everything: settings, data and models
  SAGA_SERVER  the service to use, such as http://127.0.0.1:7777
  SAGA_KEY     its key
  SAGA_LOG     what is logged to standard error, such as `debug` or `agent=trace`
  NO_COLOR     no colours";

#[derive(Parser)]
#[command(name = "saga", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the HTTP API.
    Up(up::Args),
    /// Give a task to a new session and watch it work.
    Run(run::Args),
    /// Go on with a session.
    Resume(resume::Args),
    /// Watch all sessions of a service, follow one, stop one.
    Top(top::Args),
    /// List, show and delete sessions.
    #[command(subcommand)]
    Sessions(sessions::Args),
    /// Say something to sessions at a time, again and again, or when somebody calls.
    #[command(subcommand)]
    Schedule(schedule::Args),
    /// Search, show, add, forget and measure what is remembered.
    #[command(subcommand)]
    Memory(memory::Args),
    /// Let a model do tasks that are judged by commands.
    #[command(subcommand)]
    Eval(eval::Args),
    /// Hold rules about which calls may run against what sessions have called.
    Rules(rules::Args),
    /// Serve other agents over the Model Context Protocol, and check the servers that sessions use.
    Mcp(mcp::Args),
    /// Add, list and remove tenants: teams that share a service and nothing else.
    #[command(subcommand)]
    Tenants(tenants::Args),
    /// List, pull, inspect and delete models.
    #[command(subcommand)]
    Model(model::Args),
    /// Watch it find and fix a bug in a small sample project.
    Demo(demo::Args),
    /// Say what this machine can do, and what to mend.
    Doctor(doctor::Args),
    /// Run a command as the tools of a session would.
    #[command(subcommand)]
    Sandbox(sandbox::Args),
    /// Show or check the settings.
    #[command(subcommand)]
    Config(config::Args),
    /// Write a model's logits for given tokens to a file: the judge of every change to the engine.
    Logits(logits::Args),
    /// Go through a session's journal again and see that every prompt is as it was.
    Replay(replay::Args),
    /// Show the prompt a chat format makes of a conversation.
    Render(render::Args),
    /// Measure how fast a model reads and writes.
    Bench(bench::Args),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and versions come here too, and belong on standard output; a reader that has gone is no trouble.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(format!("cannot start threads: {error}"))),
    };
    let done = runtime.block_on(dispatch(cli.command));
    // What still blocks, such as reading the keyboard, is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => fail(&failure),
    }
}

/// Carries out a command; the exit code when it could be done.
async fn dispatch(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Run(args) => run::run(args).await,
        Command::Resume(args) => resume::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Sessions(args) => sessions::run(args).await,
        Command::Schedule(args) => schedule::run(args).await,
        Command::Memory(args) => memory::run(args).await,
        Command::Eval(args) => eval::run(args).await,
        Command::Rules(args) => rules::run(args).await,
        Command::Mcp(args) => mcp::run(args).await,
        Command::Tenants(args) => tenants::run(args).await,
        Command::Model(args) => model::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Sandbox(args) => sandbox::run(args).await,
        Command::Config(args) => config::run(args),
        Command::Logits(args) => logits::run(args).await,
        Command::Replay(args) => replay::run(args).await,
        Command::Render(args) => render::run(args).await,
        Command::Bench(args) => bench::run(args).await,
    }
}

fn fail(failure: &Failure) -> ExitCode {
    write_to(To::Stderr, &format!("error: {}\n", failure.to_string().replace('\n', " ")));
    ExitCode::from(failure.exit_code())
}

/// Sends the log to standard error. A service logs what it does; a command for people only what is wrong. What goes wrong between the
/// two sides of a protocol is said by whoever uses it, and not by its library as well.
fn log(command: &Command) {
    let usual = if matches!(command, Command::Up(_)) {
        "warn,saga=info,api=info,agent=info,rmcp=off"
    } else {
        "error,rmcp=off"
    };
    let wish = std::env::var("SAGA_LOG").ok().filter(|wish| !wish.trim().is_empty());
    let filter = tracing_subscriber::EnvFilter::try_new(wish.as_deref().unwrap_or(usual))
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    // A second start in one process (tests) keeps the first log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(
            std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none(),
        )
        .with_target(false)
        .try_init();
}

/// Who sits at this terminal, for the record of who has answered.
fn who() -> Option<String> {
    Some(
        std::env::var("USER")
            .ok()
            .filter(|name| !name.trim().is_empty())
            .unwrap_or_else(|| "somebody".into()),
    )
}

/// The folders of this machine and the settings in its file.
fn settings() -> Result<(Folders, Config), Failure> {
    let folders = Folders::from_env()?;
    let config = Config::read(&folders.config_file)?;
    Ok((folders, config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_on_the_command_line_are_told_apart() {
        let kind = |line: &[&str]| Cli::try_parse_from(line).map(|_| ()).map_err(|error| error.exit_code());
        assert_eq!(kind(&["saga", "run", "fix it"]), Ok(()));
        assert_eq!(kind(&["saga", "run", "--repo", "x", "--json", "fix it"]), Ok(()));
        assert_eq!(kind(&["saga", "run"]), Err(2));
        assert_eq!(kind(&["saga"]), Err(2));
        assert_eq!(kind(&["saga", "fly"]), Err(2));
        assert_eq!(kind(&["saga", "up", "--listen", "somewhere"]), Err(2));
        assert_eq!(kind(&["saga", "demo", "--case", "4"]), Err(2));
        assert_eq!(kind(&["saga", "sandbox", "run", "--workspace", "."]), Err(2));
        assert_eq!(kind(&["saga", "sandbox", "run", "--workspace", ".", "--", "ls", "-l"]), Ok(()));
        assert_eq!(
            kind(&[
                "saga", "bench", "-m", "x", "-p", "512", "-n", "64", "-t", "2", "-r", "3", "--depth", "9",
                "--json"
            ]),
            Ok(())
        );
        assert_eq!(kind(&["saga", "bench", "--all", "--batch", "8", "--json"]), Ok(()));
        assert_eq!(kind(&["saga", "bench", "--vs-llama", "bin", "--floor", "--depth", "64"]), Ok(()));
        assert_eq!(kind(&["saga", "bench", "--batch", "0"]), Err(2));
        assert_eq!(kind(&["saga", "bench", "--vs-llama", "bin", "--reuse"]), Err(2));
        assert_eq!(
            kind(&["saga", "logits", "-m", "x", "--ids", "a", "--out", "b", "--decode-from", "3"]),
            Ok(())
        );
        let plan = ["saga", "model", "plan", "deepseek-v4-flash", "--ram", "24G", "--ctx", "1048576"];
        assert_eq!(kind(&plan), Ok(()));
        assert_eq!(kind(&["saga", "model", "plan", "x", "--ram", "much"]), Err(2));
        assert_eq!(kind(&["saga", "model", "plan", "x", "--kv", "q3"]), Err(2));
        assert_eq!(kind(&["saga", "model", "experts", "-m", "x", "--ids", "a", "--json"]), Ok(()));
        assert_eq!(kind(&["saga", "model", "experts", "-m", "x"]), Err(2));
        assert_eq!(kind(&["saga", "render", "--dialect", "dsml-v4", "chat.json", "--json"]), Ok(()));
        assert_eq!(kind(&["saga", "render", "--dialect", "morse", "chat.json"]), Err(2));
        assert_eq!(kind(&["saga", "--version"]), Err(0));
        assert_eq!(kind(&["saga", "run", "--help"]), Err(0));
    }
}
