//! Decides: events, state, and the one next thing to do.
//!
//! The whole service is three lines, and each has its file:
//!
//! ```text
//! state  = fold(journal)      state.rs    what has happened
//! action = state.next()       decide.rs   the one next thing to do
//! event  = perform(action)    drive.rs    do it, write it down, repeat
//! ```
//!
//! Everything that touches the world goes through [`World`]; [`Live`] is the real one, over the engine, the memory and
//! the tools. There is no resume code: starting is folding an empty journal, and going on after a crash is folding a
//! longer one.

mod agent;
mod allowance;
mod check;
mod child;
pub mod code;
mod compact;
mod context;
mod decide;
pub mod dialect;
mod drive;
mod equipped;
mod error;
mod event;
mod family;
mod focus;
mod goal;
pub mod guides;
mod known;
mod lead;
mod learn;
mod live;
pub mod mind;
mod notebook;
mod plan;
pub mod portable;
mod recall;
mod replay;
mod sayings;
pub mod schedule;
mod skills;
mod state;
mod world;

pub use agent::{
    Admitted, Agent, Ask, Command, Config, ForkPart, Forking, Gauge, NewSession, Pursued, Rewinding, Segment,
    SegmentKind, SessionInfo, Status, Watch, bring, encode, read_journal,
};
pub use allowance::{Allowance, Left};
pub use child::{Access, Child, Merged, Mode, Parent, Returned};
pub use context::{Answer, Message};
pub use decide::Action;
pub use drive::{Inbox, Order, drive};
pub use error::Error;
pub use event::{
    Before, Budget, Changed, Created, End, Event, Loop, Recorded, Refused, SessionId, Stop, Usage, digest,
    money,
};
pub use goal::{Checked, Evidence, Goal, Test};
pub use learn::Lessons;
pub use live::{Live, LiveOptions, OfTenant};
pub use notebook::{Files, Notebook};
pub use plan::{Task, TaskState};
pub use recall::Recollection;
pub use replay::{Model, Replayed, ReplayedStep, replay};
pub use state::{Asked, Checkpoint, Compaction, Kid, Progressed, State};
pub use world::{Cancel, Manner, Progress, Said, Sink, Thought, Weights, World, Worlds};
