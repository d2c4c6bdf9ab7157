//! `saga schedule`: what is to be said to which session, and when.

use std::path::PathBuf;

use super::reach::Server;
use super::until::Until;
use crate::client::Client;
use crate::failure::{EXIT_NO, Failure};
use crate::schedules::{NewSchedule, Run, Schedule};
use crate::term::{one_line, say, table};

const EXAMPLES: &str = "\
Examples:
  saga schedule add --cron \"0 9 * * 1-5\" --zone Europe/Berlin --repo ~/src/shop \"update the dependencies\"
  saga schedule add --at 2026-12-01T09:00 --session s-1m5k3f8q2z0ab \"is the build green now?\"
  saga schedule add --hook --repo ~/src/shop \"a check has failed; find out why\"    prints where to call it

Schedules run in `saga up`. What comes due while it is away runs once when it is back.";

#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Args {
    /// Add a schedule: a time or a hook, and what is said then.
    Add(Box<Add>),
    /// List the schedules, with when they run next and what their last run has begun.
    List {
        /// Print one JSON object per schedule.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Remove a schedule. What it has begun goes on.
    Remove {
        /// The schedule, as `saga schedule list` shows it.
        id: String,
        #[command(flatten)]
        server: Server,
    },
    /// Run a schedule now.
    Run {
        /// The schedule, as `saga schedule list` shows it.
        id: String,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(clap::Args)]
pub(crate) struct Add {
    /// What is said.
    prompt: String,
    /// Again and again: minute, hour, day of the month, month and day of the week, as in a crontab.
    #[arg(long, value_name = "TIMES", conflicts_with_all = ["at", "hook"])]
    cron: Option<String>,
    /// Once: a time with its offset, or as clocks in the zone show it, such as 2026-12-01T09:00.
    #[arg(long, value_name = "TIME", conflicts_with = "hook")]
    at: Option<String>,
    /// Whenever somebody calls an address that is printed once.
    #[arg(long)]
    hook: bool,
    /// The time zone, such as Europe/Berlin.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    zone: String,
    /// The session that is woken; a new one begins when left out.
    #[arg(long, value_name = "ID", conflicts_with_all = ["repo", "model"])]
    session: Option<String>,
    /// The folder that new sessions work in; the current one when left out.
    #[arg(long, short = 'C', value_name = "DIR")]
    repo: Option<PathBuf>,
    /// The model of new sessions.
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    until: Until,
    #[command(flatten)]
    server: Server,
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    match args {
        Args::Add(add) => {
            let Add { prompt, cron, at, hook, zone, session, repo, model, until, server } = *add;
            let workspace = match session {
                Some(_) => None,
                None => Some(super::run::folder(repo)?.display().to_string()),
            };
            let zone = Some(zone).filter(|_| !hook);
            let new =
                NewSchedule { cron, at, zone, hook, prompt, session, workspace, model, until: until.goal() };
            let client = reach(&server).await?;
            let made = client.schedule(&new).await?;
            say(&format!("{}: {}", made.id, when(&made)));
            if let Some(path) = made.hook_path {
                say(&format!(
                    "call it with: curl -X POST --data-binary @- {}{path}\nThe address is shown this once; whoever knows it can run the schedule.",
                    client.url()
                ));
            }
        }
        Args::List { json, server } => {
            let schedules = reach(&server).await?.schedules().await?.schedules;
            if json {
                for schedule in &schedules {
                    say(&serde_json::to_string(schedule).expect("a schedule has only string keys"));
                }
            } else if schedules.is_empty() {
                say("no schedules yet; `saga schedule add --help` tells how to make one");
            } else {
                say(&render(&schedules));
            }
        }
        Args::Remove { id, server } => {
            reach(&server).await?.unschedule(&id).await?;
            say(&format!("removed {id}"));
        }
        Args::Run { id, server } => {
            let run = reach(&server).await?.run_schedule(&id).await?;
            say(&ran(&run));
            return Ok(if run.trouble.is_some() { EXIT_NO } else { 0 });
        }
    }
    Ok(0)
}

/// The service that runs: schedules are of no use without one.
async fn reach(server: &Server) -> Result<Client, Failure> {
    let (folders, _) = super::settings()?;
    server.running(&folders).await?.ok_or_else(|| {
        Failure::new("no saga service is running here, and schedules run in one")
            .next("start it with `saga up`, or set SAGA_SERVER and SAGA_KEY")
    })
}

fn moment(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(agent::schedule::shown);
    at.unwrap_or_else(|| format!("{ms} ms"))
}

fn when(schedule: &Schedule) -> String {
    let next = schedule.next_ms.map(|ms| format!(", next at {}", moment(ms))).unwrap_or_default();
    match (&schedule.cron, schedule.at_ms) {
        (Some(cron), _) => format!("{cron} {}{next}", schedule.zone.as_deref().unwrap_or("UTC")),
        (None, Some(at_ms)) => format!("at {}", moment(at_ms)),
        (None, None) => "when its hook is called".to_string(),
    }
}

fn ran(run: &Run) -> String {
    match (&run.session, &run.trouble) {
        (Some(session), _) => session.clone(),
        (None, Some(trouble)) => format!("not run: {trouble}"),
        (None, None) => "begins".to_string(),
    }
}

fn render(schedules: &[Schedule]) -> String {
    let rows: Vec<Vec<String>> = schedules
        .iter()
        .map(|schedule| {
            let target = schedule.session.as_ref().or(schedule.workspace.as_ref());
            let last = schedule.runs.last().map_or("never".to_string(), |run| {
                format!("{} ({}): {}", moment(run.due_ms), run.cause, ran(run))
            });
            vec![
                schedule.id.clone(),
                when(schedule),
                one_line(target.map_or("", String::as_str), 40),
                one_line(&last, 80),
                one_line(&schedule.prompt, 60),
            ]
        })
        .collect();
    table(&["ID", "WHEN", "WHERE", "LAST RUN", "PROMPT"], &rows)
}
