//! What a session reached for stands in its journal, with the call that ran meanwhile.

use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, Command, Config, Event, NewSession, State};
use kit::{Script, Stage, Theatre, asks, says};
use memory::{Memory, Seq};
use serde_json::json;
use tools::egress::{Contact, Way};

fn contact(host: &str, allowed: bool) -> Contact {
    Contact {
        host: host.into(),
        port: 443,
        address: allowed.then(|| "192.0.2.1".parse().unwrap()),
        way: Way::Connect,
        allowed,
        rule: if allowed { format!("{host}:443") } else { "it is not on the allow-list".into() },
        secret: false,
        times: 2,
    }
}

#[tokio::test]
async fn what_was_reached_for_is_written_down_once_and_by_call() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::open(folder.path()).unwrap();
    let script = Script(vec![asks("change", json!({})), asks("change", json!({})), says("Done.")]);
    let stage = Stage::lasting(memory.clone(), script, Duration::ZERO);
    // Before any call: a command in the background, say.
    stage.reached.lock().unwrap().push(contact("before.test", false));
    stage.reaches.lock().unwrap().extend([contact("a.test", true), contact("b.test", false)]);
    let agent = Agent::open(Config::default(), memory, Arc::new(Theatre(stage.clone()))).await.unwrap();
    let new = NewSession { workspace: "/nowhere".into(), ..NewSession::default() };
    let id = agent.create(new).await.unwrap().id;
    agent.submit(&id, Command::Input { id: "1".into(), text: "Build it.".into() }).await.unwrap();
    let events = loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if agent.get(&id).unwrap().ended.is_some() {
            break agent.events(&id, Seq(0), 1_000).await.unwrap();
        }
    };
    let told: Vec<String> = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::Egress { id, contacts, more } => {
                let hosts: Vec<&str> = contacts.iter().map(|contact| contact.host.as_str()).collect();
                Some(format!("{} {} {more}", id.as_deref().unwrap_or("-"), hosts.join(",")))
            }
            Event::CallStarted { id, .. } => Some(format!("{id} started")),
            Event::CallFinished { id, .. } => Some(format!("{id} finished")),
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [
            "- before.test 0",
            "c1.1 started",
            "c1.1 a.test,b.test 0",
            "c1.1 finished",
            "c2.1 started",
            "c2.1 finished",
        ]
    );
    // It is for people: what the model is told is the same without it.
    let without: Vec<_> =
        events.iter().filter(|recorded| !matches!(recorded.event, Event::Egress { .. })).cloned().collect();
    assert_eq!(State::fold(&events).conversation(), State::fold(&without).conversation());
}
