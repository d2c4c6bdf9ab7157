//! The bodies of requests and answers, as JSON spells them. Fields may be added, never renamed or removed; unknown ones
//! are ignored.

use std::path::PathBuf;

use agent::{Recorded, SessionInfo};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::Problem;
use crate::goals::{Goal, Pursued};

/// A session to be made.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewSession {
    /// The folder it works in: absolute, and under one of the service's workspace roots.
    #[schema(value_type = String, example = "/home/me/src/project")]
    pub(crate) workspace: PathBuf,
    /// The model: an id of the catalog, an address of the hub such as `hf:OWNER/NAME:Q4_K_M`, or the path of its file or
    /// folder; the service's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "qwen2.5-coder-1.5b")]
    pub(crate) model: Option<String>,
    /// What the session is told beyond the system prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instructions: Option<String>,
    /// The id it gets, to make a repeated request harmless; a new one when left out. 1 to 48 of a-z, 0-9, '-' and '_'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// Limits of each turn; the service's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<Budget>,
    /// Whether it recalls earlier work and writes down what it learns; the service's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<bool>,
    /// Which calls may run, beside what the service and the repository say: the strictest holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<Rule>,
    /// What must be true before a turn may end, from the first input on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Goal>,
}

/// Which calls may run. Everything that a rule names must be true of a call; what it leaves out may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// What becomes of the call.
    pub(crate) then: Effect,
    /// The tool's name; `*` stands for any letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "exec")]
    pub(crate) tool: Option<String>,
    /// The shape of a command: words, each with `*` for any letters, and a last `*` for any words or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "git push *")]
    pub(crate) command: Option<String>,
    /// The path of a file, from the workspace on: `*` stays within a folder, `**` does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// The host of an address that is fetched; `*` stands for any letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// Why, in words that people and the model are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effect {
    /// It runs.
    Allow,
    /// It runs once somebody has said that it may.
    Ask,
    /// It does not run.
    Deny,
}

impl From<Rule> for tools::rules::Rule {
    fn from(rule: Rule) -> tools::rules::Rule {
        let Rule { then, tool, command, path, host, why } = rule;
        let then = match then {
            Effect::Allow => tools::rules::Effect::Allow,
            Effect::Ask => tools::rules::Effect::Ask,
            Effect::Deny => tools::rules::Effect::Deny,
        };
        tools::rules::Rule { then, tool, command, path, host, workspace: None, why }
    }
}

impl From<tools::rules::Rule> for Rule {
    fn from(rule: tools::rules::Rule) -> Rule {
        let tools::rules::Rule { then, tool, command, path, host, workspace: _, why } = rule;
        let then = match then {
            tools::rules::Effect::Allow => Effect::Allow,
            tools::rules::Effect::Ask => Effect::Ask,
            tools::rules::Effect::Deny => Effect::Deny,
        };
        Rule { then, tool, command, path, host, why }
    }
}

/// Limits of one turn. What is left out is as the service has it by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Budget {
    /// Most steps (replies of the model) in a turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) steps_max: Option<u32>,
    /// Most tokens sampled in a turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) output_tokens_max: Option<u64>,
    /// Most tokens sampled in one reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub(crate) reply_tokens_max: Option<u32>,
    /// Most seconds that a turn takes; 0: as long as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wall_secs_max: Option<u64>,
    /// Most tokens sampled in the whole session; 0: as many as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_output_tokens_max: Option<u64>,
    /// Most seconds that the tools of a turn run; 0: as long as they like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tool_secs_max: Option<u64>,
    /// Most that the whole session costs, in the currency of the minds' prices; 0: as much as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1000000)]
    pub(crate) session_cost_max: Option<f64>,
}

/// Billionths of a currency in one of it.
const NANOS: f64 = 1e9;

/// An amount of money in billionths. One that is none, or less than nothing, is nothing.
pub(crate) fn nanos(amount: f64) -> u64 {
    (amount * NANOS).round() as u64
}

