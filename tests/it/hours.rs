//! A session outlives its model's context: what matters is carried over, whatever is left out can be seen again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent::{Agent, Command, Config, End, Event, Message, NewSession, Recorded, SessionId, State, Status};
use kit::{Script, Stage, Theatre, asks, says};
use memory::{Memory, Seq};
use serde_json::json;

struct Service {
    folder: tempfile::TempDir,
    memory: Memory,
    stage: Arc<Stage>,
    agent: Agent,
}

impl Service {
    async fn new(window: u64, script: Vec<agent::Thought>) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        let stage = Stage::lasting(memory.clone(), Script(script), Duration::ZERO);
        stage.window.store(window, Ordering::SeqCst);
        let worlds = Arc::new(Theatre(stage.clone()));
        let agent = Agent::open(Config::default(), memory.clone(), worlds).await.unwrap();
        Service { folder, memory, stage, agent }
    }

    async fn session(&self) -> SessionId {
        let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
        self.agent.create(new).await.unwrap().id
    }

    async fn submit(&self, id: &SessionId, command: Command) {
        self.agent.submit(id, command).await.unwrap();
    }

    /// Says something and waits for the end of the turn.
    async fn say(&self, id: &SessionId, text: &str) -> End {
        let turns = self.agent.get(id).unwrap().turns;
        self.submit(id, Command::Input { id: format!("{turns}"), text: text.into() }).await;
        for _ in 0..60_000 {
            let info = self.agent.get(id).unwrap();
            if info.turns > turns
                && info.status != Status::Running
                && let Some(end) = info.ended
            {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the turn never ended: {:?}", self.agent.get(id));
    }

    /// Waits until something of the sort has been written.
    async fn until(&self, id: &SessionId, sort: impl Fn(&Event) -> bool) -> Vec<Recorded> {
        for _ in 0..5_000 {
            let events = self.events(id).await;
            if events.iter().any(|recorded| sort(&recorded.event)) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("it was never written: {:?}", self.agent.get(id));
    }

    async fn events(&self, id: &SessionId) -> Vec<Recorded> {
        self.agent.events(id, Seq(0), usize::MAX).await.unwrap()
    }
}

fn look(bytes: u64) -> agent::Thought {
    asks("safe_look", json!({ "bytes": bytes }))
}

fn prompt(state: &State) -> String {
    let text = |message: &Message| match message {
        Message::System { text, .. } | Message::User { text } | Message::Assistant { text, .. } => {
            text.clone()
        }
        Message::Results { answers } => answers.iter().map(|answer| answer.text.clone()).collect(),
    };
    state.conversation().iter().map(text).collect::<Vec<_>>().join("\n")
}

fn compactions(events: &[Recorded]) -> usize {
    events.iter().filter(|recorded| matches!(recorded.event, Event::Compacted { .. })).count()
}

#[tokio::test]
async fn a_session_goes_on_past_its_context_and_keeps_what_matters() {
    // Two looks and an answer, again and again: three times what the context holds, and the first words still count.
    let script = vec![look(4_000), look(4_000), says("Seen.")];
    let service = Service::new(10_000, script).await;
    let id = service.session().await;
    assert_eq!(service.say(&id, "Mind that the deploy key is called blue-heron.").await, End::Done);
    for n in 1..=20 {
        assert_eq!(service.say(&id, &format!("Look again, number {n}.")).await, End::Done, "{n}");
    }
    let events = service.until(&id, |event| matches!(event, Event::Compacted { .. })).await;
    assert!(compactions(&events) >= 2, "{}", compactions(&events));
    let state = State::fold(&events);
    let prompt = prompt(&state);
    assert!(prompt.contains("blue-heron") && prompt.contains("number 20"), "{prompt}");
    assert!(prompt.contains("All is well in src/here.rs.") || prompt.contains("- Seen."), "{prompt}");
    // Never more than the window, and no step was thought in vain.
    assert!(!events.iter().any(|recorded| matches!(recorded.event, Event::Full { .. })));
    let largest = events.iter().filter_map(|recorded| match &recorded.event {
        Event::Reply { usage, .. } => Some(usage.prompt_tokens),
        _ => None,
    });
    assert!(largest.max().unwrap() <= 10_000);
    // What the fold of the journal says is what the session goes on from.
    let info = service.agent.get(&id).unwrap();
    assert_eq!(info.compactions, state.compactions().len());
    let gauge = service.agent.gauge(&id).await.unwrap();
    assert_eq!(gauge.segments.len(), state.conversation().len());
    assert_eq!(gauge.left_out.len(), state.left_out().len());
    assert_eq!(gauge.segments[1].kind, agent::SegmentKind::Digest);
}

#[tokio::test]
async fn what_was_left_out_is_shown_again_as_it_was() {
    let service = Service::new(100_000, vec![look(4_000), look(4_000), says("Seen.")]).await;
    let id = service.session().await;
    for n in 1..=6 {
        service.say(&id, &format!("Look, number {n}.")).await;
    }
    let before = State::fold(&service.events(&id).await).conversation().clone();
    // There is room enough, so only somebody's wish makes more.
    service.submit(&id, Command::Compact { focus: Some("the numbers".into()) }).await;
    let events = service
        .until(&id, |event| matches!(event, Event::NotCompacted { .. } | Event::Compacted { .. }))
        .await;
    assert_eq!(compactions(&events), 0, "the last 30 % of the window hold all of it");

    service.stage.window.store(16_000, Ordering::SeqCst);
    for focus in ["the numbers", "again"] {
        service.submit(&id, Command::Compact { focus: Some(focus.into()) }).await;
        service.until(&id, |event| matches!(event, Event::Compacted { .. })).await;
    }
    let made = State::fold(&service.events(&id).await);
    assert!(made.conversation().len() < before.len() && !made.left_out().is_empty());
    for _ in made.compactions() {
        service.submit(&id, Command::Uncompact).await;
    }
    let state = State::fold(&service.events(&id).await);
    assert_eq!(*state.conversation(), before);
    assert!(state.left_out().is_empty());
    let refused = service.agent.submit(&id, Command::Uncompact).await;
    assert!(matches!(refused, Err(agent::Error::BadRequest(_))), "{refused:?}");
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_makes_room_at_once_and_an_input_that_never_fits_ends_cleanly() {
    let service = Service::new(4_000, vec![look(9_000), says("Seen.")]).await;
    let id = service.session().await;
    assert_eq!(service.say(&id, "Look.").await, End::Done);
    // Three such answers do not fit together.
    for _ in 0..3 {
        assert_eq!(service.say(&id, "Look.").await, End::Done);
    }
    let large = "y".repeat(20_000);
    let end = service.say(&id, &large).await;
    assert!(matches!(end, End::ContextFull { limit: 4_000, .. }), "{end:?}");
    // The session is not lost for it.
    assert_eq!(service.say(&id, "Never mind, look.").await, End::Done);
}

#[tokio::test]
async fn a_restart_makes_no_room_by_itself_and_a_rewound_compaction_never_was() {
    let service = Service::new(16_000, vec![look(4_000), look(4_000), says("Seen.")]).await;
    let id = service.session().await;
    for n in 1..=3 {
        service.say(&id, &format!("Look, number {n}.")).await;
    }
    service.submit(&id, Command::Compact { focus: None }).await;
    let events = service.until(&id, |event| matches!(event, Event::Compacted { .. })).await;
    service.agent.stop().await;
    let worlds = Arc::new(Theatre(service.stage.clone()));
    let agent = Agent::open(Config::default(), service.memory.clone(), worlds).await.unwrap();
    let after = agent.events(&id, Seq(0), usize::MAX).await.unwrap();
    assert_eq!(after.len(), events.len());
    let cut = events.iter().position(|recorded| matches!(recorded.event, Event::Compacted { .. })).unwrap();
    assert!(State::fold(&events[..cut]).compactions().is_empty());
    assert!(service.folder.path().exists());
}

/// Bytes that this process has in memory.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and prints figures; run by `just hours`"]
async fn twelve_hours_in_one_session_keep_its_first_words_and_stay_quick() {
    // 130 turns of 38 looks of 4 KB: 20,000 events, five million tokens through a context of one million.
    let mut script: Vec<agent::Thought> = (0..38).map(|_| look(4_300)).collect();
    script.push(says("Seen."));
    let service = Service::new(1_048_576, script).await;
    let id = service.session().await;
    let mut turn =
        "Mind that the deploy key is called blue-heron, and write the report at the end.".to_string();
    let (mut events, mut n) = (0, 0);
    while events < 20_000 {
        assert_eq!(service.say(&id, &turn).await, End::Done);
        n += 1;
        turn = format!("Look again, number {n}.");
        events = service.agent.get(&id).unwrap().last.0;
    }
    let all = service.events(&id).await;
    let rss = resident_bytes();
    let state = State::fold(&all);
    let through: u64 = state
        .left_out()
        .iter()
        .chain(state.conversation().iter())
        .map(|message| match message {
            Message::Results { answers } => answers.iter().map(|answer| answer.text.len() as u64 / 4).sum(),
            Message::System { .. } | Message::User { .. } | Message::Assistant { .. } => 0,
        })
        .sum();
    let prompt = prompt(&state);
    assert!(prompt.contains("blue-heron") && prompt.contains("write the report at the end"));
    assert!(compactions(&all) >= 4, "{}", compactions(&all));
    // Between a call's start and its end nothing is waited for but the disk, twice.
    let began = std::time::Instant::now();
    let journal = service.memory.journal(id.as_str()).unwrap();
    let mut appends: Vec<Duration> = (0..500)
        .map(|_| {
            let began = std::time::Instant::now();
            let event = Event::StepStarted { step: 1 };
            journal.append(&agent::encode(0, &event)).unwrap();
            began.elapsed()
        })
        .collect();
    appends.sort();
    println!("500 appends in {:?}: p50 {:?}, p99 {:?}", began.elapsed(), appends[250], appends[494]);
    service.agent.stop().await;
    let began = std::time::Instant::now();
    let worlds = Arc::new(Theatre(service.stage.clone()));
    let agent = Agent::open(Config::default(), service.memory.clone(), worlds).await.unwrap();
    let opened = began.elapsed();
    let began = std::time::Instant::now();
    assert_eq!(agent.events(&id, Seq(0), 500).await.unwrap().len(), 500);
    let page = began.elapsed();
    println!(
        "{} events, {} compactions, {through} tokens of results; {} MB resident; opened in {opened:?}; the first 500 events in {page:?}",
        all.len(),
        compactions(&all),
        rss / 1_000_000
    );
}
