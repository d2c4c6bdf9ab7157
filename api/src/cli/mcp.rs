//! `saga mcp`: this service for other agents, and the servers whose tools sessions use.

use std::collections::BTreeMap;
use std::sync::Arc;

use tools::mcp::Way as ServerWay;
use tools::mcp::login::Standing;
use tools::{Sandbox, Toolbox};

use super::login;
use super::reach::Server;
use crate::config::{Config, Folders};
use crate::failure::{EXIT_NO, Failure};
use crate::mcp::{Mouth, Way, config::servers_in, speak};
use crate::term::{Ink, Screen, To, one_line, table};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Without a command it serves the Model Context Protocol on its standard streams, for another agent that starts it."
)]
pub(crate) struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the servers whose tools sessions may use, as they are configured.
    List,
    /// Log in to one of them, with a browser here or elsewhere.
    Login {
        /// Which.
        name: String,
    },
    /// Forget the login to one of them.
    Logout {
        /// Which.
        name: String,
    },
    /// Start each of them in a sandbox on this folder, and show its tools or what is wrong.
    Check {
        /// Only this one.
        name: Option<String>,
    },
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    match args.what {
        None => {
            let way = Way::Beside(Box::new((args.server, Folders::from_env()?)));
            speak(Mouth::new(way)).await?;
            Ok(0)
        }
        Some(What::List) => list(),
        Some(What::Check { name }) => check(name.as_deref()).await,
        Some(What::Login { name }) => {
            login::log_in(&the(&name)?).await?;
            check(Some(&name)).await
        }
        Some(What::Logout { name }) => {
            let forgotten = the(&name)?.log_out().await.map_err(Failure::new)?;
            let said = if forgotten { "is forgotten" } else { "there was none" };
            Screen::new(To::Stdout).line(&format!("the login to {name}: {said}"));
            Ok(0)
        }
    }
}

fn configured() -> Result<(Config, Vec<tools::mcp::Server>), Failure> {
    let (folders, config) = super::settings()?;
    let servers = servers_in(&config.mcp, &folders).map_err(Failure::new)?;
    Ok((config, servers))
}

/// The server of this name.
fn the(name: &str) -> Result<tools::mcp::Server, Failure> {
    let (_, servers) = configured()?;
    servers.into_iter().find(|server| server.name == name).ok_or_else(|| nobody(name))
}

fn nobody(name: &str) -> Failure {
    Failure::new(format!("there is no server {name:?}")).next("`saga mcp list` shows those there are")
}

/// How it stands with the login to a server, in a few words.
fn standing(server: &tools::mcp::Server) -> String {
    match server.standing() {
        Ok(Standing::Unasked) => String::new(),
        Ok(Standing::Wanted { .. }) => format!("wanted: `saga mcp login {}`", server.name),
        Ok(Standing::In { issuer, left_s: Some(0), renews: false, .. }) => format!("has ended, at {issuer}"),
        Ok(Standing::In { issuer, .. }) => format!("at {issuer}"),
        Err(why) => why,
    }
}

fn list() -> Result<u8, Failure> {
    let (_, servers) = configured()?;
    let screen = Screen::new(To::Stdout);
    if servers.is_empty() {
        screen.line("no servers; add one to the settings under [mcp.NAME], with a command or a url");
    }
    let rows = servers.iter().map(|server| {
        let how = match &server.way {
            ServerWay::Command { argv, .. } => argv.join(" "),
            ServerWay::Url(address) => address.url.clone(),
        };
        let asks = match server.approve {
            Some(true) => "each call is asked for",
            Some(false) => "never asked for",
            None => "",
        };
        vec![server.name.clone(), one_line(&how, 80), asks.to_string(), one_line(&standing(server), 80)]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        screen.line(table(&["name", "server", "calls", "login"], &rows).trim_end());
    }
    Ok(0)
}

async fn check(name: Option<&str>) -> Result<u8, Failure> {
    let (config, mut servers) = configured()?;
    if let Some(name) = name {
        servers.retain(|server| server.name == name);
        if servers.is_empty() {
            return Err(nobody(name));
        }
    }
    let folder = std::env::current_dir()
        .map_err(|error| Failure::new(format!("this folder cannot be used: {error}")))?;
    let policy = config.sandbox.policy(folder);
    let sandbox = Arc::new(Sandbox::open(policy).await.map_err(|error| Failure::of(&error))?);
    let toolbox = Toolbox::new(None, &servers);
    let equipped = toolbox.equip(&sandbox, &BTreeMap::new()).await.map_err(|error| Failure::of(&error))?;
    let screen = Screen::new(To::Stdout);
    for equipment in &equipped {
        let name = screen.ink(Ink::Bold, &equipment.server);
        match &equipment.trouble {
            Some(why) => screen.line(&format!("{} {name}  {why}", screen.ink(Ink::Bad, "✗"))),
            None => {
                let count = equipment.tools.len();
                screen.line(&format!("{} {name}  {count} tools", screen.ink(Ink::Good, "✓")));
            }
        }
        for spec in &equipment.tools {
            let about = spec.description.split_once("] ").map_or("", |(_, about)| about);
            screen.line(&format!("    {}  {}", spec.name, screen.ink(Ink::Dim, &one_line(about, 80))));
        }
        for note in &equipment.notes {
            screen.line(&format!("    {} {}", screen.ink(Ink::Warn, "!"), one_line(note, 160)));
        }
    }
    let well = equipped.iter().all(|equipment| equipment.trouble.is_none());
    Ok(if well { 0 } else { EXIT_NO })
}
