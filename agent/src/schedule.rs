//! Schedules: what is to be said to which session, and when. Their record is a journal of its own, and what holds is its fold.

use std::collections::BTreeMap;
use std::path::PathBuf;

use memory::{Memory, Seq};
use serde::{Deserialize, Serialize};

use crate::goal::Goal;
use crate::{Error, SessionId};

/// Something that is to be said to a session when its time comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub id: String,
    /// When.
    #[serde(flatten)]
    pub when: When,
    /// To whom.
    #[serde(flatten)]
    pub then: Then,
    /// What is said.
    pub prompt: String,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: u64,
}

/// When a schedule runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", rename_all = "snake_case")]
pub enum When {
    /// Again and again.
    Cron {
        /// Minute, hour, day of the month, month and day of the week, as in a crontab.
        pattern: String,
        /// The time zone that it is meant in: a name of the IANA's, such as `UTC` or `Europe/Berlin`.
        zone: String,
    },
    /// Once.
    At {
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// Whenever somebody calls.
    Hook {
        /// SHA-256 of the token that they must know, in hexadecimal digits.
        token: String,
    },
}

/// What a run of a schedule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "then", rename_all = "snake_case")]
pub enum Then {
    /// It begins a session.
    Begin {
        /// The folder that it works in.
        workspace: PathBuf,
        /// The model; the service's default when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// What must be true before its turn may end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Goal>,
    },
    /// It wakes a session.
    Wake {
        /// The session.
        session: SessionId,
    },
}

/// Why a run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its time had come.
    Clock,
    /// Its time had come while no service was there: all that were missed are one run.
    Missed,
    /// Somebody asked for it.
    Hand,
    /// Somebody called its hook.
    Hook,
}

/// A run of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// 1, 2, 3 … of this schedule.
    pub run: u32,
    /// When it was due. Milliseconds since 1970.
    pub due_ms: u64,
    /// Why it began.
    pub cause: Cause,
    /// What its hook was sent, where it was one: somebody else's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// What the caller calls this call: sent again, it runs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The session that it has begun or woken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Why it could do neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Run {
    /// Whether it has come to an end, one way or the other.
    pub fn over(&self) -> bool {
        self.session.is_some() || self.trouble.is_some()
    }
}

/// A schedule with what has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// It.
    pub schedule: Schedule,
    /// Its last runs, oldest first.
    pub runs: Vec<Run>,
    /// When it runs next, in milliseconds since 1970; nothing when no clock begins it any more.
    pub next_ms: Option<u64>,
}

/// A fact of the journal of schedules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Record {
    Added {
        schedule: Schedule,
    },
    Removed {
        id: String,
    },
    /// A run begins: durable before anything comes of it.
    Due {
        id: String,
        run: Run,
    },
    Ran {
        id: String,
        run: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
    },
}

/// The journal's name: longer than any session's, so that none has it.
const JOURNAL: &str = "schedules-of-this-service-a-name-that-no-session-can-have";
const _: () = assert!(JOURNAL.len() > SessionId::CHARS_MAX && JOURNAL.len() <= 64);

/// Schedules that there may be, and runs of each that are shown.
pub(crate) const SCHEDULES_MAX: usize = 256;
const RUNS_KEPT: usize = 20;
/// Later than this after its time a run is one that was missed. Milliseconds.
const LATE_MS: u64 = 60_000;
/// The longest prompt: what an input may have. Bytes.
const PROMPT_BYTES_MAX: usize = 64 << 10;
/// Records read at a time.
const PAGE: usize = 1024;

/// The fold of the journal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    schedule: Schedule,
    runs: Vec<Run>,
    count: u32,
    /// When it was due last, by the clock.
    last_due_ms: Option<u64>,
}

/// What is to be run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) id: String,
    pub(crate) due_ms: u64,
    pub(crate) cause: Cause,
}

impl Book {
    /// Reads the journal. Blocking.
    pub(crate) fn read(memory: &Memory) -> Result<Book, Error> {
        let journal = memory.journal(JOURNAL)?;
        let mut book = Book::default();
        let mut from = Seq(1);
        loop {
            let page = journal.read(from, PAGE)?;
            if page.is_empty() {
                return Ok(book);
            }
            for (seq, record) in page {
                match serde_json::from_slice(&record) {
                    Ok(record) => book.apply(&record),
                    // What a newer version has written is no reason to run nothing.
                    Err(error) => {
                        tracing::warn!(seq = seq.0, %error, "a record of the schedules cannot be read")
                    }
                }
                from = Seq(seq.0 + 1);
            }
        }
    }

