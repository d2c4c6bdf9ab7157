//! Whatever moment the service dies at, the session goes on to its end, and no unsafe call runs twice.

use std::sync::Arc;

use agent::{Created, End, Event, Goal, Order, Recorded, SessionId, Sink, State, drive};
use kit::{Files, Ran, Script, Stage, asks, says, thinks};
use memory::{Kind, Memory, NoteId, Seq};
use tokio::sync::{mpsc, oneshot};

/// The script every life follows: a look, two changes in one step of which one fails, another look, the end.
fn script() -> Script {
    Script(vec![
        thinks("I look.", &["safe_look"]),
        thinks("I change.", &["change", "change_fails", "safe_look"]),
        thinks("I look again.", &["safe_look", "change"]),
        says("Done."),
    ])
}

fn journal(memory: &Memory, id: &SessionId) -> Vec<Recorded> {
    agent::read_journal(memory, id).unwrap()
}

/// One life of the service: fold, hand in the input if it has not been accepted yet, drive until rest or death.
async fn live(stage: &Arc<Stage>, memory: &Memory, id: &SessionId) -> Result<(), agent::Error> {
    live_as(Stage::created(std::path::Path::new("/nowhere")), stage, memory, id).await
}

async fn live_as(
    created: Created,
    stage: &Arc<Stage>,
    memory: &Memory,
    id: &SessionId,
) -> Result<(), agent::Error> {
    live_until(created, stage, memory, id, |_, event| matches!(event, Event::TurnEnded { .. })).await
}

/// As [`live_as`], until `last` says of an event that nothing more is to come.
async fn live_until(
    created: Created,
    stage: &Arc<Stage>,
    memory: &Memory,
    id: &SessionId,
    last: fn(&State, &Event) -> bool,
) -> Result<(), agent::Error> {
    live_for(None, created, stage, memory, id, last).await
}

/// As [`live_until`], with a goal that comes with the input.
async fn live_for(
    goal: Option<Goal>,
    created: Created,
    stage: &Arc<Stage>,
    memory: &Memory,
    id: &SessionId,
    last: fn(&State, &Event) -> bool,
) -> Result<(), agent::Error> {
    let world = stage.seat(id)?;
    let before = journal(memory, id);
    let mut state = State::fold(&before);
    if state.created().is_none() {
        let event = Event::from(created);
        let seq = world.append(world.now_ms(), &event).await?;
        state.apply(&Recorded { seq, at_ms: 0, event });
    }
    let (orders, mut inbox) = mpsc::channel(4);
    let (done, answer) = oneshot::channel();
    let (name, text) = ("one".to_string(), "Do it.".to_string());
    let order = match goal {
        Some(goal) => Order::Pursue { id: name, text, goal, done },
        None => Order::Input { id: name, text, done },
    };
    orders.try_send(order).unwrap();
    // The inbox closes once there is nothing more to come, which ends the life.
    let orders = std::sync::Mutex::new(Some(orders));
    let wrote = move |state: &State, recorded: Arc<Recorded>| {
        if last(state, &recorded.event) {
            orders.lock().unwrap().take();
        }
    };
    if before.last().is_some_and(|recorded| last(&state, &recorded.event)) {
        return Ok(());
    }
    let result = drive(id, &*world, &mut state, &mut inbox, &wrote, &Sink::none()).await;
    drop(answer);
    result
}

#[tokio::test]
async fn a_crash_at_any_effect_loses_nothing_and_repeats_nothing() {
    // The heart of the house: intent before effect, and state folded from the journal alone.
    for last_effect_happens in [false, true] {
        let mut fuse = 1;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let memory = Memory::open(folder.path()).unwrap();
            let id: SessionId = "s-crash".parse().unwrap();
            let first = Stage::new(memory.clone(), script(), fuse, last_effect_happens);
            let died = live(&first, &memory, &id).await.is_err();
            let before = journal(&memory, &id);
            let second = Stage::new(memory.clone(), script(), usize::MAX, false);
            live(&second, &memory, &id).await.unwrap();
            let after = journal(&memory, &id);
            check(fuse, &before, &after, &first.ran(), &second.ran());
            if !died {
                break;
            }
            fuse += 1;
        }
        // Created, input, turn start, 4 steps, 4 replies, 6 calls with start, run and finish, turn end, 4 thoughts, and the
        // notice that the same look was asked for in three steps.
        assert_eq!(
            fuse,
            1 + 1 + 1 + 4 + 4 + 6 * 3 + 1 + 4 + 1 + 1,
            "the script has as many crash points as it has effects"
        );
    }
}