/// Billionths as an amount of money.
pub(crate) fn amount(nanos: u64) -> f64 {
    nanos as f64 / NANOS
}

/// Whether a turn can begin within these limits.
///
/// # Errors
/// In words, what to give instead.
pub(crate) fn check(budget: agent::Budget) -> Result<(), String> {
    match budget.steps_max == 0 || budget.output_tokens_max == 0 || budget.reply_tokens_max == 0 {
        true => Err("a budget of 0 would end every turn before it begins; give 1 or more".to_string()),
        false => Ok(()),
    }
}

impl From<agent::Budget> for Budget {
    fn from(budget: agent::Budget) -> Budget {
        Budget {
            steps_max: Some(budget.steps_max),
            output_tokens_max: Some(budget.output_tokens_max),
            reply_tokens_max: Some(budget.reply_tokens_max),
            wall_secs_max: Some(budget.wall_secs_max),
            session_output_tokens_max: Some(budget.session_output_tokens_max),
            tool_secs_max: Some(budget.tool_secs_max),
            session_cost_max: Some(amount(budget.session_cost_nanos_max)),
        }
    }
}

impl Budget {
    pub(crate) fn over(self, default: agent::Budget) -> agent::Budget {
        agent::Budget {
            steps_max: self.steps_max.unwrap_or(default.steps_max),
            output_tokens_max: self.output_tokens_max.unwrap_or(default.output_tokens_max),
            reply_tokens_max: self.reply_tokens_max.unwrap_or(default.reply_tokens_max),
            wall_secs_max: self.wall_secs_max.unwrap_or(default.wall_secs_max),
            session_output_tokens_max: self
                .session_output_tokens_max
                .unwrap_or(default.session_output_tokens_max),
            tool_secs_max: self.tool_secs_max.unwrap_or(default.tool_secs_max),
            session_cost_nanos_max: self.session_cost_max.map_or(default.session_cost_nanos_max, nanos),
        }
    }
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// It waits for somebody.
    Idle,
    /// A turn is running.
    Running,
    /// A call waits for somebody's approval; `asks` says which.
    Asking,
    /// Its last turn failed, or its journal cannot be read or written; `error` says why.
    Failed,
}

/// Why a turn ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "why", rename_all = "snake_case")]
pub(crate) enum End {
    /// The model replied without asking for a call.
    Done,
    /// Somebody interrupted it.
    Interrupted,
    /// A limit of the budget was reached.
    Budget {
        /// Which, in words.
        limit: String,
    },
    /// The goal is not reached, and the model has had all its tries; or it cannot be checked. The session asks how to go on.
    GoalUnmet {
        /// What it asks, in words.
        question: String,
    },
    /// The prompt no longer fits the model's context.
    ContextFull {
        /// Tokens the prompt needs.
        asked: u64,
        /// Tokens the context holds.
        limit: u64,
    },
    /// Something the agent cannot mend by itself.
    Failed {
        /// What, and what to do about it.
        error: String,
    },
}

impl From<agent::End> for End {
    fn from(end: agent::End) -> End {
        match end {
            agent::End::Done => End::Done,
            agent::End::Interrupted => End::Interrupted,
            agent::End::Budget { limit } => End::Budget { limit },
            agent::End::GoalUnmet { question } => End::GoalUnmet { question },
            agent::End::ContextFull { asked, limit } => End::ContextFull { asked, limit },
            agent::End::Failed { error } => End::Failed { error },
        }
    }
}

/// What all replies of a session have cost, counted exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Usage {
    /// Tokens in the prompts.
    pub(crate) prompt_tokens: u64,
    /// Of those, tokens that had been computed before.
    pub(crate) cached_tokens: u64,
    /// Tokens sampled.
    pub(crate) output_tokens: u64,
    /// Milliseconds spent on prompts.
    pub(crate) prefill_ms: u64,
    /// Milliseconds spent sampling.
    pub(crate) decode_ms: u64,
    /// What they cost, where their mind has a price, in the currency of that.
    #[serde(default)]
    pub(crate) cost: f64,
}

