//! What `saga top` draws: the service in two lines, its sessions in a table, and what there is to say below.

use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table, TableState};

use super::super::sessions::state_word;
use crate::host::{binary_bytes, count};
use crate::term::one_line;
use crate::wire;

/// How the service as a whole stands, by its metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    decode_per_second: f64,
    kv_bytes: f64,
    kv_budget_bytes: f64,
    memory_bytes: f64,
    processes: f64,
}

impl Figures {
    /// Those among a page of metrics, summed over models.
    pub(super) fn of(page: &str) -> Figures {
        let sum = |name: &str| -> f64 {
            let of = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
            of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Figures {
            decode_per_second: sum("saga_decode_tokens_per_second"),
            kv_bytes: sum("saga_kv_bytes"),
            kv_budget_bytes: sum("saga_kv_budget_bytes"),
            memory_bytes: sum("saga_memory_bytes"),
            processes: sum("saga_processes"),
        }
    }
}

/// What is known, and which session is chosen.
#[derive(Debug, Default)]
pub(super) struct View {
    sessions: Vec<wire::Session>,
    figures: Figures,
    /// Tokens a second, by session, of those that have sampled some between the last two looks.
    rates: BTreeMap<String, f64>,
    pub(super) selected: Option<usize>,
    /// Why the service cannot be asked. What is shown is then of some time ago.
    pub(super) away: Option<String>,
    /// What came of the last key.
    pub(super) said: Option<String>,
}

/// A column: its head, how wide it is, and the least width of a picture that has it.
struct Column {
    head: &'static str,
    width: u16,
    from: u16,
    cell: fn(&View, &wire::Session) -> String,
}

/// The order is that on the screen; on a narrow one those that tell least are left out.
static COLUMNS: [Column; 10] = [
    Column { head: "SESSION", width: 16, from: 0, cell: |_, session| session.id.clone() },
    Column { head: "STATE", width: 12, from: 0, cell: |_, session| state_word(session) },
    Column { head: "TURN", width: 5, from: 48, cell: |_, session| session.turns.to_string() },
    Column { head: "STEP", width: 5, from: 42, cell: |_, session| session.steps.to_string() },
    Column { head: "TOK/S", width: 6, from: 56, cell: |view, session| view.rate(session) },
    Column { head: "CONTEXT", width: 13, from: 72, cell: |_, session| context(session) },
    Column { head: "OUT", width: 9, from: 86, cell: |_, session| count(session.usage.output_tokens) },
    Column { head: "CALLS", width: 6, from: 94, cell: |_, session| session.tool_calls.to_string() },
    Column { head: "BUDGET", width: 14, from: 110, cell: |_, session| budget(session) },
    Column { head: "TITLE", width: 20, from: 64, cell: |_, session| title(session) },
];

impl View {
    /// How everything stands now.
    pub(super) fn update(&mut self, sessions: Vec<wire::Session>, figures: Figures) {
        let chosen = self.chosen().map(|session| session.id.clone());
        let before = std::mem::take(&mut self.sessions);
        self.rates = sessions
            .iter()
            .filter_map(|now| {
                let then = before.iter().find(|then| then.id == now.id)?;
                let tokens = now.usage.output_tokens.checked_sub(then.usage.output_tokens)?;
                let ms = now.usage.decode_ms.checked_sub(then.usage.decode_ms).filter(|ms| *ms > 0)?;
                Some((now.id.clone(), tokens as f64 * 1000.0 / ms as f64))
            })
            .collect();
        (self.sessions, self.figures, self.away) = (sessions, figures, None);
        // Those that work come first; among others the order is as it came, newest first.
        self.sessions.sort_by_key(|session| match session.status {
            wire::Status::Running => 0,
            wire::Status::Asking => 1,
            wire::Status::Failed | wire::Status::Idle => 2,
        });
        let place = chosen.and_then(|id| self.sessions.iter().position(|session| session.id == id));
        self.selected = place.or(self.sessions.first().map(|_| 0));
    }

    pub(super) fn up(&mut self) {
        self.selected = self.selected.map(|chosen| chosen.saturating_sub(1));
    }

    pub(super) fn down(&mut self) {
        let last = self.sessions.len().saturating_sub(1);
        self.selected = self.selected.map(|chosen| (chosen + 1).min(last));
    }

    pub(super) fn chosen(&self) -> Option<&wire::Session> {
        self.sessions.get(self.selected?)
    }