fn check(fuse: usize, before: &[Recorded], after: &[Recorded], first: &[Ran], second: &[Ran]) {
    assert_eq!(&after[..before.len()], before, "fuse {fuse}: an event was changed");
    let seqs: Vec<Seq> = after.iter().map(|recorded| recorded.seq).collect();
    let expected: Vec<Seq> = (1..=after.len() as u64).map(Seq).collect();
    assert_eq!(seqs, expected, "fuse {fuse}");
    let ends: Vec<&End> = after
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::TurnEnded { end, .. } => Some(end),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [&End::Done], "fuse {fuse}: the turn ends once and well");
    let inputs = after.iter().filter(|recorded| matches!(recorded.event, Event::Input { .. })).count();
    assert_eq!(inputs, 1, "fuse {fuse}: the input was accepted once");
    for ran in second {
        let twice = first.contains(ran);
        assert!(!twice || ran.name.starts_with("safe"), "fuse {fuse}: {ran:?} ran twice");
    }
    let notices = after.iter().filter(|recorded| matches!(&recorded.event, Event::Looping { .. })).count();
    assert!(notices <= 1, "fuse {fuse}: a repetition was told {notices} times");
    // Every call that ran has its intent in the journal before; every call of a reply is settled exactly once.
    for ran in first.iter().chain(second) {
        let started = after
            .iter()
            .any(|recorded| matches!(&recorded.event, Event::CallStarted { id, .. } if *id == ran.id));
        assert!(started, "fuse {fuse}: {ran:?} ran without its intent being durable");
    }
    for recorded in after {
        let Event::Reply { calls, .. } = &recorded.event else { continue };
        for call in calls {
            let settled = after
                .iter()
                .filter(|recorded| match &recorded.event {
                    Event::CallFinished { id, .. } | Event::CallLost { id } => *id == call.id,
                    _ => false,
                })
                .count();
            assert_eq!(settled, 1, "fuse {fuse}: {call:?}");
        }
    }
}

#[tokio::test]
async fn a_lost_call_is_told_to_the_model() {
    // The model must look for itself; pretending success or failure would both be lies.
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::open(folder.path()).unwrap();
    let id: SessionId = "s-lost".parse().unwrap();
    let script = Script(vec![thinks("I change.", &["change"]), says("Done.")]);
    // Created, input, turn, step, thought, reply, call started, and the call itself: it runs, then the power fails.
    let first = Stage::new(memory.clone(), script.clone(), 8, true);
    live(&first, &memory, &id).await.unwrap_err();
    assert_eq!(first.ran().len(), 1);
    let second = Stage::new(memory.clone(), script, usize::MAX, false);
    live(&second, &memory, &id).await.unwrap();
    assert_eq!(second.ran(), []);
    let state = State::fold(&journal(&memory, &id));
    let told = serde_json::to_string(&**state.conversation()).unwrap();
    assert!(told.contains("outcome unknown"), "{told}");
}

/// A led model that changes the wrong thing first, and the right one when it is led back.
fn led_script(command: &str) -> Script {
    let exec = |command: &str| asks("exec", serde_json::json!({ "command": command }));
    let edit = |new: &str| asks("edit", serde_json::json!({"path": "a.py", "old": "bad", "new": new}));
    Script(vec![exec("test"), edit("worse"), exec(command), edit("good"), exec("test"), says("Done.")])
}

fn files() -> Files {
    let files = Files::default();
    files.lock().unwrap().insert("a.py".to_string(), "bad".to_string());
    files
}