impl From<agent::Usage> for Usage {
    fn from(usage: agent::Usage) -> Usage {
        let agent::Usage { prompt_tokens, cached_tokens, output_tokens, prefill_ms, decode_ms, cost_nanos } =
            usage;
        let cost = amount(cost_nanos);
        Usage { prompt_tokens, cached_tokens, output_tokens, prefill_ms, decode_ms, cost }
    }
}

/// A call that waits for somebody's approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Ask {
    /// The call's id, to be sent with the answer.
    #[schema(example = "c3.1")]
    pub(crate) call: String,
    /// The tool.
    pub(crate) tool: String,
    /// What it is called with.
    #[schema(value_type = Object)]
    pub(crate) arguments: serde_json::Value,
    /// Why somebody is asked.
    pub(crate) why: String,
    /// Until when they may answer, in milliseconds since 1970; without an answer by then it does not run. Null: as long as they like.
    #[serde(default)]
    pub(crate) until_ms: Option<u64>,
}

/// Whether a call may run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Approval {
    /// The call, as `asks` names it.
    #[schema(example = "c3.1")]
    pub(crate) call: String,
    /// Whether it may.
    pub(crate) allowed: bool,
    /// Whether the same command, file or tool is allowed for the rest of the session, without asking again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) always: bool,
    /// Who says so, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "anna")]
    pub(crate) by: Option<String>,
}

/// One thing that is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Task {
    /// What, in the model's words.
    pub(crate) text: String,
    /// How far it is.
    pub(crate) state: TaskState,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskState {
    /// Not begun.
    Open,
    /// Under way.
    Doing,
    /// Done.
    Done,
}

