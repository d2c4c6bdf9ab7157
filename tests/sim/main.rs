//! Histories by chance: people, crashes at any effect, full disks, slow and lying tools, lost answers, a confused mind. The same seed gives
//! the same history; whatever happens in it, the lines that are always true hold.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chance;
mod judge;
mod mutant;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use agent::{Admitted, Error, Event, Order, Recorded, SessionId, Sink, State, drive};
use chance::Chance;
use mutant::Mutant;
use tokio::sync::{mpsc, oneshot};
use world::{Folded, Sim, created, journal, state};

/// What people were told is safe.
type Accepted = BTreeMap<String, String>;

/// A person at a session: says and asks for things, some of them nonsense, and listens for the answers.
struct Person<'a> {
    sim: &'a Sim,
    chance: Chance,
    orders: mpsc::Sender<Order>,
    accepted: &'a mut Accepted,
    inputs: &'a mut usize,
    calm: bool,
    early: bool,
}

impl Person<'_> {
    async fn live(mut self) {
        for _ in 0..self.chance.below(if self.calm { 1 } else { 6 }) {
            for _ in 0..self.chance.below(12) {
                tokio::task::yield_now().await;
            }
            if !self.act().await {
                return;
            }
        }
        // Then whatever the session asks for is answered, until it rests.
        let mut folded = Folded::default();
        for _ in 0..3_000 {
            tokio::task::yield_now().await;
            let now = folded.catch_up(self.sim);
            if let Some(asked) = now.asks() {
                let (call, allowed) = (asked.call.id.clone(), self.chance.once_in(2));
                let (done, answer) = oneshot::channel();
                let order = Order::Approve { call, allowed, always: self.chance.once_in(4), by: None, done };
                if self.orders.send(order).await.is_err() || answer.await.is_err() {
                    return;
                }
            } else if !now.running() && now.waiting() == 0 && matches!(now.next(), agent::Action::Rest) {
                return;
            }
            if self.orders.is_closed() {
                return;
            }
        }
        let next = state(self.sim).next();
        self.sim.lasting().complaints.push(format!("line 7: it never rests: {next:?}"));
    }

    /// Does one thing; false when nobody is there to hear it.
    async fn act(&mut self) -> bool {
        let (done, answer) = oneshot::channel();
        let mut said = None;
        let order = match self.chance.below(10) {
            0..=4 => {
                // Sometimes again, sometimes under an id that was used for something else.
                let n =
                    if self.chance.once_in(5) { self.chance.below(*self.inputs + 1) } else { *self.inputs };
                *self.inputs = (*self.inputs).max(n + 1);
                let (id, text) =
                    (format!("i{n}"), format!("Do number {n}{}.", ["", " soon"][self.chance.below(2)]));
                said = Some((id.clone(), text.clone()));
                Order::Input { id, text, done }
            }
            5 => Order::Interrupt { done },
            6 | 7 => {
                let call = match state(self.sim).asks() {
                    Some(asked) if !self.chance.once_in(3) => asked.call.id.clone(),
                    _ => format!("c{}.1", self.chance.below(9)),
                };
                let (allowed, always) = (self.chance.once_in(2), self.chance.once_in(5));
                Order::Approve { call, allowed, always, by: Some("ada".into()), done }
            }
            8 => Order::Compact { focus: None, done },
            _ => Order::Uncompact { done },
        };
        if self.early
            && let Some((id, text)) = said.clone()
        {
            self.accepted.insert(id, text);
        }
        if self.orders.send(order).await.is_err() {
            return false;
        }
        let Ok(answer) = answer.await else { return false };
        if let (Ok(Admitted { seq, .. }), Some((id, text))) = (answer, said) {
            // What was answered is on the disk by then.
            let durable = self.sim.lasting().journal.get(seq.0 as usize - 1).cloned();
            let is = durable.is_some_and(|record| {
                matches!(world::read(0, &record).event, Event::Input { id: written, .. } if written == id)
            });
            if !is {
                self.sim
                    .lasting()
                    .complaints
                    .push(format!("line 2: input {id} was accepted before it was durable"));
            }
            self.accepted.insert(id, text);
        }
        true
    }
}