#[tokio::test]
async fn a_crash_at_any_effect_of_an_undone_attempt_leaves_no_file_between() {
    // Undoing is an effect like any other: cut off at any moment it is done again, and only then forgotten.
    let mut undone = 0;
    for last_effect_happens in [false, true] {
        for fuse in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let memory = Memory::open(folder.path()).unwrap();
            let id: SessionId = "s-undo".parse().unwrap();
            let files = files();
            let first = Stage::on(&files, memory.clone(), led_script("test"), fuse, last_effect_happens);
            let died = live_as(Stage::led(), &first, &memory, &id).await.is_err();
            let before = journal(&memory, &id);
            let second = Stage::on(&files, memory.clone(), led_script("test"), usize::MAX, false);
            live_as(Stage::led(), &second, &memory, &id).await.unwrap();
            let after = journal(&memory, &id);
            check(fuse, &before, &after, &first.ran(), &second.ran());
            assert_eq!(files.lock().unwrap()["a.py"], "good", "fuse {fuse}");
            let undoings =
                after.iter().filter(|recorded| matches!(&recorded.event, Event::Undone { .. })).count();
            assert!(undoings <= 1, "fuse {fuse}");
            undone += undoings;
            if !died {
                assert_eq!(undoings, 1);
                break;
            }
        }
    }
    assert!(undone > 30, "most of these lives undo the attempt: {undone}");
}

#[tokio::test]
async fn what_somebody_writes_meanwhile_is_never_undone() {
    // Somebody writes while the second check runs; the power fails right after the attempt has been judged.
    for fuse in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let id: SessionId = "s-theirs".parse().unwrap();
        let files = files();
        let stage = Stage::on(&files, memory.clone(), led_script("a.py=by a person"), fuse, true);
        assert!(live_as(Stage::led(), &stage, &memory, &id).await.is_err(), "the attempt was never judged");
        if let Some(Event::Undone { kept, .. }) = journal(&memory, &id).last().map(|last| &last.event) {
            assert_eq!(*kept, ["a.py"]);
            assert_eq!(files.lock().unwrap()["a.py"], "by a person");
            break;
        }
    }
}

