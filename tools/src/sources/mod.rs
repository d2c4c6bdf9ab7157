//! The source files of a workspace: what they define, where names are used, and a map of what matters most.
//!
//! Files are read and parsed by the sandbox's file helper. What is known of a file is kept until the file is another one.

mod ask;
mod map;
mod project;

pub use crate::files::{Source, Stamp, Surveyed};
pub(crate) use ask::Question;
pub(crate) use project::Project;
pub use project::is_aside;

use std::sync::{Mutex, PoisonError};

use crate::files::{Answered, Request, Sources, Survey};
use crate::{Error, Sandbox};

/// Helpers that read at once.
const HELPERS: usize = 2;
/// Files of one request.
const REQUEST_FILES: usize = 200;

impl Sandbox {
    /// The source files there are. Of those that are not as `known` has them, `take` is given what they say and define, in no order.
    ///
    /// # Errors
    /// Only when the sandbox itself failed.
    pub async fn sources(
        &self,
        known: impl Fn(&str) -> Option<Stamp>,
        texts: bool,
        take: &mut (dyn FnMut(Source) + Send),
    ) -> Result<Surveyed, Error> {
        let answer = self.files(&Request::Survey(Survey {})).await?;
        let surveyed: Surveyed = understood(&answer.text)?;
        let anew = surveyed.files.iter().filter(|(path, stamp)| known(path) != Some(*stamp));
        let anew: Vec<(String, u64)> = anew.map(|(path, stamp)| (path.clone(), stamp.bytes())).collect();
        let total: u64 = anew.iter().map(|(_, bytes)| bytes).sum();
        // Shares of about as many bytes.
        let mut shares: [Vec<String>; HELPERS] = Default::default();
        let mut so_far = 0;
        for (path, bytes) in anew {
            let share = (so_far * HELPERS as u64 / total.max(1)).min(HELPERS as u64 - 1);
            shares[share as usize].push(path);
            so_far += bytes;
        }
        let take = Mutex::new(take);
        let [first, second] = shares.map(|share| self.read(share, texts, &take));
        tokio::try_join!(first, second)?;
        Ok(surveyed)
    }

    async fn read(
        &self,
        paths: Vec<String>,
        texts: bool,
        take: &Mutex<&mut (dyn FnMut(Source) + Send)>,
    ) -> Result<(), Error> {
        let mut left = paths.as_slice();
        while !left.is_empty() {
            let paths = left[..left.len().min(REQUEST_FILES)].to_vec();
            let asked = paths.len();
            let answer = self.files(&Request::Sources(Sources { paths, texts })).await?;
            if !answer.ok {
                // Stopped in the middle of a file that takes too long. Which one it is is not known, so all of these are left out.
                tracing::warn!(left_out = asked, "source files could not be read: {}", answer.text);
                left = &left[asked..];
                continue;
            }
            let answered: Answered = understood(&answer.text)?;
            // The helper read what anybody may have written; it is believed as far as it makes sense.
            left = &left[answered.looked_at.clamp(1, asked)..];
            let mut take = take.lock().unwrap_or_else(PoisonError::into_inner);
            answered.sources.into_iter().for_each(&mut **take);
        }
        Ok(())
    }
}

/// What the file helper answered, in its own form.
pub(crate) fn understood<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text)
        .map_err(|error| Error::Gone(format!("its file helper answered nonsense: {error}")))
}
