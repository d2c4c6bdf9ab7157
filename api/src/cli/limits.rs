//! `saga sessions budget`: show what a session may use, or set it.

use agent::{Event, State};
use memory::Memory;

use super::reach::Server;
use super::sessions::{Source, now_ms};
use crate::failure::Failure;
use crate::host::count;
use crate::server::open_memory;
use crate::term::{say, table};
use crate::wire;

/// Limits to be set; those that are left out stay as they are.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Limits {
    /// Most steps in a turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Most tokens sampled in a turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    output_tokens: Option<u64>,
    /// Most tokens sampled in one reply.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    reply_tokens: Option<u32>,
    /// Most seconds that a turn takes; 0: as long as it likes.
    #[arg(long, value_name = "S")]
    wall_secs: Option<u64>,
    /// Most seconds that the tools of a turn run; 0: as long as they like.
    #[arg(long, value_name = "S")]
    tool_secs: Option<u64>,
    /// Most tokens sampled in the whole session; 0: as many as it likes.
    #[arg(long, value_name = "N")]
    session_tokens: Option<u64>,
    /// Most that the whole session costs, in the currency of the minds' prices; 0: as much as it likes.
    #[arg(long, value_name = "AMOUNT")]
    cost: Option<f64>,
}

impl Limits {
    fn wish(self) -> wire::Budget {
        wire::Budget {
            steps_max: self.steps,
            output_tokens_max: self.output_tokens,
            reply_tokens_max: self.reply_tokens,
            wall_secs_max: self.wall_secs,
            tool_secs_max: self.tool_secs,
            session_output_tokens_max: self.session_tokens,
            session_cost_max: self.cost,
        }
    }
}

pub(super) async fn run(id: &str, limits: Limits, server: &Server) -> Result<u8, Failure> {
    let (folders, _) = super::settings()?;
    let wish = limits.wish();
    let sets = wish != wire::Budget::default();
    let session = match server.running(&folders).await? {
        Some(client) => {
            if sets {
                client.budget(id, &wish).await?;
            }
            client.session(id).await?
        }
        None => {
            let memory = open_memory(&folders.memory()).await?;
            if sets {
                set(&memory, id, wish).await?;
            }
            super::sessions::of(&memory, id).await?
        }
    };
    say(&shown(&session));
    Ok(0)
}

/// Without a service nobody drives the session while this process has its memory open.
async fn set(memory: &Memory, id: &str, wish: wire::Budget) -> Result<(), Failure> {
    let events = Source::Memory(memory.clone()).events(id).await?;
    let state = State::fold(&events);
    let budget = wish.over(state.created().map(|created| created.budget).unwrap_or_default());
    wire::check(budget).map_err(Failure::new)?;
    let journal = memory.journal(id)?;
    let record = agent::encode(now_ms(), &Event::Budgeted { budget });
    let written = tokio::task::spawn_blocking(move || journal.append(&record)).await;
    written.map_err(|error| Failure::new(format!("writing it down failed: {error}")))??;
    Ok(())
}

/// Each limit with what of it is used, as far as that is of the session and not of a turn.
fn shown(session: &wire::Session) -> String {
    let wire::Session { budget, usage, .. } = session;
    let most = |most: Option<u64>| match most.unwrap_or_default() {
        0 => "none".to_string(),
        most => count(most),
    };
    let money = |amount: f64| if amount == 0.0 { "none".to_string() } else { format!("{amount}") };
    let line = |what: &str, limit: String, used: String| vec![what.to_string(), limit, used];
    let rows = vec![
        line("steps of a turn", most(budget.steps_max.map(u64::from)), String::new()),
        line("sampled tokens of a turn", most(budget.output_tokens_max), String::new()),
        line("sampled tokens of a reply", most(budget.reply_tokens_max.map(u64::from)), String::new()),
        line("seconds of a turn", most(budget.wall_secs_max), String::new()),
        line("seconds of a turn's tools", most(budget.tool_secs_max), String::new()),
        line(
            "sampled tokens of the session",
            most(budget.session_output_tokens_max),
            count(usage.output_tokens),
        ),
        line(
            "cost of the session",
            money(budget.session_cost_max.unwrap_or_default()),
            format!("{}", usage.cost),
        ),
    ];
    table(&["LIMIT", "MOST", "USED"], &rows)
}