#[tokio::test]
async fn a_crash_beside_the_memory_tells_and_keeps_everything_once() {
    // A note that was written before its event was is written again; only tales of what happened may stand there twice.
    let arguments = serde_json::json!({"text": "the port is 7", "kind": "fact"});
    let script = || {
        let run = serde_json::json!({"command": "cargo test"});
        Script(vec![asks("remember", arguments.clone()), asks("exec", run), says("Done.")])
    };
    for last_effect_happens in [false, true] {
        for fuse in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let memory = Memory::open(folder.path()).unwrap();
            let id: SessionId = "s-crash".parse().unwrap();
            let created = || Stage::remembering(std::path::Path::new("/nowhere"));
            let first = Stage::new(memory.clone(), script(), fuse, last_effect_happens);
            // What was said is written down first, and last what the turn taught.
            let last =
                |state: &State, event: &Event| matches!(event, Event::Learned { .. }) && !state.running();
            let died = live_until(created(), &first, &memory, &id, last).await.is_err();
            let second = Stage::new(memory.clone(), script(), usize::MAX, false);
            live_until(created(), &second, &memory, &id, last).await.unwrap();
            let after = journal(&memory, &id);
            let count = |is: fn(&Event) -> bool| after.iter().filter(|recorded| is(&recorded.event)).count();
            assert_eq!(count(|event| matches!(event, Event::Recalled { .. })), 1, "fuse {fuse}");
            assert_eq!(count(|event| matches!(event, Event::Learned { .. })), 2, "fuse {fuse}");
            let notes = memory.notes(NoteId(0), 100, &[], |_| true).unwrap();
            let of = |kind: Kind| notes.iter().filter(|(_, note)| note.kind == kind).count();
            // The command may have been cut off: then its outcome is lost, and it taught nothing.
            let lost = count(|event| matches!(event, Event::CallLost { .. }));
            assert_eq!((of(Kind::Fact), of(Kind::Procedure)), (1, 1 - lost), "fuse {fuse}: {notes:?}");
            assert!((2..=4).contains(&of(Kind::Episode)), "fuse {fuse}: {notes:?}");
            if !died {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_crash_at_any_effect_of_a_session_with_a_goal_leads_to_the_goal_all_the_same() {
    // The check is bracketed like a call: it may run again, for whoever named it said so, but never without its intent in the journal.
    let edit = |new: &str| asks("edit", serde_json::json!({"path": "a", "new": new}));
    let script = || {
        Script(vec![
            edit("bad"),
            says("Done."),
            edit("good"),
            says("Now it is done."),
            edit("good"),
            says("Now it is, really."),
        ])
    };
    let last = |_: &State, event: &Event| matches!(event, Event::TurnEnded { .. });
    let mut again = 0;
    for last_effect_happens in [false, true] {
        for fuse in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let memory = Memory::open(folder.path()).unwrap();
            let id: SessionId = "s-goal".parse().unwrap();
            let files = Files::default();
            files.lock().unwrap().insert("a".to_string(), "bad".to_string());
            let life = |fuse, happens| Stage::on(&files, memory.clone(), script(), fuse, happens);
            let live = |stage: Arc<Stage>| {
                let (memory, id) = (memory.clone(), id.clone());
                let created = Stage::created(std::path::Path::new("/nowhere"));
                async move {
                    let goal = Some(Goal::command("test"));
                    let done = live_for(goal, created, &stage, &memory, &id, last).await;
                    (done, stage.ran())
                }
            };
            let (first, mut ran) = live(life(fuse, last_effect_happens)).await;
            let (second, ran_again) = live(life(usize::MAX, false)).await;
            second.unwrap();
            ran.extend(ran_again);
            let events = journal(&memory, &id);
            let count =
                |is: &dyn Fn(&Event) -> bool| events.iter().filter(|recorded| is(&recorded.event)).count();
            // Twice where the power failed before the input it came with was durable; nobody was promised anything then.
            assert!((1..=2).contains(&count(&|event| matches!(event, Event::GoalSet { .. }))), "fuse {fuse}");
            assert_eq!(count(&|event| matches!(event, Event::Input { .. })), 1, "fuse {fuse}");
            let checked: Vec<bool> = events
                .iter()
                .filter_map(|recorded| match &recorded.event {
                    Event::GoalChecked(checked) => Some(checked.met),
                    _ => None,
                })
                .collect();
            let lost = count(&|event| matches!(event, Event::CallLost { .. }));
            // Where a change was lost, the model is told once more than otherwise.
            assert!(checked.len() <= 2 + lost && checked.len() >= 2, "fuse {fuse}: {checked:?}, {lost} lost");
            assert!(checked.iter().rev().skip(1).all(|met| !met), "fuse {fuse}: {checked:?}");
            assert_eq!(checked.last(), Some(&true), "fuse {fuse}");
            assert_eq!(files.lock().unwrap()["a"], "good", "fuse {fuse}");
            let ends = count(&|event| matches!(event, Event::TurnEnded { end: End::Done, .. }));
            assert_eq!(
                (ends, count(&|event| matches!(event, Event::TurnEnded { .. }))),
                (1, 1),
                "fuse {fuse}"
            );
            for check in (1..=checked.len()).map(|check| format!("g{check}")) {
                let runs = ran.iter().filter(|ran| ran.id == check).count();
                let begun = count(&|event| matches!(event, Event::CallStarted { id, .. } if *id == check));
                let ended = count(&|event| matches!(event, Event::CallFinished { id, .. } if *id == check));
                assert!(runs <= begun, "fuse {fuse}: {check} ran {runs} times and was begun {begun} times");
                assert_eq!(ended, 1, "fuse {fuse}: {check}");
                again += runs - 1;
            }
            let told = serde_json::to_string(&**State::fold(&events).conversation()).unwrap();
            assert_eq!(
                told.matches("the goal is not reached").count(),
                checked.len() - 1,
                "fuse {fuse}: {told}"
            );
            if first.is_ok() {
                break;
            }
        }
    }
    assert!(again > 0, "in some of these lives a check was cut off after it had run");
}