/// One life of the service: fold, drive until the power fails, the disk is full or nobody has anything to say.
async fn live(
    sim: &Sim,
    chance: Chance,
    accepted: &mut Accepted,
    inputs: &mut usize,
    calm: bool,
    early: bool,
) {
    let id: SessionId = "s-sim".parse().unwrap();
    let mut now = state(sim);
    if now.created().is_none() {
        let event = Event::from(created());
        let Ok(seq) = agent::World::append(sim, 0, &event).await else { return };
        now.apply(&Recorded { seq, at_ms: 0, event });
    }
    sim.lasting().drivers += 1;
    if sim.lasting().drivers > 1 {
        sim.lasting().complaints.push("line 3: two drive one session".to_string());
    }
    let (orders, mut inbox) = mpsc::channel(4);
    let person = Person { sim, chance, orders, accepted, inputs, calm, early };
    let wrote = |_: &State, _: Arc<Recorded>| {};
    let sink = Sink::none();
    let done = async {
        let done = drive(&id, sim, &mut now, &mut inbox, &wrote, &sink).await;
        drop(inbox);
        done
    };
    let (done, ()) = tokio::join!(done, person.live());
    sim.lasting().drivers -= 1;
    // 1. What is not in the journal did not happen: what the driver knows is what the journal tells, but for an event whose writing
    // was cut off by the power.
    let records = sim.lasting().journal.clone();
    let known = now.last().map_or(0, |seq| seq.0 as usize);
    if known > records.len()
        || format!("{now:?}") != format!("{:?}", State::fold(&journal(&records[..known])))
    {
        sim.lasting()
            .complaints
            .push("line 1: the driver knows something that the journal does not".to_string());
    }
    if let Err(error) = &done
        && !matches!(error, Error::Stopping | Error::NotWritten(_))
    {
        sim.lasting().complaints.push(format!("a life ended with {error}"));
    }
}

/// A whole history; what is wrong with it.
fn history(seed: u64, mutant: Option<Mutant>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut chance = Chance::new(seed ^ 0xfeed);
        let sim = Sim::new(seed, mutant);
        let (mut accepted, mut inputs) = (Accepted::new(), 0);
        let early = mutant == Some(Mutant::AnswersEarly);
        for _ in 0..1 + chance.below(5) {
            let before = sim.lasting().journal.clone();
            let fuse = (!chance.once_in(4)).then(|| 1 + chance.below(60));
            sim.begin(fuse, false);
            let own = Chance::new(chance.next());
            if mutant == Some(Mutant::TwoDrivers) {
                let (mut a, mut n) = (Accepted::new(), 100);
                let other = Chance::new(chance.next());
                tokio::join!(
                    live(&sim, own, &mut accepted, &mut inputs, false, early),
                    live(&sim, other, &mut a, &mut n, false, early)
                );
            } else {
                live(&sim, own, &mut accepted, &mut inputs, false, early).await;
            }
            if !sim.lasting().journal.starts_with(&before) {
                sim.lasting().complaints.push("line 3: an event was changed".to_string());
            }
        }
        // At last all is well, and somebody says something once more.
        sim.begin(None, true);
        live(&sim, Chance::new(chance.next()), &mut accepted, &mut inputs, true, early).await;
        let lasting = sim.lasting();
        judge::judge(&lasting, &accepted)
    })
}

/// How many histories are tried; `SAGA_SIM_HISTORIES` tries more.
const HISTORIES: u64 = 10_000;

#[test]
fn whatever_happens_the_lines_hold() {
    let wished = std::env::var("SAGA_SIM_HISTORIES").ok().and_then(|n| n.parse().ok());
    let histories: u64 = wished.unwrap_or(HISTORIES);
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let broken: Vec<(u64, Vec<String>)> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || {
                    let seeds = (part..histories).step_by(threads as usize);
                    let tried = seeds.map(|seed| (seed, history(seed, None)));
                    tried.filter(|(_, wrong)| !wrong.is_empty()).take(3).collect::<Vec<_>>()
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_world_that_breaks_a_line_is_caught() {
    // A judge that lets everything pass is no judge.
    for mutant in Mutant::ALL {
        let line = match mutant {
            Mutant::ForgetsEvents => "line 1",
            Mutant::WritesLater | Mutant::RunsAgain | Mutant::AnswersEarly => "line 2",
            Mutant::EditsEvents | Mutant::TwoDrivers => "line 3",
            Mutant::ShowsElse => "line 4",
            Mutant::SamplesElse => "line 5",
            Mutant::NoRules => "line 6",
        };
        let caught =
            (0..300).flat_map(|seed| history(seed, Some(mutant))).any(|wrong| wrong.starts_with(line));
        assert!(caught, "{mutant:?} is not caught by {line}");
    }
}
