//! Conversations in which facts about a project change, for `saga memory eval`.
//!
//! ```text
//! cargo run -p memory --example updates -- 100 7 > updates.jsonl
//! saga memory eval updates.jsonl
//! ```
//!
//! The first number says how many facts change, the second one is the seed. Each fact is said once, weeks later something else
//! is said in its place, and two things are asked: how it is (the new must be found above the old), and how it was before
//! (the old must still be found). Half of the changes announce themselves ("we moved from a to b"), half only say how it is
//! now. The same sort of fact is true of several components, and other talk lies in between, so that the right sort of sentence
//! alone does not find it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Something a project has one of at a time.
struct Sort {
    /// Values it may have.
    values: &'static [&'static str],
    /// How it is said first, and how a change is said that does not announce itself.
    says: &'static [&'static str],
    /// How a change is said that does: `{a}` is the old, `{b}` the new value.
    changes: &'static [&'static str],
    /// How it is asked for.
    asks: &'static [&'static str],
    /// How what it was before is asked for.
    asks_before: &'static [&'static str],
}

/// What the facts are about.
const COMPONENTS: [&str; 8] =
    ["billing", "gateway", "search", "importer", "mailer", "dashboard", "scheduler", "auth"];

const SORTS: [Sort; 20] = [
    Sort {
        values: &["cargo test", "cargo nextest run", "just test", "make check", "./scripts/test.sh"],
        says: &["Run the {c} tests with `{b}`.", "To test {c}, use `{b}` from the repository root."],
        changes: &[
            "We switched the {c} tests from `{a}` to `{b}`.",
            "Use `{b}` for the {c} tests now, `{a}` misses the integration suite.",
        ],
        asks: &["How do I run the {c} tests?", "What is the test command of {c}?"],
        asks_before: &[
            "How did we run the {c} tests before?",
            "What was the test command of {c} previously?",
        ],
    },
    Sort {
        values: &["8080", "9090", "7001", "3000", "8443"],
        says: &["{c} listens on port {b}.", "The port of the {c} service is {b}."],
        changes: &[
            "{c} moved from port {a} to {b} because of a clash.",
            "The {c} port is no longer {a}, it is {b} since the new ingress.",
        ],
        asks: &["Which port does {c} listen on?", "What port should I curl to reach {c}?"],
        asks_before: &["Which port did {c} use before?", "What was the old port of {c}?"],
    },
    Sort {
        values: &["main", "develop", "release/2.x", "trunk", "next"],
        says: &[
            "Pull requests for {c} go against the branch {b}.",
            "The branch for {c} pull requests is {b}.",
        ],
        changes: &[
            "For {c} we now merge into {b} instead of {a}.",
            "The {c} team stopped using {a}; open pull requests against {b}.",
        ],
        asks: &["Which branch do I target for {c} changes?", "Where do {c} pull requests go?"],
        asks_before: &[
            "Which branch did {c} pull requests use to go to?",
            "What branch did {c} target before?",
        ],
    },
    Sort {
        values: &["PostgreSQL 14", "PostgreSQL 16", "SQLite", "MySQL 8", "CockroachDB"],
        says: &["{c} stores its data in {b}.", "The database behind {c} is {b}."],
        changes: &[
            "We migrated the {c} database from {a} to {b} last night.",
            "{c} runs on {b} now, the {a} instance is shut down.",
        ],
        asks: &["What database does {c} use?", "Where does {c} keep its data?"],
        asks_before: &[
            "What database did {c} use before the migration?",
            "Which database was {c} on originally?",
        ],
    },
    Sort {
        values: &["Priya", "Tomasz", "Ingrid", "Kofi", "Mei"],
        says: &["{b} maintains {c}.", "The maintainer of {c} is {b}, ask for reviews there."],
        changes: &["{b} took over {c} from {a}.", "{a} left the {c} team, {b} reviews it now."],
        asks: &["Who maintains {c}?", "Whom should I ask for a review of {c}?"],
        asks_before: &["Who maintained {c} before?", "Who was the former maintainer of {c}?"],
    },
    Sort {
        values: &["1.74", "1.80", "1.85", "1.88", "1.70"],
        says: &["{c} has to build with Rust {b}.", "The minimum supported Rust version of {c} is {b}."],
        changes: &[
            "We raised the Rust version of {c} from {a} to {b}.",
            "The Rust version {c} needs was bumped to {b}, {a} is not supported any more.",
        ],
        asks: &["What is the minimum Rust version of {c}?", "Which Rust does {c} have to build with?"],
        asks_before: &[
            "What Rust version did {c} need before?",
            "What was the previous minimum Rust version of {c}?",
        ],
    },
    Sort {
        values: &["config/app.toml", "settings.yaml", "etc/service.conf", "deploy/values.yaml", ".env.local"],
        says: &["The settings of {c} are in {b}.", "{c} reads its configuration from {b}."],
        changes: &[
            "The {c} settings moved from {a} to {b}.",
            "{c} doesn't read {a} any more, its configuration lives in {b}.",
        ],
        asks: &["Where is the configuration of {c}?", "Which file has the settings of {c}?"],
        asks_before: &[
            "Where was the configuration of {c} before?",
            "Which file used to have the settings of {c}?",
        ],
    },
    Sort {
        values: &["tabs", "two spaces", "four spaces", "whatever rustfmt does"],
        says: &["Indent the {c} sources with {b}.", "Code in {c} is indented with {b}."],
        changes: &[
            "We decided to indent {c} with {b} from now on, not with {a}.",
            "The {c} sources were reformatted from {a} to {b}.",
        ],
        asks: &["How is the {c} code indented?", "What indentation do we use in {c}?"],
        asks_before: &["How was the {c} code indented before?", "What indentation did {c} use in the past?"],
    },
    Sort {
        values: &["GitHub Actions", "Jenkins", "Buildkite", "GitLab CI", "Woodpecker"],
        says: &["The builds of {c} run on {b}.", "{c} uses {b} for continuous integration."],
        changes: &[
            "We replaced {a} with {b} for the {c} builds.",
            "The {c} pipeline left {a}; builds run on {b} now.",
        ],
        asks: &["Which CI system builds {c}?", "Where do the {c} builds run?"],
        asks_before: &["Which CI system did {c} use before?", "Where did the {c} builds run previously?"],
    },
    Sort {
        values: &["5 seconds", "30 seconds", "2 minutes", "90 seconds", "10 minutes"],
        says: &["Requests to {c} time out after {b}.", "The request timeout of {c} is {b}."],
        changes: &[
            "I changed the {c} timeout from {a} to {b}.",
            "The timeout of {c} is {b} now since {a} was too short for large uploads.",
        ],
        asks: &["What is the timeout of {c}?", "After how long do {c} requests time out?"],
        asks_before: &["What was the timeout of {c} before?", "How long was the earlier {c} timeout?"],
    },
    Sort {
        values: &["Kubernetes", "Nomad", "a single VM", "ECS", "bare metal in Frankfurt"],
        says: &["{c} is deployed to {b}.", "In production {c} runs on {b}."],
        changes: &[
            "{c} was moved off {a} and is deployed to {b}.",
            "We gave up {a} for {c}, production is on {b}.",
        ],
        asks: &["Where is {c} deployed?", "What does {c} run on in production?"],
        asks_before: &["Where was {c} deployed before?", "What did {c} run on in the past?"],
    },
    Sort {
        values: &["parse_order", "read_order", "decode_order", "order_from_bytes", "load_order"],
        says: &[
            "The entry point of {c} is the function `{b}`.",
            "Orders enter {c} through its entry point `{b}`.",
        ],
        changes: &[
            "`{a}` in {c} was renamed to `{b}`.",
            "I split up `{a}`: orders enter {c} through `{b}` now.",
        ],
        asks: &["Which function is the entry point of {c}?", "Through which function do orders enter {c}?"],
        asks_before: &[
            "What was the entry point of {c} called before?",
            "Which function used to be the entry point of {c}?",
        ],
    },
    Sort {
        values: &["thiserror", "anyhow", "eyre", "snafu", "hand-written enums"],
        says: &["Errors in {c} are made with {b}.", "{c} uses {b} for its error types."],
        changes: &["We moved the {c} errors from {a} to {b}.", "No more {a} in {c}: error types use {b}."],
        asks: &["How do we make error types in {c}?", "What does {c} use for errors?"],
        asks_before: &["What did {c} use for errors before?", "How were error types made in {c} previously?"],
    },
    Sort {
        values: &["JSON", "protobuf", "MessagePack", "CBOR", "plain CSV"],
        says: &["{c} sends its messages as {b}.", "The wire format of {c} is {b}."],
        changes: &[
            "The {c} wire format was changed from {a} to {b}.",
            "{c} stopped sending {a}; messages are {b}.",
        ],
        asks: &["What wire format does {c} use?", "In which format does {c} send messages?"],
        asks_before: &[
            "What wire format did {c} use before?",
            "In which format did {c} send messages originally?",
        ],
    },
    Sort {
        values: &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"],
        says: &["{c} is released every {b}.", "The release day of {c} is {b}."],
        changes: &[
            "We moved the {c} release from {a} to {b}.",
            "{c} is not released on {a} any longer but on {b}.",
        ],
        asks: &["On which day is {c} released?", "When is the weekly release of {c}?"],
        asks_before: &["On which day was {c} released before?", "What was the former release day of {c}?"],
    },
    Sort {
        values: &["Redis", "an in-process LRU", "memcached", "Varnish", "no cache at all"],
        says: &["{c} caches with {b}.", "For caching {c} uses {b}."],
        changes: &["I replaced {a} by {b} as the {c} cache.", "{c} went from {a} to {b} for caching."],
        asks: &["What does {c} use for caching?", "How does {c} cache?"],
        asks_before: &["What did {c} use for caching before?", "How did {c} cache in the past?"],
    },
    Sort {
        values: &["debug", "info", "warn", "error", "trace"],
        says: &["Keep the log level of {c} at {b}.", "{c} logs at level {b} in production."],
        changes: &[
            "The {c} log level went from {a} to {b}.",
            "Please set {c} to log level {b} instead of {a}.",
        ],
        asks: &["What log level does {c} have in production?", "At which level should {c} log?"],
        asks_before: &["What log level did {c} have before?", "At which level did {c} log previously?"],
    },
    Sort {
        values: &["#dev-help", "#platform", "#incidents", "#backend", "the mailing list"],
        says: &["Report problems with {c} in {b}.", "Problems and questions about {c} belong in {b}."],
        changes: &[
            "Problems with {c} go to {b} now, {a} was archived.",
            "We closed {a}; report {c} problems in {b}.",
        ],
        asks: &["Where do I report problems with {c}?", "Where do questions about {c} go?"],
        asks_before: &[
            "Where did questions about {c} go before?",
            "Where were problems with {c} reported in the past?",
        ],
    },
    Sort {
        values: &["npm", "pnpm", "yarn", "bun", "deno"],
        says: &["Install the {c} front end with {b}.", "The package manager of the {c} front end is {b}."],
        changes: &[
            "The {c} front end switched from {a} to {b}.",
            "Don't use {a} in the {c} front end any more, use {b}.",
        ],
        asks: &["What package manager does the {c} front end use?", "How do I install the front end of {c}?"],
        asks_before: &[
            "What package manager did the {c} front end use before?",
            "How was the front end of {c} installed previously?",
        ],
    },
    Sort {
        values: &["HS256 tokens", "RS256 tokens", "session cookies", "mutual TLS", "API keys"],
        says: &["Clients of {c} authenticate with {b}.", "{c} accepts {b} for authentication."],
        changes: &[
            "{c} authentication was changed from {a} to {b}.",
            "{c} rejects {a} now; clients authenticate with {b}.",
        ],
        asks: &["How do clients authenticate to {c}?", "What does {c} accept for authentication?"],
        asks_before: &[
            "How did clients authenticate to {c} before?",
            "What did {c} accept for authentication in the past?",
        ],
    },
];

