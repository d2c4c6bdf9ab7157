//! The toolchains of this host: which of its folders commands get to see read-only, and the environment that goes with
//! them. System folders such as /usr are always there; this is about what people install beside them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::root::HOME;
use super::wire::Shown;

/// What was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Toolchains {
    pub(super) shown: Vec<Shown>,
    /// What has been downloaded on this host, shown where nothing can be downloaded: cargo writes beside it.
    pub(super) downloaded: Vec<Shown>,
    pub(super) path: Vec<PathBuf>,
    pub(super) env: Vec<(String, String)>,
    /// For people: `cargo /root/.cargo/bin`.
    pub(super) found: Vec<String>,
}

/// Programs whose folders are looked for along the service's PATH.
const PROGRAMS: [&str; 12] =
    ["python3", "node", "go", "java", "javac", "ruby", "deno", "bun", "zig", "cmake", "ninja", "uv"];

/// Folders that are always shown, so that what lies in them needs no more.
const SYSTEM: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc"];

/// Looks at this host.
pub(super) fn find() -> Toolchains {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let from_env = |name: &str, below: &str| {
        let path = env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        path.or_else(|| home.as_ref().map(|home| home.join(below)))
    };
    let mut toolchains = Toolchains::default();
    if let (Some(cargo), Some(rustup)) =
        (from_env("CARGO_HOME", ".cargo"), from_env("RUSTUP_HOME", ".rustup"))
    {
        toolchains.add_rust(&cargo, &rustup);
    }
    if let Some(pyenv) = from_env("PYENV_ROOT", ".pyenv") {
        toolchains.add_pyenv(&pyenv);
    }
    let search: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    for program in PROGRAMS {
        toolchains.add_program(program, &search, home.as_deref());
    }
    toolchains
}

impl Toolchains {
    /// Rust: the programs and toolchains read-only at their place, and inside a cargo home of the session's own that can
    /// read the host's downloaded crates, so that a project builds offline. The host's cargo settings and credentials
    /// stay outside.
    fn add_rust(&mut self, cargo: &Path, rustup: &Path) {
        let programs = cargo.join("bin");
        if !programs.join("cargo").exists() {
            return;
        }
        self.found.push(format!("cargo {}", programs.display()));
        self.show(&programs);
        self.path.push(programs);
        if rustup.is_dir() {
            self.show(rustup);
            self.env.push(("RUSTUP_HOME".to_owned(), rustup.display().to_string()));
            // There is no network to install from: say at once that a toolchain is missing.
            self.env.push(("RUSTUP_AUTO_INSTALL".to_owned(), "0".to_owned()));
        }
        let inside = Path::new(HOME).join(".cargo");
        for part in ["registry/cache", "registry/index", "git/db"] {
            let host = cargo.join(part);
            if host.is_dir() {
                self.downloaded.push(Shown { host, at: inside.join(part) });
            }
        }
        self.env.push(("CARGO_HOME".to_owned(), inside.display().to_string()));
        self.env.push(("CARGO_NET_OFFLINE".to_owned(), "true".to_owned()));
        self.env.push(("CARGO_TERM_COLOR".to_owned(), "never".to_owned()));
    }

    /// pyenv: its shims are scripts that look for a root to write to; the version they would choose goes on the PATH
    /// instead.
    fn add_pyenv(&mut self, pyenv: &Path) {
        let versions = pyenv.join("versions");
        let Ok(chosen) = fs::read_to_string(pyenv.join("version")) else { return };
        let programs = chosen.lines().map(|version| versions.join(version.trim()).join("bin"));
        let Some(programs) = programs.into_iter().find(|programs| programs.join("python3").exists()) else {
            return;
        };
        self.found.push(format!("python3 {}", programs.display()));
        self.show(&versions);
        self.path.push(programs);
    }

    /// Any program in a folder of its own, such as `/opt/go/bin/go`: the folder above `bin` is shown.
    fn add_program(&mut self, program: &str, search: &[PathBuf], home: Option<&Path>) {
        let candidates = search.iter().map(|folder| folder.join(program)).filter(|path| path.is_file());
        for candidate in candidates {
            let Ok(real) = candidate.canonicalize() else { continue };
            if SYSTEM.iter().any(|system| real.starts_with(system)) {
                if !self.found.iter().any(|found| found.starts_with(&format!("{program} "))) {
                    self.found.push(format!("{program} {}", real.display()));
                }
                return;
            }
            if self.path.iter().any(|folder| folder.join(program).exists()) {
                return;
            }
            let nix = Path::new("/nix/store");
            let prefix = real.parent().filter(|folder| folder.ends_with("bin")).and_then(Path::parent);
            let Some(prefix) = (if real.starts_with(nix) { Some(nix) } else { prefix }) else { continue };
            if !shareable(prefix, home) {
                continue;
            }
            self.show(prefix);
            self.path.extend(real.parent().map(Path::to_owned));
            self.found.push(format!("{program} {}", real.display()));
            return;
        }
    }

    fn show(&mut self, path: &Path) {
        if !self.shown.iter().any(|shown| path.starts_with(&shown.at)) {
            self.shown.push(Shown { host: path.to_owned(), at: path.to_owned() });
        }
    }
}

/// Whether a folder may be shown whole: one that holds a person's other things may not. `~/.local` is such a folder: it
/// has programs, and beside them keyrings and histories.
fn shareable(prefix: &Path, home: Option<&Path>) -> bool {
    let depth = prefix.components().count();
    let holds_home = home.is_some_and(|home| home.starts_with(prefix) || prefix == home.join(".local"));
    let shim = prefix.ends_with("shims") || prefix.ends_with(".pyenv");
    depth > 2 && !holds_home && !shim
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_more_than_a_toolchain_is_not_shown() {
        // A program linked into the home folder must not open the home folder to the model.
        let home = Some(Path::new("/home/me"));
        let check = |prefix: &str| shareable(Path::new(prefix), home);
        assert!(check("/opt/go"));
        assert!(check("/home/me/.nvm/versions/node/v22"));
        for refused in ["/", "/home", "/home/me", "/home/me/.local", "/opt", "/home/me/.pyenv"] {
            assert!(!check(refused), "{refused}");
        }
    }
}
