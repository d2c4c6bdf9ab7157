//! `saga mcp`: this service for other agents, and the servers whose tools sessions use.

use std::collections::BTreeMap;
use std::sync::Arc;

use tools::mcp::Way as ServerWay;
use tools::{Sandbox, Toolbox};

use super::reach::Server;
use crate::config::{Config, Folders};
use crate::failure::{EXIT_NO, Failure};
use crate::mcp::{Mouth, Way, config::servers, speak};
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
    }
}

fn configured() -> Result<(Config, Vec<tools::mcp::Server>), Failure> {
    let (_, config) = super::settings()?;
    let servers = servers(&config.mcp).map_err(Failure::new)?;
    Ok((config, servers))
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
        vec![server.name.clone(), one_line(&how, 80), asks.to_string()]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        screen.line(table(&["name", "server", "calls"], &rows).trim_end());
    }
    Ok(0)
}

async fn check(name: Option<&str>) -> Result<u8, Failure> {
    let (config, mut servers) = configured()?;
    if let Some(name) = name {
        servers.retain(|server| server.name == name);
        if servers.is_empty() {
            return Err(Failure::new(format!("there is no server {name:?}"))
                .next("`saga mcp list` shows those there are"));
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