/// What is said in between.
const TALK: [&str; 12] = [
    "Thanks, that worked.",
    "I will look into the flaky upload test tomorrow.",
    "Can you rebase this on top of the latest changes?",
    "The compiler complains about a missing lifetime in the {c} handlers.",
    "Please write a changelog entry for the {c} work.",
    "The {c} benchmark got 12 percent slower, find out why.",
    "Let us keep the {c} interface as it is until the next release.",
    "I prefer small commits.",
    "There is a typo in the {c} README.",
    "The reviewer wants a test for the empty list in {c}.",
    "Why does {c} take so long to start?",
    "Good, merge it.",
];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % below as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

fn main() {
    let number = |at: usize, usual| std::env::args().nth(at).map_or(Some(usual), |text| text.parse().ok());
    let (Some(count), Some(seed)) = (number(1, 100), number(2, 7)) else {
        eprintln!(
            "usage: updates [COUNT [SEED]], both whole numbers; at most {}",
            SORTS.len() * COMPONENTS.len()
        );
        std::process::exit(2);
    };
    println!("{}", conversation((count as usize).min(SORTS.len() * COMPONENTS.len()), seed));
}

/// One conversation with `count` facts that change.
fn conversation(count: usize, seed: u64) -> Value {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut taken = BTreeSet::new();
    // What is said, in two times: first the facts, later their changes.
    let (mut first, mut later, mut queries) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..count {
        let (sort, component) = loop {
            let pair = (dice.roll(SORTS.len()), dice.roll(COMPONENTS.len()));
            if taken.insert(pair) {
                break pair;
            }
        };
        let (sort, component) = (&SORTS[sort], COMPONENTS[component]);
        let old = dice.pick(sort.values);
        let new = loop {
            let new = dice.pick(sort.values);
            if new != old {
                break new;
            }
        };
        let say = |text: &str| {
            let text = text.replace("{c}", component).replace("{a}", old).replace("{b}", new);
            let mut letters = text.chars();
            letters.next().map_or(String::new(), |letter| letter.to_uppercase().chain(letters).collect())
        };
        let told = dice.pick(sort.says).replace("{b}", "{a}");
        let change = dice.pick(if n % 2 == 0 { sort.changes } else { sort.says });
        first.push((format!("old-{n}"), say(&told)));
        later.push((format!("new-{n}"), say(change)));
        let pair = json!([[format!("new-{n}"), format!("old-{n}")]]);
        queries.push(json!({
            "text": say(dice.pick(sort.asks)), "evidence": [format!("new-{n}")], "supersedes": pair, "category": "now",
        }));
        queries.push(json!({
            "text": say(dice.pick(sort.asks_before)), "evidence": [format!("old-{n}")], "category": "before",
        }));
    }
    let mut messages = Vec::new();
    let mut talk = 0;
    for (week, mut said) in [(0, first), (8, later)] {
        let mut at = 0;
        while !said.is_empty() {
            let (id, text) = said.swap_remove(dice.roll(said.len()));
            // Ten facts a session, one session a day.
            let (day, session) = (at / 10, format!("s{week}-{}", at / 10));
            let time =
                format!("2026-{:02}-{:02} {:02}:{:02}", 3 + week / 4, 1 + day, 9 + at % 10 / 2, 10 + at % 10);
            messages.push(json!({
                "id": id, "session": session, "time": time, "speaker": "user", "role": "user", "text": text,
            }));
            for (speaker, text) in
                [("assistant", "Understood, I will keep that in mind."), ("user", dice.pick(&TALK))]
            {
                let text = text.replace("{c}", dice.pick(&COMPONENTS));
                talk += 1;
                messages.push(json!({
                    "id": format!("talk-{talk}"), "session": session, "time": time, "speaker": speaker, "role": speaker,
                    "text": text,
                }));
            }
            at += 1;
        }
    }
    json!({ "id": format!("updates-{seed}"), "messages": messages, "queries": queries })
}
