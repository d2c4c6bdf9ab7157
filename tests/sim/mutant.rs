//! Worlds that break a promise, so that the judge is seen to notice.

/// What is wrong with a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// An outcome is acknowledged and not written.
    ForgetsEvents,
    /// An event is acknowledged before it is written.
    WritesLater,
    /// An event that was written is changed.
    EditsEvents,
    /// The mind is shown something else than the journal tells.
    ShowsElse,
    /// Other tokens are written than were sampled.
    SamplesElse,
    /// What may have changed something is run again.
    RunsAgain,
    /// Nobody holds calls against the rules.
    NoRules,
    /// Two drive one session.
    TwoDrivers,
    /// People are told that their words are safe before they are.
    AnswersEarly,
}

impl Mutant {
    pub(crate) const ALL: [Mutant; 9] = [
        Mutant::ForgetsEvents,
        Mutant::WritesLater,
        Mutant::EditsEvents,
        Mutant::ShowsElse,
        Mutant::SamplesElse,
        Mutant::RunsAgain,
        Mutant::NoRules,
        Mutant::TwoDrivers,
        Mutant::AnswersEarly,
    ];
}
