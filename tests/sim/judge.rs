//! The lines that are always true, each as a check of a history. Line 9 is held by the engine's tests against its plain kernels; that recalled text is
//! never learned again (the second half of 10) by `it/remembering.rs` and `it/poison.rs`.

use std::collections::{BTreeMap, BTreeSet};

use agent::{End, Event, Message, Recorded, State};

use crate::world::{Lasting, MARK, created, journal};

/// What is wrong with a history that has come to rest, by the line it breaks.
pub(crate) fn judge(lasting: &Lasting, accepted: &BTreeMap<String, String>) -> Vec<String> {
    let events = journal(&lasting.journal);
    let mut wrong = lasting.complaints.clone();
    let mut say = |line: u8, what: String| wrong.push(format!("line {line}: {what}"));
    intents(lasting, &events, &mut say);
    one_driver(&events, &mut say);
    prompts(lasting, &events, &mut say);
    tokens(lasting, &events, &mut say);
    calls(lasting, &events, &mut say);
    bounds(&events, &mut say);
    read_again(&events, &mut say);
    data(&events, &mut say);
    told(&events, accepted, &mut say);
    wrong
}

type Say<'a> = dyn FnMut(u8, String) + 'a;

/// 2. Intent before effect.
fn intents(lasting: &Lasting, events: &[Recorded], say: &mut Say<'_>) {
    for ran in &lasting.ran {
        let durable = events.iter().take(ran.after);
        let meant = durable
            .into_iter()
            .any(|recorded| matches!(&recorded.event, Event::CallStarted { id, .. } if *id == ran.call.id));
        if !meant {
            say(2, format!("{} ran before its intent was durable", ran.call.id));
        }
    }
}

/// 3. One driver, which alone appends: turns and steps are counted on, and what is settled stays settled.
fn one_driver(events: &[Recorded], say: &mut Say<'_>) {
    let (mut turn, mut step, mut open) = (0, 0, false);
    let mut settled = BTreeSet::new();
    for Recorded { event, seq, .. } in events {
        match event {
            Event::TurnStarted { turn: next } => {
                if *next != turn + 1 || open {
                    say(3, format!("turn {next} begins at {} after turn {turn}", seq.0));
                }
                (turn, open) = (*next, true);
            }
            Event::TurnEnded { turn: ended, .. } => {
                if *ended != turn || !open {
                    say(3, format!("turn {ended} ends at {} while turn {turn} runs", seq.0));
                }
                open = false;
            }
            Event::StepStarted { step: next } => {
                if *next <= step {
                    say(3, format!("step {next} comes after step {step}"));
                }
                step = *next;
            }
            Event::CallFinished { id, .. } | Event::CallLost { id } | Event::CallDenied { id, .. }
                if !settled.insert(id.clone()) =>
            {
                say(3, format!("call {id} is settled twice"));
            }
            _ => {}
        }
    }
}

/// 4. The prompt is a pure function of the journal, and grows only at its end until room is made.
fn prompts(lasting: &Lasting, events: &[Recorded], say: &mut Say<'_>) {
    let mut before: Option<(usize, &Vec<Message>)> = None;
    let (mut folded, mut at) = (State::default(), 0);
    for (place, shown) in &lasting.prompts {
        events[at..*place].iter().for_each(|event| folded.apply(event));
        at = *place;
        if **folded.conversation() != *shown {
            say(4, format!("at {place} the mind is shown something else than the journal tells"));
        }
        if let Some((earlier, prompt)) = before {
            let cut = events[earlier..*place]
                .iter()
                .any(|recorded| matches!(recorded.event, Event::Compacted { .. } | Event::Uncompacted));
            if !cut && !shown.starts_with(prompt) {
                say(4, format!("between {earlier} and {place} the prompt has changed"));
            }
        }
        before = Some((*place, shown));
    }
}

/// 5. Tokens are kept as sampled.
fn tokens(lasting: &Lasting, events: &[Recorded], say: &mut Say<'_>) {
    for Recorded { event, .. } in events {
        let Event::Reply { step, tokens, stop: agent::Stop::End | agent::Stop::Length, .. } = event else {
            continue;
        };
        if !lasting.sampled.iter().any(|(at, sampled)| at == step && sampled == tokens) {
            say(5, format!("the reply of step {step} has tokens that nobody sampled"));
        }
    }
    let state = State::fold(events);
    let written: Vec<&Vec<u32>> = events
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::Reply { tokens, .. } => Some(tokens),
            _ => None,
        })
        .collect();
    for message in state.left_out().iter().chain(state.conversation().iter()) {
        if let Message::Assistant { tokens, .. } = message
            && !written.contains(&tokens)
        {
            say(5, "the prompt has a reply that the journal has not".to_string());
        }
    }
}

