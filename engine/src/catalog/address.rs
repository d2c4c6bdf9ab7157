//! What `hf:OWNER/NAME:WHICH@REVISION` means: a repository of the hub, one of the models in it, and one of its states.

use std::fmt::{self, Display};

use crate::Error;

/// How an address begins.
const PREFIX: &str = "hf:";
/// Bytes of an owner and of a name, the hub's own limit.
const NAME_BYTES_MAX: usize = 96;
/// Bytes of a file's name or of a revision, for a folder is called after both.
pub(super) const PART_BYTES_MAX: usize = 120;

/// A repository of the hub and what of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// `OWNER/NAME`.
    pub(super) repository: String,
    /// A quantisation, a file or [`SAFETENSORS`](super::choose::SAFETENSORS); left out where a repository has one model only.
    pub(super) which: Option<String>,
    /// A branch, a tag or a commit; the main branch when left out.
    pub(super) revision: Option<String>,
}

impl Address {
    /// The address that `text` is; nothing if it does not begin like one.
    ///
    /// # Errors
    /// [`Error::Address`] if it begins like one and goes on like none.
    pub(super) fn parse(text: &str) -> Option<Result<Address, Error>> {
        let rest = text.strip_prefix(PREFIX)?;
        Some(Address::of(rest).map_err(|why| Error::Address { asked: text.to_owned(), why }))
    }

    fn of(rest: &str) -> Result<Address, String> {
        let (rest, revision) = match rest.rsplit_once('@') {
            Some((rest, revision)) => (rest, Some(revision)),
            None => (rest, None),
        };
        let (repository, which) = match rest.split_once(':') {
            Some((repository, which)) => (repository, Some(which)),
            None => (rest, None),
        };
        let named = repository.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name));
        if !named {
            return Err("the hub's repositories are called hf:OWNER/NAME".into());
        }
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return Err("what follows the @ is no branch, tag or commit".into());
        }
        let is_part = |part: &str| {
            !part.is_empty()
                && part.len() <= PART_BYTES_MAX
                && !part.chars().any(|c| c.is_control() || c == ':')
        };
        if which.is_some_and(|which| !is_part(which)) {
            return Err("what follows the second colon is a quantisation, such as Q4_K_M, or a file".into());
        }
        Ok(Address {
            repository: repository.to_owned(),
            which: which.map(str::to_owned),
            revision: revision.map(str::to_owned),
        })
    }

    /// The same repository and revision, and this model of it.
    pub(super) fn with(&self, which: Option<&str>) -> Address {
        Address { which: which.map(str::to_owned), ..self.clone() }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { repository, which, revision } = self;
        write!(f, "{PREFIX}{repository}")?;
        if let Some(which) = which {
            write!(f, ":{which}")?;
        }
        if let Some(revision) = revision {
            write!(f, "@{revision}")?;
        }
        Ok(())
    }
}

/// Whether the hub takes this as an owner or a name: it is a folder's name here and a part of a path there.
fn is_name(text: &str) -> bool {
    let ends = |c: char| c == '-' || c == '.';
    !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !text.starts_with(ends)
        && !text.ends_with(ends)
        && !text.contains("--")
        && !text.contains("..")
}

fn is_revision(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= PART_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains(".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let check = |text: &str, repository: &str, which: Option<&str>, revision: Option<&str>| {
            let address = Address::parse(text).unwrap().unwrap();
            let found = (&address.repository[..], address.which.as_deref(), address.revision.as_deref());
            assert_eq!(found, (repository, which, revision), "{text}");
            assert_eq!(address.to_string(), text);
        };
        check("hf:Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None, None);
        check("hf:me/tiny-GGUF:Q4_K_M", "me/tiny-GGUF", Some("Q4_K_M"), None);
        check("hf:me/tiny@refs/pr/3", "me/tiny", None, Some("refs/pr/3"));
        check("hf:me/t:UD-Q4/tiny 1.gguf@v1.0", "me/t", Some("UD-Q4/tiny 1.gguf"), Some("v1.0"));
    }

    #[test]
    fn what_is_no_address_is_told_from_what_is_a_bad_one() {
        // A bad one must never become a path or a part of an address on the net.
        for text in ["qwen2.5-coder-1.5b", "/models/hf:x.gguf", "./hf:a/b", ""] {
            assert!(Address::parse(text).is_none(), "{text}");
        }
        let long = "x".repeat(97);
        for rest in [
            "",
            "gpt2",
            "/x",
            "a/",
            "a/b/c",
            "../b",
            "a/..",
            "a/.b",
            "a/b.",
            "-a/b",
            "a/b--c",
            "a/b?x",
            "a/ü",
            "a/b:",
            "a/b:x:y",
            "a/b:x\ny",
            "a/b@",
            "a/b@../c",
            "a/b@a//b",
            "a/b@a b",
            "a/b@.git",
            "a/b?x@y",
            &format!("a/{long}"),
            &format!("a/b@{long}{long}"),
            &format!("a/b:{long}{long}"),
        ] {
            let parsed = Address::parse(&format!("hf:{rest}")).unwrap();
            assert!(matches!(&parsed, Err(Error::Address { .. })), "{rest}: {parsed:?}");
        }
    }
}
