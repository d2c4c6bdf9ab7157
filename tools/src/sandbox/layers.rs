//! The layers a sandbox is made of, and whether they hold on this host.

/// One protection, and whether it holds here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Layer {
    /// Short name, as used in `Policy::lowered`: `landlock`, `seccomp`, `network`, `cgroup`, …
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// What was found, such as `ABI 7`.
    pub detail: String,
    /// What to do when it does not hold; empty when it does.
    pub mend: String,
}

/// The layers on this host, in the order they are set up, found by opening a sandbox on an empty folder.
pub fn probe() -> Vec<Layer> {
    Vec::new()
}
