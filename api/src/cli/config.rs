//! `saga config`: show or check the settings.

use crate::config::{Folders, Overrides, ServiceOverrides};
use crate::failure::Failure;
use crate::term::say;

#[derive(clap::Subcommand)]
pub(crate) enum Args {
    /// Print the settings in force, as a file that could be used.
    #[command(after_help = "Example:\n  saga config print > ~/.config/saga/config.toml")]
    Print(Box<Print>),
    /// Check the settings' file and say where it is.
    Check,
}

#[derive(clap::Args)]
pub(crate) struct Print {
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    service: ServiceOverrides,
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    match args {
        Args::Print(args) => {
            let (_, mut config) = super::settings()?;
            args.overrides.apply(&mut config)?;
            args.service.apply(&mut config)?;
            say(config.to_toml().trim_end());
        }
        Args::Check => {
            let (Folders { config_file, data, models }, _) = super::settings()?;
            let is =
                if config_file.exists() { "is sound" } else { "does not exist; the defaults are in force" };
            say(&format!("{} {is}", config_file.display()));
            say(&format!("data folder: {}", data.display()));
            say(&format!("models: {}", models.display()));
        }
    }
    Ok(0)
}
