//! The flags that say what must be true before a turn may end.

use crate::goals::Goal;

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Goal")]
pub(crate) struct Until {
    /// A command that must exit with 0 before the turn may end, such as "cargo test". It runs in the sandbox whenever the model answers,
    /// any number of times; what it prints is told to the model, which goes on.
    #[arg(long, value_name = "COMMAND", conflicts_with = "until_judged")]
    until: Option<String>,
    /// A condition that must be true before the turn may end. The model judges it, and has to cite what its calls have shown.
    #[arg(long, value_name = "TEXT")]
    until_judged: Option<String>,
    /// How often the check may fail before the session rests and asks you; 8 when left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    until_rounds: Option<u32>,
}

impl Until {
    /// The goal, if one is wanted.
    pub(crate) fn goal(&self) -> Option<Goal> {
        let Until { until, until_judged, until_rounds } = self.clone();
        (until.is_some() || until_judged.is_some()).then_some(Goal {
            command: until,
            judged: until_judged,
            rounds_max: until_rounds,
        })
    }
}