    /// Writes a record down. Blocking.
    pub(crate) fn write(memory: &Memory, record: &Record) -> Result<(), Error> {
        let bytes = serde_json::to_vec(record).expect("a record has only string keys");
        memory.journal(JOURNAL)?.append(&bytes)?;
        Ok(())
    }

    pub(crate) fn apply(&mut self, record: &Record) {
        match record {
            Record::Added { schedule } => {
                let entry =
                    Entry { schedule: schedule.clone(), runs: Vec::new(), count: 0, last_due_ms: None };
                self.entries.insert(schedule.id.clone(), entry);
            }
            Record::Removed { id } => drop(self.entries.remove(id)),
            Record::Due { id, run } => {
                let Some(entry) = self.entries.get_mut(id) else { return };
                entry.count = entry.count.max(run.run);
                if matches!(run.cause, Cause::Clock | Cause::Missed) {
                    entry.last_due_ms = entry.last_due_ms.max(Some(run.due_ms));
                }
                entry.runs.push(run.clone());
                // One that is not over stays, however many come after it.
                if entry.runs.len() > RUNS_KEPT
                    && let Some(old) = entry.runs.iter().position(Run::over)
                {
                    entry.runs.remove(old);
                }
            }
            Record::Ran { id, run, session, trouble } => {
                let runs = self.entries.get_mut(id).into_iter().flat_map(|entry| &mut entry.runs);
                for known in runs.filter(|known| known.run == *run) {
                    known.session.clone_from(session);
                    known.trouble.clone_from(trouble);
                }
            }
        }
    }

    /// All schedules, oldest first.
    pub(crate) fn all(&self) -> Vec<Scheduled> {
        let mut all: Vec<Scheduled> = self.entries.values().map(Entry::told).collect();
        all.sort_by(|a, b| {
            (a.schedule.created_ms, &a.schedule.id).cmp(&(b.schedule.created_ms, &b.schedule.id))
        });
        all
    }

    pub(crate) fn get(&self, id: &str) -> Option<Scheduled> {
        self.entries.get(id).map(Entry::told)
    }

    /// The schedule behind a hook.
    pub(crate) fn hooked(&self, token: &str) -> Option<&Schedule> {
        let is =
            |entry: &&Entry| matches!(&entry.schedule.when, When::Hook { token: known } if known == token);
        self.entries.values().find(is).map(|entry| &entry.schedule)
    }

    /// The run that a call with this key has begun.
    pub(crate) fn keyed(&self, id: &str, key: &str) -> Option<Run> {
        self.entries.get(id)?.runs.iter().find(|run| run.key.as_deref() == Some(key)).cloned()
    }

    /// The number of a schedule's next run.
    pub(crate) fn next_run(&self, id: &str) -> u32 {
        self.entries.get(id).map_or(1, |entry| entry.count + 1)
    }

    /// Runs that have begun and of which nothing is known: the service stopped in between.
    pub(crate) fn open(&self) -> Vec<(Schedule, Run)> {
        let open = |entry: &Entry| {
            let runs = entry.runs.iter().filter(|run| !run.over());
            runs.map(|run| (entry.schedule.clone(), run.clone())).collect::<Vec<_>>()
        };
        self.entries.values().flat_map(open).collect()
    }

    /// What is to be run at this time: of what was missed, the last.
    pub(crate) fn due(&self, now_ms: u64) -> Vec<Due> {
        let due = |entry: &Entry| {
            let due_ms = entry.due(now_ms)?;
            let cause = if now_ms.saturating_sub(due_ms) > LATE_MS { Cause::Missed } else { Cause::Clock };
            Some(Due { id: entry.schedule.id.clone(), due_ms, cause })
        };
        self.entries.values().filter_map(due).collect()
    }

    /// When the next schedule is due.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.entries.values().filter_map(Entry::next_ms).min()
    }
}

impl Entry {
    fn told(&self) -> Scheduled {
        Scheduled { schedule: self.schedule.clone(), runs: self.runs.clone(), next_ms: self.next_ms() }
    }

    fn since_ms(&self) -> u64 {
        self.last_due_ms.unwrap_or(self.schedule.created_ms)
    }

    fn next_ms(&self) -> Option<u64> {
        match &self.schedule.when {
            When::Cron { pattern, zone } => next(pattern, zone, self.since_ms()),
            When::At { at_ms } => self.last_due_ms.is_none().then_some(*at_ms),
            When::Hook { .. } => None,
        }
    }