    /// Lines that a picture of all of it takes.
    pub(super) fn height(&self) -> u16 {
        u16::try_from(self.sessions.len().max(1) + 5).unwrap_or(u16::MAX)
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(3), Constraint::Min(0), Constraint::Length(1)]).areas(area);
        let old = self.away.is_some();
        frame.render_widget(Paragraph::new(self.head()), head);
        if self.sessions.is_empty() {
            let nothing = if old { "" } else { "no sessions yet; `saga run \"…\"` makes one" };
            frame.render_widget(Paragraph::new(nothing), body);
        } else {
            let columns: Vec<&Column> = COLUMNS.iter().filter(|column| area.width >= column.from).collect();
            let rows = self.sessions.iter().map(|session| {
                let cells = columns.iter().map(|column| one_line(&(column.cell)(self, session), 200));
                Row::new(cells.collect::<Vec<_>>()).style(ink(session.status))
            });
            let widths = columns.iter().map(|column| match column.head {
                // It takes what the others leave.
                "TITLE" => Constraint::Min(column.width),
                _ => Constraint::Length(column.width),
            });
            let heads = Row::new(columns.iter().map(|column| column.head).collect::<Vec<_>>());
            let faint = if old { Modifier::DIM } else { Modifier::empty() };
            let table = Table::new(rows, widths)
                .header(heads.style(Style::new().add_modifier(Modifier::BOLD)))
                .style(Style::new().add_modifier(faint))
                .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
            let mut state = TableState::new().with_selected(self.selected);
            frame.render_stateful_widget(table, body, &mut state);
        }
        frame.render_widget(Paragraph::new(self.foot()), foot);
    }

    fn head(&self) -> Vec<Line<'static>> {
        let of =
            |status: wire::Status| self.sessions.iter().filter(|session| session.status == status).count();
        let (running, asking) = (of(wire::Status::Running), of(wire::Status::Asking));
        let asks = if asking > 0 { format!(", {asking} ask") } else { String::new() };
        let Figures { decode_per_second, kv_bytes, kv_budget_bytes, memory_bytes, processes } = self.figures;
        let bytes = |bytes: f64| binary_bytes(bytes as u64);
        vec![
            Line::from(format!("saga · {} sessions, {running} at work{asks}", self.sessions.len())),
            Line::from(format!(
                "{decode_per_second:.1} tokens/s · KV {} of {} · memory {} · {processes} processes",
                bytes(kv_bytes),
                bytes(kv_budget_bytes),
                bytes(memory_bytes)
            )),
            Line::default(),
        ]
    }

    fn foot(&self) -> Line<'static> {
        match (&self.away, &self.said) {
            (Some(why), _) => {
                Line::styled(format!("{}; asking again", one_line(why, 200)), Style::new().fg(Color::Red))
            }
            (None, Some(said)) => Line::from(one_line(said, 200)),
            (None, None) => Line::styled(
                "↑↓ choose  enter follow  i interrupt  q end",
                Style::new().add_modifier(Modifier::DIM),
            ),
        }
    }

    fn rate(&self, session: &wire::Session) -> String {
        self.rates.get(&session.id).map(|rate| format!("{rate:.1}")).unwrap_or_default()
    }
}

fn ink(status: wire::Status) -> Style {
    match status {
        wire::Status::Running => Style::new().fg(Color::Green),
        wire::Status::Asking => Style::new().fg(Color::Yellow),
        wire::Status::Failed => Style::new().fg(Color::Red),
        wire::Status::Idle => Style::new(),
    }
}

/// How much of its context a session's prompt takes: `12,345 (38 %)`.
fn context(session: &wire::Session) -> String {
    let tokens = session.prompt_tokens;
    match session.context_tokens.filter(|window| *window > 0) {
        Some(window) => format!("{} ({} %)", count(tokens), tokens * 100 / window),
        None => count(tokens),
    }
}

/// What of its session's limits is used: the one that is nearest.
fn budget(session: &wire::Session) -> String {
    let wire::Budget { session_output_tokens_max, session_cost_max, .. } = session.budget;
    let tokens = session_output_tokens_max.filter(|most| *most > 0).map(|most| {
        let used = session.usage.output_tokens;
        (used as f64 / most as f64, format!("{} % tokens", used * 100 / most))
    });
    let cost = session_cost_max.filter(|most| *most > 0.0).map(|most| {
        let share = session.usage.cost / most;
        (share, format!("{:.0} % cost", share * 100.0))
    });
    let nearest = [tokens, cost].into_iter().flatten().max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.map(|(_, words)| words).unwrap_or_default()
}

fn title(session: &wire::Session) -> String {
    session.title.as_deref().or(session.error.as_deref()).unwrap_or_default().to_string()
}