/// 6. What reaches a tool was asked for in a reply, is a tool's, and was allowed. And nothing that may have changed something runs twice.
fn calls(lasting: &Lasting, events: &[Recorded], say: &mut Say<'_>) {
    let created = created();
    let mut once = BTreeSet::new();
    for ran in &lasting.ran {
        let call = &ran.call;
        let asked = events.iter().any(|recorded| match &recorded.event {
            Event::Reply { calls, .. } => calls.contains(call),
            _ => false,
        });
        if !asked || !created.tools.iter().any(|tool| tool.name == call.name) {
            say(6, format!("{} ran and no reply asks for it", call.id));
        }
        let approved = events.iter().take(ran.after).any(|recorded| {
            matches!(&recorded.event, Event::ApprovalGiven { id, allowed: true, .. } if *id == call.id)
        });
        match call.name.as_str() {
            "forbidden" => say(6, format!("{} ran against the rules", call.id)),
            "wipe" if !approved => {
                say(6, format!("{} cannot be taken back and nobody approved of it", call.id))
            }
            _ => {}
        }
        if call.name != "look" && !once.insert(call.id.clone()) {
            say(2, format!("{} ran twice", call.id));
        }
    }
}

/// 7. Everything has a bound, and an interrupt ends the turn before the mind is asked again.
fn bounds(events: &[Recorded], say: &mut Say<'_>) {
    let most = created().budget.steps_max;
    let (mut steps, mut interrupted) = (0, false);
    for Recorded { event, seq, .. } in events {
        match event {
            Event::TurnStarted { .. } => (steps, interrupted) = (0, false),
            Event::Interrupted => interrupted = true,
            Event::StepStarted { .. } => {
                steps += 1;
                if interrupted {
                    say(7, format!("step at {} in a turn that was interrupted", seq.0));
                }
            }
            // One step more may have been cut off by the power.
            Event::TurnEnded { end: End::Budget { .. }, .. } if steps < most => {
                say(7, format!("the budget ends a turn of {steps} steps at {}", seq.0));
            }
            _ => {}
        }
        if steps > most {
            say(7, format!("{steps} steps in one turn at {}", seq.0));
        }
    }
}

/// 8. and 1. Whatever is known beside the journal can be had from it again: any part of it folds, and the whole of it to what its parts fold to.
fn read_again(events: &[Recorded], say: &mut Say<'_>) {
    let whole = State::fold(events);
    let mut grown = State::default();
    events.iter().for_each(|event| grown.apply(event));
    if format!("{whole:?}") != format!("{grown:?}") {
        say(8, "the fold depends on how it is made".to_string());
    }
    if whole.waiting() > 0 || whole.running() {
        say(1, format!("the session rests with something undone: {:?}", whole.next()));
    }
}

/// 10. What a tool says is told as what a tool says.
fn data(events: &[Recorded], say: &mut Say<'_>) {
    let state = State::fold(events);
    for message in state.conversation().iter() {
        let (Message::System { text, .. } | Message::User { text } | Message::Assistant { text, .. }) =
            message
        else {
            continue;
        };
        if text.contains(MARK) {
            say(10, "what a tool has said is told as somebody's words".to_string());
        }
    }
}

/// 2. What people were told is accepted is told to the mind, in some turn.
fn told(events: &[Recorded], accepted: &BTreeMap<String, String>, say: &mut Say<'_>) {
    let state = State::fold(events);
    for (id, text) in accepted {
        if state.input(id).is_none_or(|(_, written)| written != text) {
            say(2, format!("input {id} was accepted and is lost"));
        }
        let heard = state.left_out().iter().chain(state.conversation().iter()).any(|message| match message {
            Message::User { text: said } => said.contains(text.as_str()),
            Message::System { .. } | Message::Assistant { .. } | Message::Results { .. } => false,
        });
        if !heard {
            say(2, format!("input {id} was accepted and never told"));
        }
    }
}