    /// The last time at or before `now_ms` that it was due and did not run.
    fn due(&self, now_ms: u64) -> Option<u64> {
        let first = self.next_ms().filter(|first| *first <= now_ms)?;
        let When::Cron { pattern, zone } = &self.schedule.when else { return Some(first) };
        // From as near as possible: a pattern of every minute has many times in a year.
        let names_one = |from: &u64| next(pattern, zone, *from).is_some_and(|next| next <= now_ms);
        let near = BACK_MS.iter().map(|back| now_ms.saturating_sub(*back)).find(names_one);
        let mut last = near.and_then(|from| next(pattern, zone, from)).unwrap_or(first).max(first);
        while let Some(next) = next(pattern, zone, last).filter(|next| *next <= now_ms) {
            last = next;
        }
        Some(last)
    }
}

/// How far back the last time that a pattern names is looked for. Milliseconds: a minute, an hour, a day, a month, a year, eight years (29
/// February over a century's end).
const BACK_MS: [u64; 6] = [60_000, 3_600_000, 86_400_000, 2_764_800_000, 31_708_800_000, 252_460_800_000];

/// The first time after `after_ms` that a pattern names.
fn next(pattern: &str, zone: &str, after_ms: u64) -> Option<u64> {
    let crontab = cronexpr::parse_crontab(&format!("{pattern} {zone}")).ok()?;
    let after = jiff::Timestamp::from_millisecond(i64::try_from(after_ms).ok()?).ok()?;
    let next = crontab.find_next(cronexpr::MakeTimestamp(after)).ok()?;
    u64::try_from(next.timestamp().as_millisecond()).ok()
}

/// A time of a crontab, checked.
///
/// # Errors
/// [`Error::BadRequest`] with what is wrong.
pub(crate) fn check(schedule: &Schedule, now_ms: u64) -> Result<(), Error> {
    let bad = |why: String| Err(Error::BadRequest(why));
    match &schedule.when {
        When::Cron { pattern, zone } => {
            if pattern.split_whitespace().count() != 5 {
                return bad(format!(
                    "the times {pattern:?} need five fields: minute, hour, day of the month, month, day of the week, such as \"0 9 * * 1-5\""
                ));
            }
            if jiff::tz::TimeZone::get(zone).is_err() {
                return bad(format!("there is no time zone {zone:?}; name one like UTC or Europe/Berlin"));
            }
            if let Err(error) = cronexpr::parse_crontab(&format!("{pattern} {zone}")) {
                return bad(format!(
                    "the times {pattern:?} cannot be read: {}",
                    error.to_string().replace('\n', " ")
                ));
            }
            if next(pattern, zone, now_ms).is_none() {
                return bad(format!("the times {pattern:?} never come"));
            }
        }
        When::At { at_ms } if *at_ms <= now_ms => {
            return bad("that time is over; name one that is to come".to_string());
        }
        When::At { .. } | When::Hook { .. } => {}
    }
    if let Then::Begin { workspace, until, .. } = &schedule.then {
        if !workspace.is_absolute() {
            return bad(format!("the workspace {} is not an absolute path", workspace.display()));
        }
        until.as_ref().map_or(Ok(()), Goal::check)?;
    }
    if schedule.prompt.trim().is_empty() {
        return bad("a schedule needs something to say".to_string());
    }
    if schedule.prompt.len() > PROMPT_BYTES_MAX {
        return bad(format!("what a schedule says has at most {} KiB", PROMPT_BYTES_MAX / 1024));
    }
    Ok(())
}

/// Reads a time: with its offset, or as clocks in `zone` show it. Milliseconds since 1970.
///
/// # Errors
/// [`Error::BadRequest`] with what is wrong.
pub fn moment(text: &str, zone: &str) -> Result<u64, Error> {
    let bad = || {
        Error::BadRequest(format!(
            "{text:?} is no time; write it like 2026-12-01T09:00, as clocks in the zone show it, or with its offset: 2026-12-01T09:00+01:00"
        ))
    };
    let at = match text.trim().parse::<jiff::Timestamp>() {
        Ok(at) => at,
        Err(_) => {
            let shown: jiff::civil::DateTime = text.trim().parse().map_err(|_| bad())?;
            let zoned = shown.in_tz(zone).map_err(|_| {
                Error::BadRequest(format!(
                    "there is no time zone {zone:?}; name one like UTC or Europe/Berlin"
                ))
            })?;
            zoned.timestamp()
        }
    };
    u64::try_from(at.as_millisecond()).map_err(|_| bad())
}

