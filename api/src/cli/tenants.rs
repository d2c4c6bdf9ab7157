//! `saga tenants`: add, list and remove teams that share a service and nothing else.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::server::{self, Notice};
use crate::tenants::Tenant;
use crate::term::{say, table};

const EXAMPLES: &str = "\
Examples:
  saga tenants add blue --root /srv/blue     prints the key of the team
  saga tenants list
  saga tenants remove blue --yes             with all its sessions and notes

`saga up` opens the tenants there are when it starts. A request that shows a tenant's key sees that tenant alone.";

#[derive(clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Args {
    /// Add a tenant and print its key.
    Add {
        /// Its name: a-z, 0-9 and '-'.
        name: String,
        /// A folder its sessions may work in. Repeat it for more.
        #[arg(long = "root", value_name = "DIR", required = true)]
        roots: Vec<PathBuf>,
        /// Tokens that its sessions may use in a day: of prompts that were not there already, and of replies. As many as they like when
        /// left out.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        tokens_per_day: Option<u64>,
    },
    /// Set how many tokens a tenant's sessions may use in a day. Good from the next start of `saga up` on.
    Limit {
        /// The tenant.
        name: String,
        /// Tokens a day; as many as they like when left out.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        tokens_per_day: Option<u64>,
    },
    /// List the tenants.
    List,
    /// Make a new key for a tenant.
    NewKey {
        /// The tenant.
        name: String,
    },
    /// Remove a tenant with its sessions, its notes and its key. Its workspaces stay as they are.
    Remove {
        /// The tenant.
        name: String,
        /// That you mean it.
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(args: Args) -> Result<u8, Failure> {
    let (folders, _) = super::settings()?;
    let data = &folders.data;
    match args {
        Args::Limit { name, tokens_per_day } => {
            Tenant::named(data, &name)?.limit(tokens_per_day)?;
            say(&format!("{name}: {}, from the next start of `saga up` on", a_day(tokens_per_day)));
        }
        Args::Add { name, roots, tokens_per_day } => {
            let real = |root: &PathBuf| {
                root.canonicalize().map_err(|error| {
                    Failure::new(format!("the folder {} cannot be used: {error}", root.display()))
                        .next("name an existing folder with --root")
                })
            };
            let roots = roots.iter().map(real).collect::<Result<Vec<_>, _>>()?;
            server::make_folder(data)?;
            let key = Tenant::add(data, &name, roots, tokens_per_day)?;
            say(&format!(
                "{name}: its key is {}\nIt is shown this once. `saga up` knows the tenant from its next start on.",
                key.as_str()
            ));
        }
        Args::List => {
            let mut rows = Vec::new();
            for tenant in Tenant::all(data)? {
                let roots: Vec<String> =
                    tenant.roots()?.iter().map(|root| root.display().to_string()).collect();
                let limit = a_day(tenant.tokens_per_day()?);
                rows.push(vec![tenant.name().to_string(), limit, roots.join(", ")]);
            }
            if rows.is_empty() {
                say("no tenants; `saga tenants add NAME --root DIR` makes one");
            } else {
                say(&table(&["TENANT", "TOKENS", "FOLDERS"], &rows));
            }
        }
        Args::NewKey { name } => {
            let key = Tenant::named(data, &name)?.new_key()?;
            say(&format!(
                "{name}: its key is {}\nIt is shown this once, and good from the next start of `saga up` on.",
                key.as_str()
            ));
        }
        Args::Remove { name, yes } => {
            let tenant = Tenant::named(data, &name)?;
            if Notice::find(data).await.is_some() {
                return Err(Failure::new("a `saga up` has its sessions open")
                    .next("stop it, remove the tenant, and start it again"));
            }
            if !yes {
                return Err(Failure::new(format!("this removes every session and note of {name} for good"))
                    .next(format!("say `saga tenants remove {name} --yes`")));
            }
            tenant.remove()?;
            say(&format!("{name} and everything it had is gone; its workspaces are as they were"));
        }
    }
    Ok(0)
}

fn a_day(tokens: Option<u64>) -> String {
    tokens.map_or_else(|| "no limit".to_string(), |tokens| format!("{} a day", crate::host::count(tokens)))
}
