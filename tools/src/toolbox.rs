//! The tools of a session, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::builtin;
use crate::egress::{Contact, Egress};
use crate::mcp::{self, Equipment, Servers};
use crate::{Call, Error, Outcome, Sandbox, Spec, Tool};

/// The tools a model may call.
pub struct Toolbox {
    tools: Vec<Box<dyn Tool>>,
    servers: Servers,
}

impl Toolbox {
    /// The built-in tools: `exec`, `read`, `write`, `edit`, `grep`, `glob`, `list`, `symbols`, `process`, `apply_patch`.
    pub fn builtin() -> Toolbox {
        Toolbox::new(None, &[])
    }

    /// The built-in tools, with `fetch` where anything can be reached, and those of servers. Servers belong to one session: their toolbox
    /// is used with one sandbox.
    pub fn new(egress: Option<&Egress>, servers: &[mcp::Server]) -> Toolbox {
        Toolbox { tools: builtin::all(egress), servers: Servers::new(servers) }
    }

    /// What the servers give now, where that differs from what is known of them: see [`Servers::equip`].
    ///
    /// # Errors
    /// Only when the sandbox itself failed.
    pub async fn equip(
        &self,
        sandbox: &Arc<Sandbox>,
        known: &BTreeMap<String, Equipment>,
    ) -> Result<Vec<Equipment>, Error> {
        self.servers.equip(sandbox, known).await
    }

    /// What was reached for on behalf of servers since this was asked last, and how many more such decisions there were than are
    /// told one by one. What commands and the tools in the sandbox reach for, [`Sandbox::contacts`] says.
    pub fn contacts(&self) -> (Vec<Contact>, u64) {
        self.servers.contacts()
    }

    /// What the model is told of the built-in tools, in the order it is told.
    pub fn specs(&self) -> Vec<&Spec> {
        self.tools.iter().map(|tool| tool.spec()).collect()
    }

    /// The spec of one built-in tool.
    pub fn spec(&self, name: &str) -> Option<&Spec> {
        self.find(name).map(|tool| tool.spec())
    }

    fn find(&self, name: &str) -> Option<&dyn Tool> {
        self.tools.iter().find(|tool| tool.spec().name == name).map(|tool| tool.as_ref())
    }

    /// Performs one call in a sandbox. An unknown tool and wrong arguments come back as an outcome that names what is
    /// wrong and what is expected. Dropping the future ends the call and everything it started.
    ///
    /// # Errors
    /// Only when the sandbox itself failed.
    pub async fn perform(
        &self,
        call: &Call,
        sandbox: &Sandbox,
        out: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Outcome, Error> {
        if mcp::server_of(&call.name).is_some() {
            return self.servers.call(call, sandbox, out).await;
        }
        let Some(tool) = self.find(&call.name) else {
            let names: Vec<&str> = self.specs().iter().map(|spec| spec.name.as_str()).collect();
            let name: String = call.name.chars().filter(|c| !c.is_control()).take(60).collect();
            return Ok(Outcome::refused(format!(
                "There is no tool named \"{name}\". The tools are: {}.",
                names.join(", ")
            )));
        };
        // Some models send the arguments as a string that holds JSON.
        let mut outcome = match &call.arguments {
            Value::String(text) => match serde_json::from_str::<Value>(text) {
                Ok(value) => tool.call(&value, sandbox, out).await?,
                Err(_) => tool.call(&call.arguments, sandbox, out).await?,
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                tool.call(&call.arguments, sandbox, out).await?
            }
        };
        outcome.missing_layers = sandbox.missing().iter().map(|layer| layer.name.clone()).collect();
        Ok(outcome)
    }
}