/// A moment as people read it, in UTC to the minute. Milliseconds since 1970.
pub fn shown(ms: i64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(ms).ok()?;
    Some(at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        moment(text, "UTC").unwrap()
    }

    fn book(when: When, created: &str) -> Book {
        let schedule = Schedule {
            id: "a".into(),
            when,
            then: Then::Wake { session: "s-1".parse().unwrap() },
            prompt: "Go on.".into(),
            created_ms: ms(created),
        };
        let mut book = Book::default();
        book.apply(&Record::Added { schedule });
        book
    }

    fn cron(pattern: &str, zone: &str) -> When {
        When::Cron { pattern: pattern.into(), zone: zone.into() }
    }

    fn ran(book: &mut Book, due_ms: u64) {
        let run = Run {
            run: book.next_run("a"),
            due_ms,
            cause: Cause::Clock,
            body: None,
            key: None,
            session: None,
            trouble: None,
        };
        book.apply(&Record::Due { id: "a".into(), run });
    }

    #[test]
    fn a_time_is_meant_in_its_zone_also_when_clocks_change() {
        let mut book = book(cron("30 9 * * *", "Europe/Berlin"), "2026-10-23T12:00Z");
        let mut seen = Vec::new();
        for _ in 0..3 {
            let next = book.next_ms().unwrap();
            seen.push(jiff::Timestamp::from_millisecond(next as i64).unwrap().to_string());
            ran(&mut book, next);
        }
        assert_eq!(seen, ["2026-10-24T07:30:00Z", "2026-10-25T08:30:00Z", "2026-10-26T08:30:00Z"]);
        assert_eq!(moment("2026-12-01T09:00", "Europe/Berlin").unwrap(), ms("2026-12-01T08:00Z"));
        assert_eq!(moment("2026-12-01T09:00+02:00", "UTC").unwrap(), ms("2026-12-01T07:00Z"));
        assert!(moment("tomorrow", "UTC").is_err() && moment("2026-12-01T09:00", "Berlin").is_err());
    }

    #[test]
    fn what_was_missed_runs_once() {
        // A service that was away for a week does not do a week's work at its start.
        for (pattern, now, due) in [
            ("0 9 * * *", "2026-12-08T12:00Z", "2026-12-08T09:00Z"),
            ("0 9 * * *", "2026-12-08T08:00Z", "2026-12-07T09:00Z"),
            ("* * * * *", "2027-12-08T08:00:30Z", "2027-12-08T08:00Z"),
            ("0 0 1 1 *", "2030-06-01T00:00Z", "2030-01-01T00:00Z"),
            ("0 0 29 2 *", "2030-06-01T00:00Z", "2028-02-29T00:00Z"),
            ("0 9 * * *", "2026-12-01T09:00Z", "2026-12-01T09:00Z"),
        ] {
            let mut book = book(cron(pattern, "UTC"), "2026-12-01T00:00Z");
            let now_ms = ms(now);
            let found = book.due(now_ms);
            assert_eq!(found.len(), 1, "{pattern} {now}");
            assert_eq!(found[0].due_ms, ms(due), "{pattern} {now}");
            assert_eq!(
                found[0].cause == Cause::Missed,
                now_ms - found[0].due_ms > LATE_MS,
                "{pattern} {now}"
            );
            ran(&mut book, found[0].due_ms);
            assert_eq!(book.due(now_ms), [], "{pattern} {now}");
            assert!(book.next_ms().unwrap() > now_ms, "{pattern} {now}");
        }
        assert_eq!(book(cron("0 9 * * *", "UTC"), "2026-12-01T00:00Z").due(ms("2026-12-01T08:59Z")), []);
        let mut once = book(When::At { at_ms: ms("2026-12-01T09:00Z") }, "2026-12-01T00:00Z");
        assert_eq!(once.due(ms("2026-12-03T00:00Z"))[0].cause, Cause::Missed);
        ran(&mut once, ms("2026-12-01T09:00Z"));
        assert_eq!((once.due(ms("2026-12-03T00:00Z")), once.next_ms()), (vec![], None));
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_the_reason() {
        let schedule = |when: When| Schedule {
            id: "a".into(),
            when,
            then: Then::Wake { session: "s-1".parse().unwrap() },
            prompt: "Go on.".into(),
            created_ms: 0,
        };
        let now_ms = ms("2026-12-01T00:00Z");
        let says = |when: When| check(&schedule(when), now_ms).map_err(|error| error.to_string());
        assert_eq!(says(cron("0 9 * * MON-FRI", "Europe/Berlin")), Ok(()));
        assert!(says(cron("0 9 * *", "UTC")).unwrap_err().contains("five fields"));
        assert!(says(cron("99 9 * * *", "UTC")).unwrap_err().contains("cannot be read"));
        assert!(says(cron("0 9 * * *", "Berlin")).unwrap_err().contains("no time zone"));
        assert!(says(When::At { at_ms: now_ms }).unwrap_err().contains("over"));
        assert!(
            check(&Schedule { prompt: " ".into(), ..schedule(cron("0 9 * * *", "UTC")) }, now_ms).is_err()
        );
    }
}
