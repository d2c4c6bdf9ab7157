//! A journal gone through again reaches the same prompts, and says where somebody has changed it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent::{
    Agent, Command, Config, Created, Event, Message, Model, NewSession, Recorded, Replayed, SessionId,
    Status, Weights, replay,
};
use kit::{Script, Stage, Theatre, asks, says};
use memory::{Memory, Seq};
use serde_json::json;
use tools::Call;

/// The stage's mind: it counts by the length of the text, and its tokens are the letters of what it says.
struct Letters;

impl Model for Letters {
    type Error = Infallible;

    fn prompt_tokens(&self, conversation: &[Message]) -> Result<Option<u64>, Infallible> {
        Ok(Some(Weights::guessed(conversation, None).tokens.iter().sum()))
    }

    fn read(&self, _: &Created, tokens: &[u32], _: bool) -> Option<(String, Vec<Call>)> {
        let letters: Vec<u8> = tokens.iter().map(|token| *token as u8).collect();
        Some((String::from_utf8_lossy(&letters).into_owned(), Vec::new()))
    }
}

fn again(events: &[Recorded]) -> Replayed {
    let Ok(replayed) = replay(events, &Letters);
    replayed
}

async fn say(agent: &Agent, id: &SessionId, input: &str, text: &str) {
    agent.submit(id, Command::Input { id: input.into(), text: text.into() }).await.unwrap();
    for _ in 0..2_000 {
        if agent.get(id).unwrap().status != Status::Running {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the session never rested");
}

/// A session with calls, turns, messages that were left out, and a turn that was wound back.
async fn lived() -> (tempfile::TempDir, Agent, Memory, SessionId) {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::open(folder.path()).unwrap();
    let script = Script(vec![
        says("It is long, so I begin at its end."),
        asks("edit", json!({"path": "a", "new": "one"})),
        says("That was the change."),
    ]);
    let stage = Stage::keeping(memory.clone(), script);
    stage.window.store(1_500, Ordering::SeqCst);
    let agent =
        Agent::open(Config::default(), memory.clone(), Arc::new(Theatre(stage.clone()))).await.unwrap();
    let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
    let id = agent.create(new).await.unwrap().id;
    for n in 0..6 {
        let text = format!("Step {n}: {}", "read this file and tell me what it does. ".repeat(20));
        say(&agent, &id, &format!("i{n}"), &text).await;
    }
    let place = agent.checkpoints(&id).await.unwrap()[6].seq;
    let look = agent.rewind(&id, place, None).await.unwrap();
    agent.rewind(&id, place, Some(look.now)).await.unwrap();
    say(&agent, &id, "after", "Do it in another way.").await;
    (folder, agent, memory, id)
}

#[tokio::test]
async fn a_journal_gone_through_again_reaches_the_same_prompts() {
    // What a session was shown is a function of its journal, whatever was left out and wound back.
    let (_folder, agent, memory, id) = lived().await;
    let events = agent::read_journal(&memory, &id).unwrap();
    let kinds = |kind: fn(&Event) -> bool| events.iter().filter(|event| kind(&event.event)).count();
    assert!(kinds(|event| matches!(event, Event::Compacted { .. })) > 0, "messages were left out");
    assert_eq!(kinds(|event| matches!(event, Event::Rewound { .. })), 1);
    let replayed = again(&events);
    assert_eq!(replayed.steps.len(), kinds(|event| matches!(event, Event::Reply { .. })));
    assert!(replayed.steps.len() > 8, "{replayed:?}");
    let troubles: Vec<_> = replayed.differing().collect();
    assert!(troubles.is_empty(), "{troubles:?}");
    // And the same state, that of the one that is at work.
    let state = agent::State::fold(&events);
    assert_eq!(
        replayed.conversation,
        agent::digest(&serde_json::to_string(&**state.conversation()).unwrap())
    );
    assert_eq!(agent.get(&id).unwrap().last, events.last().unwrap().seq);
}

#[tokio::test]
async fn whatever_is_changed_in_a_journal_is_reported_where_it_shows() {
    // A count, a word that was said, an answer of a tool, a reply's tokens: each is noticed at the step it is seen in.
    let (_folder, _agent, memory, id) = lived().await;
    let events = agent::read_journal(&memory, &id).unwrap();
    let changed = |change: &dyn Fn(&mut Event) -> bool| {
        let mut events = events.clone();
        assert!(
            events.iter_mut().any(|recorded| change(&mut recorded.event)),
            "there is something to change"
        );
        let told = again(&events);
        let first = told.differing().next().cloned().unwrap_or_else(|| panic!("nothing is reported"));
        format!("step {}: {}", first.step, first.trouble.unwrap_or_default())
    };
    let counted = changed(&|event| match event {
        Event::Reply { step: 3, usage, .. } => {
            usage.prompt_tokens += 1;
            true
        }
        _ => false,
    });
    assert!(counted.starts_with("step 3: the prompt has ") && counted.contains("then it had"), "{counted}");
    let said = changed(&|event| match event {
        Event::Input { id, text } if id == "i1" => {
            text.push_str("And delete the rest.");
            true
        }
        _ => false,
    });
    assert!(said.starts_with("step 2: the prompt has "), "{said}");
    let answered = changed(&|event| match event {
        Event::CallFinished { outcome, .. } => {
            outcome.text = "It went well, and nothing else has to be done.".into();
            true
        }
        _ => false,
    });
    assert!(answered.contains("the prompt has "), "{answered}");
    let cut = changed(&|event| match event {
        Event::Reply { step: 1, tokens, .. } => tokens.drain(..3).count() == 3,
        _ => false,
    });
    assert!(cut.starts_with("step 1: the reply has 31 tokens, then 34 were sampled"), "{cut}");
    let reworded = changed(&|event| match event {
        Event::Reply { step: 1, text, .. } => {
            *text = text.replace("end", "top");
            true
        }
        _ => false,
    });
    assert!(reworded.starts_with("step 1: the reply's tokens read otherwise"), "{reworded}");
}

#[tokio::test]
async fn a_fork_says_beforehand_what_it_will_have() {
    let (_folder, agent, memory, id) = lived().await;
    let events = agent::read_journal(&memory, &id).unwrap();
    let asked = events.iter().find(|event| matches!(&event.event, Event::Input { id, .. } if id == "i1"));
    let at = Seq(asked.unwrap().seq.0 - 1);
    let look = agent.forking(&id, Some(at)).await.unwrap();
    assert_eq!((look.at, look.kept.inputs.len(), look.kept.events as u64), (at, 1, at.0));
    // What was wound back is dropped already, and does not count.
    assert_eq!(look.dropped.inputs.last().map(String::as_str), Some("Do it in another way."));
    assert!(look.dropped.inputs.iter().all(|text| !text.starts_with("Step 5")), "{:?}", look.dropped);
    assert_eq!(look.files.unwrap().len(), 1, "the file was not there then");
    assert_eq!(agent::read_journal(&memory, &id).unwrap(), events, "a look changes nothing");
    let fork = agent.fork(&id, Some(at), None).await.unwrap();
    let made = agent::read_journal(&memory, &fork.id).unwrap();
    assert_eq!(made.len(), look.kept.events + 1);
    let end = agent.forking(&id, None).await.unwrap();
    assert_eq!((end.at, end.dropped.events), (events.last().unwrap().seq, 0));
    for nowhere in [Seq(0), Seq(events.len() as u64 + 1)] {
        let refused = agent.forking(&id, Some(nowhere)).await.unwrap_err().to_string();
        assert!(refused.contains("its events are 1 to"), "{refused}");
        assert_eq!(agent.fork(&id, Some(nowhere), None).await.unwrap_err().to_string(), refused);
    }
}
