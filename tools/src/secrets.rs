//! Which files of a workspace are secrets by their names: no tool shows them, and no command can open them.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// The patterns when an operator names none: keys and passwords as they are usually called. An exception begins with `!`: what
/// is meant to be shown, and what packages bring along, whose test keys and certificates are everybody's.
const USUAL: &str = "\
    .env .env.* !.env.example !.env.sample !.env.template !.env.dist \
    *.pem !cacert.pem *.key *.p12 *.pfx *.jks *.keystore *.kdbx *.ppk \
    id_rsa* id_dsa* id_ecdsa* id_ed25519* !*.pub .ssh .gnupg .aws .docker/config.json \
    .netrc _netrc .pgpass .pypirc .htpasswd .git-credentials .secrets \
    secrets.yaml secrets.yml secrets.json secrets.toml credentials.json \
    !**/node_modules/** !**/site-packages/**";

/// The patterns of [`USUAL`], as a policy holds them.
pub(crate) fn usual() -> Vec<String> {
    USUAL.split_whitespace().map(str::to_owned).collect()
}

/// Tells secrets by their names. A pattern without a `/` is for names of files and folders, one with it for paths from the
/// workspace; what lies in a folder that is a secret is one too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    patterns: GlobSet,
    exceptions: GlobSet,
}

impl Secrets {
    /// Reads patterns. The error names the first that is none.
    pub(crate) fn new(patterns: &[String]) -> Result<Secrets, String> {
        let set = |patterns: &mut dyn Iterator<Item = &str>| -> Result<GlobSet, String> {
            let mut set = GlobSetBuilder::new();
            for pattern in patterns {
                let anywhere = if pattern.contains('/') {
                    pattern.trim_start_matches('/').to_owned()
                } else {
                    format!("**/{pattern}")
                };
                let glob = GlobBuilder::new(&anywhere).literal_separator(true).case_insensitive(true).build();
                set.add(
                    glob.map_err(|error| format!("{pattern:?} is no pattern for names: {}", error.kind()))?,
                );
            }
            set.build().map_err(|error| error.to_string())
        };
        Ok(Secrets {
            patterns: set(&mut patterns
                .iter()
                .map(String::as_str)
                .filter(|pattern| !pattern.starts_with('!')))?,
            exceptions: set(&mut patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')))?,
        })
    }

    /// Whether a path, from the workspace on, is a secret or lies in one.
    pub(crate) fn hold(&self, below: &Path) -> bool {
        below.ancestors().filter(|path| path.file_name().is_some()).any(|path| self.is(path))
    }

    /// Whether this very path is one, whatever it lies in.
    pub(crate) fn is(&self, below: &Path) -> bool {
        self.patterns.is_match(below) && !self.exceptions.is_match(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_their_names() {
        // A name too few shows a key to a model; one too many hides a source file from it.
        let secrets = Secrets::new(&usual()).unwrap();
        for secret in [
            ".env",
            "a/.env",
            "a/.ENV.local",
            "deploy/Server.PEM",
            "id_rsa",
            "x/id_ed25519_old",
            ".ssh/config",
            "config/secrets.yaml",
        ] {
            assert!(secrets.hold(Path::new(secret)), "{secret}");
        }
        for open in [
            ".env.example",
            "id_rsa.pub",
            "src/env.rs",
            "id_map.rs",
            "src/secrets.rs",
            "pem",
            "web/node_modules/tls/test/a.pem",
            "venv/lib/site-packages/certifi/cacert.pem",
            ".",
            "environment",
        ] {
            assert!(!secrets.hold(Path::new(open)), "{open}");
        }
        let own = Secrets::new(&["deploy/*.txt".to_owned(), "!deploy/readme.txt".to_owned()]).unwrap();
        assert!(own.hold(Path::new("deploy/a.txt")) && !own.hold(Path::new("deploy/readme.txt")));
        assert!(!own.hold(Path::new("x/deploy/a.txt")) && !own.hold(Path::new(".env")));
        assert!(Secrets::new(&["a{".to_owned()]).unwrap_err().contains("a{"));
    }
}