impl From<agent::Task> for Task {
    fn from(task: agent::Task) -> Task {
        let state = match task.state {
            agent::TaskState::Open => TaskState::Open,
            agent::TaskState::Doing => TaskState::Doing,
            agent::TaskState::Done => TaskState::Done,
        };
        Task { text: task.text, state }
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Session {
    /// Its name.
    #[schema(example = "s-1m5k3f8q2z0ab")]
    pub(crate) id: String,
    /// The first line of its first input.
    pub(crate) title: Option<String>,
    /// The folder it works in.
    pub(crate) workspace: String,
    /// The model it thinks with.
    pub(crate) model: String,
    /// What it is doing.
    pub(crate) status: Status,
    /// What is wrong, when it has failed.
    pub(crate) error: Option<String>,
    /// How its last turn ended; null while one runs.
    pub(crate) ended: Option<End>,
    /// The call that waits for somebody's approval; null when none does.
    #[serde(default)]
    pub(crate) asks: Option<Ask>,
    /// Whether it recalls earlier work and writes down what it learns.
    #[serde(default)]
    pub(crate) memory: bool,
    /// Turns started.
    pub(crate) turns: u32,
    /// Steps started.
    pub(crate) steps: u32,
    /// The session whose sub-agent it is; null when it is none.
    #[serde(default)]
    pub(crate) parent: Option<String>,
    /// The plan that the model keeps: what is to be done, in order.
    #[serde(default)]
    pub(crate) plan: Vec<Task>,
    /// Its goal; null when it has none.
    #[serde(default)]
    pub(crate) goal: Option<Pursued>,
    /// Tokens of the prompt with the last reply.
    #[serde(default)]
    pub(crate) prompt_tokens: u64,
    /// Tokens that the model's context holds; null while that is not known.
    #[serde(default)]
    pub(crate) context_tokens: Option<u64>,
    /// How often older messages were left out of the prompt.
    #[serde(default)]
    pub(crate) compactions: usize,
    /// Inputs the model has not been shown.
    pub(crate) waiting: usize,
    /// Calls that have ended.
    pub(crate) tool_calls: u32,
    /// Calls that have ended badly.
    pub(crate) tool_errors: u32,
    /// Its limits.
    #[serde(default)]
    pub(crate) budget: Budget,
    /// What all replies have cost.
    pub(crate) usage: Usage,
    /// Milliseconds since 1970 when it was made.
    pub(crate) created_ms: u64,
    /// Milliseconds since 1970 of its last event.
    pub(crate) updated_ms: u64,
    /// The seq of its last event.
    pub(crate) last: u64,
}

impl From<SessionInfo> for Session {
    fn from(info: SessionInfo) -> Session {
        Session {
            id: info.id.to_string(),
            title: info.title,
            workspace: info.workspace.display().to_string(),
            model: info.model,
            status: match info.status {
                agent::Status::Idle => Status::Idle,
                agent::Status::Running => Status::Running,
                agent::Status::Asking => Status::Asking,
                agent::Status::Failed => Status::Failed,
            },
            error: info.error,
            ended: info.ended.map(End::from),
            asks: info.asks.map(|ask| Ask {
                call: ask.call.id,
                tool: ask.call.name,
                arguments: ask.call.arguments,
                why: ask.why,
                until_ms: ask.until_ms,
            }),
            memory: info.memory,
            turns: info.turns,
            steps: info.steps,
            parent: info.parent.map(String::from),
            plan: info.plan.into_iter().map(Task::from).collect(),
            goal: info.goal.map(Pursued::from),
            prompt_tokens: info.prompt_tokens,
            context_tokens: info.context_tokens,
            compactions: info.compactions,
            waiting: info.waiting,
            tool_calls: info.tool_calls,
            tool_errors: info.tool_errors,
            budget: info.budget.into(),
            usage: info.usage.into(),
            created_ms: info.created_ms,
            updated_ms: info.updated_ms,
            last: info.last.0,
        }
    }
}

/// One page of sessions, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct SessionPage {
    /// The sessions.
    pub(crate) sessions: Vec<Session>,
    /// What to send as `cursor` for the next page; null on the last one.
    pub(crate) next_cursor: Option<String>,
}

/// Which sessions to list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SessionQuery {
    /// How many, at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub(crate) limit: Option<usize>,
    /// The `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
    /// Only sessions that are doing this.
    pub(crate) status: Option<Status>,
    /// Only sub-agents of this session.
    pub(crate) parent: Option<String>,
}

/// A place that a session can be wound back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Checkpoint {
    /// Its place among the session's events.
    pub(crate) seq: u64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// The turn …
    pub(crate) turn: u32,
    /// … and the last step before it.
    pub(crate) step: u32,
    /// What the workspace held, by a name that is the same whenever it held the same.
    pub(crate) tree: String,
}

impl From<&agent::Checkpoint> for Checkpoint {
    fn from(checkpoint: &agent::Checkpoint) -> Checkpoint {
        Checkpoint {
            seq: checkpoint.seq.0,
            at_ms: checkpoint.at_ms,
            turn: checkpoint.turn,
            step: checkpoint.step,
            tree: checkpoint.tree.to_string(),
        }
    }
}

/// The places a session can be wound back to, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Checkpoints {
    /// Them.
    pub(crate) checkpoints: Vec<Checkpoint>,
}

/// Two places among a session's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Between {
    /// The one; the first checkpoint when left out.
    pub(crate) from: Option<u64>,
    /// The other; the last event when left out.
    pub(crate) to: Option<u64>,
}

/// A file, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FileChange {
    /// Its path, from the workspace.
    pub(crate) path: String,
    /// What became of it.
    pub(crate) how: How,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// It was not there.
    Added,
    /// It holds something else, or is something else.
    Changed,
    /// It is there no more.
    Removed,
}

impl From<tools::checkpoint::Difference> for FileChange {
    fn from(difference: tools::checkpoint::Difference) -> FileChange {
        use tools::checkpoint::How as Is;
        let how = match difference.how {
            Is::Added => How::Added,
            Is::Changed => How::Changed,
            Is::Removed => How::Removed,
        };
        FileChange { path: difference.path, how }
    }
}

/// What changed in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FileChanges {
    /// By path.
    pub(crate) files: Vec<FileChange>,
}

/// A session to be wound back, or forward again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewRewinding {
    /// The place among its events.
    pub(crate) at: u64,
    /// What the workspace holds, as a look before has told: then it is done, if the workspace is still so. Without it this is the look,
    /// and nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) now: Option<String>,
}

/// What winding a session back means, or has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rewinding {
    /// Where it goes.
    pub(crate) to: Checkpoint,
    /// What the workspace held before.
    pub(crate) now: String,
    /// What becomes of its files.
    pub(crate) files: Vec<FileChange>,
    /// What people said that the model will not know of any more, oldest first.
    pub(crate) inputs: Vec<String>,
    /// Replies that it will not know of any more.
    pub(crate) replies: usize,
    /// Whether it is done.
    pub(crate) done: bool,
}

impl From<agent::Rewinding> for Rewinding {
    fn from(rewinding: agent::Rewinding) -> Rewinding {
        Rewinding {
            to: Checkpoint::from(&rewinding.to),
            now: rewinding.now.to_string(),
            files: rewinding.files.into_iter().map(FileChange::from).collect(),
            inputs: rewinding.inputs,
            replies: rewinding.replies,
            done: rewinding.done,
        }
    }
}

/// A place that a session is to be gone on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ForkAt {
    /// The place among its events; its end when left out.
    pub(crate) at: Option<u64>,
}

/// What a fork at a place would have of a session, and what it would not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Forking {
    /// The place.
    pub(crate) at: u64,
    /// What it would go on from.
    pub(crate) kept: ForkPart,
    /// What it would not know of.
    pub(crate) dropped: ForkPart,
    /// What has become of the workspace's files since, as far as checkpoints tell; null where there are none.
    pub(crate) files: Option<Vec<FileChange>>,
}

/// A part of a session's events: those that hold, without what was wound back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ForkPart {
    /// How many events.
    pub(crate) events: usize,
    /// What people said, oldest first.
    pub(crate) inputs: Vec<String>,
    /// Replies of the model.
    pub(crate) replies: usize,
    /// Calls that have ended.
    pub(crate) calls: usize,
}

impl From<agent::ForkPart> for ForkPart {
    fn from(part: agent::ForkPart) -> ForkPart {
        let agent::ForkPart { events, inputs, replies, calls } = part;
        ForkPart { events, inputs, replies, calls }
    }
}

impl From<agent::Forking> for Forking {
    fn from(forking: agent::Forking) -> Forking {
        Forking {
            at: forking.at.0,
            kept: forking.kept.into(),
            dropped: forking.dropped.into(),
            files: forking.files.map(|files| files.into_iter().map(FileChange::from).collect()),
        }
    }
}

/// A session that is to go on from where another one stood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewFork {
    /// The place among the other one's events; its end when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<u64>,
    /// An empty folder, or one that can be made, under one of the service's workspace roots: it gets the files as they were there,
    /// and is what the new session works in. When left out, that is the same folder, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) workspace: Option<PathBuf>,
}

/// Something to say to a session.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewInput {
    /// The client's own id for this input: sending it again changes nothing. The `Idempotency-Key` header may be used
    /// instead; without either, the service makes one up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub(crate) id: Option<String>,
    /// What is said.
    #[schema(min_length = 1, example = "The tests fail. Find the bug and fix it.")]
    pub(crate) text: String,
    /// What must be true before the turn may end. It takes the place of a goal that was set before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Goal>,
}

/// Code to look for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CodeSearch {
    /// The folder: absolute, and under one of the service's workspace roots.
    #[schema(value_type = String, example = "/home/me/src/project")]
    pub(crate) workspace: PathBuf,
    /// What the code does, in words.
    #[schema(min_length = 1, example = "retries a request that timed out")]
    pub(crate) query: String,
    /// Only below this folder of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
}

/// Code that was found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct CodeFound {
    /// The places, best first: each with its path, its lines, what it is called and how it begins.
    pub(crate) text: String,
}

/// That something asked for is durable.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Admitted {
    /// The seq of the event it became.
    pub(crate) seq: u64,
    /// False when it had been admitted before, or there was nothing to do.
    pub(crate) fresh: bool,
    /// The input's id; null for an interrupt and an approval.
    pub(crate) id: Option<String>,
}

/// An event of a session: a fact, written once and never changed. Further fields depend on `type`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Event {
    /// Its place in the session: 1, 2, 3 … without gaps.
    pub(crate) seq: u64,
    /// Milliseconds since 1970 when it was written.
    pub(crate) at_ms: u64,
    /// What happened: `created`, `input`, `goal_set`, `goal_dropped`, `enclosed`, `goal_checking`, `goal_checked`, `equipped`, `turn_started`, `recalled`, `step_started`, `reply`, `approval_asked`,
    /// `approval_given`, `call_denied`, `call_started`, `child_started`, `child_ended`, `child_merged`, `egress`, `call_finished`, `guided`, `call_lost`, `undone`, `checkpoint`, `rewound`,
    /// `forked`, `imported`, `looping`, `full`, `compaction_asked`, `compacted`, `not_compacted`, `uncompacted`, `running`, `exited`, `budgeted`, `interrupted`, `turn_ended` or
    /// `learned`; more may be added.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// What belongs to this kind of event.
    #[serde(flatten)]
    #[schema(additional_properties)]
    pub(crate) rest: serde_json::Map<String, serde_json::Value>,
}

/// One page of events, oldest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct EventPage {
    /// The events.
    #[schema(value_type = Vec<Event>)]
    pub(crate) events: Vec<Recorded>,
    /// What to send as `after` for the next page; null when there is nothing more yet.
    pub(crate) next_after: Option<u64>,
}

/// Which events to send, and how.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventQuery {
    /// Only events with a greater seq. `Last-Event-ID` wins over it.
    #[param(default = 0)]
    pub(crate) after: Option<u64>,
    /// `json` for one page instead of a stream; so does `Accept: application/json`.
    #[param(inline)]
    pub(crate) format: Option<EventFormat>,
    /// How many events on a page, at most.
    #[param(minimum = 1, maximum = 1000, default = 200)]
    pub(crate) limit: Option<usize>,
}

/// How events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventFormat {
    /// Server-sent events: what there is, then what comes.
    Sse,
    /// One page.
    Json,
}

/// Whether the service is up.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Health {
    /// Always `ok`: a service that is not does not answer.
    pub(crate) status: String,
}

/// Whether the service can think.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Readiness {
    /// Whether it can.
    pub(crate) ready: bool,
    /// Whether waiting helps.
    pub(crate) state: ReadyState,
    /// The model of sessions that name none.
    pub(crate) model: String,
    /// What it is doing until it can, or why it cannot.
    pub(crate) detail: Option<String>,
}

/// How far a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadyState {
    /// It will be ready.
    Starting,
    /// It is ready.
    Ready,
    /// It will not be ready without help.
    Failed,
}

/// Which version is running.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Version {
    /// `saga`.
    pub(crate) name: String,
    /// The version, as in the changelog.
    pub(crate) version: String,
}

/// A JSON body whose every rejection is a [`Problem`].
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let axum::Json(body) = <axum::Json<T> as FromRequest<S>>::from_request(request, state).await?;
        Ok(Body(body))
    }
}

/// A query string whose every rejection is a [`Problem`].
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::<T>::from_request_parts(parts, state).await?;
        Ok(Asked(asked))
    }
}

/// A session's id from the path, checked.
pub(crate) struct Id(pub(crate) agent::SessionId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await?;
        Ok(Id(id.parse()?))
    }
}
