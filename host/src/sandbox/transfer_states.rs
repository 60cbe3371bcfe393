//! The states of a transfer (see `transfer`), each with the only changes that it can go through.

/// The body of a response, seen from the guest call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BodyState {
    Open,
    /// It is the request's body, which the guest only passed on: it needs the
    /// guest no more, and no core.
    PassedOn,
    /// Its last frame was handed over, or taken out of the guest's hands.
    Over,
    /// The client left, or the transfer broke.
    Abandoned,
}

impl BodyState {
    const ALL: [BodyState; 4] = [BodyState::Open, BodyState::PassedOn, BodyState::Over, BodyState::Abandoned];

    pub(super) fn from_number(number: u8) -> BodyState {
        BodyState::ALL[number as usize]
    }

    /// The state after it was told `next`, if that changes anything: a body that has ended
    /// stays as it ended, and one that was passed on does not open again.
    pub(super) fn becoming(self, next: BodyState) -> Option<BodyState> {
        let changes = match self {
            BodyState::Open => next != BodyState::Open,
            BodyState::PassedOn => next.has_ended(),
            BodyState::Over | BodyState::Abandoned => false,
        };
        changes.then_some(next)
    }

    pub(super) fn has_ended(self) -> bool {
        matches!(self, BodyState::Over | BodyState::Abandoned)
    }
}

/// The guest, seen from the bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum GuestState {
    /// It is under way, and not running in this moment: what reads the request's body now is
    /// the response's.
    Rests,
    Runs,
    /// It is to be left where it is: one of `wasi:http` 0.3 that has answered ends when it is
    /// run next.
    Cut,
    /// It runs for the last time.
    RunsOut,
    /// It has ended, but its store is still there: what it sent of the body will end now,
    /// or never.
    Ended,
    /// The store goes, and the body with it: its end means nothing.
    Gone,
}

/// What the driver does with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Run,
    Rest,
    Cut,
    End,
    Leave,
}

impl GuestState {
    const ALL: [GuestState; 6] = [
        GuestState::Rests,
        GuestState::Runs,
        GuestState::Cut,
        GuestState::RunsOut,
        GuestState::Ended,
        GuestState::Gone,
    ];

    pub(super) fn from_number(number: u8) -> GuestState {
        GuestState::ALL[number as usize]
    }

    /// The state after a step of the driver. What has ended does not begin again: a guest that
    /// is left may still be run to close its files, and that concerns no body.
    pub(super) fn after(self, step: Step) -> GuestState {
        match (self, step) {
            (_, Step::Leave) | (GuestState::Gone, _) => GuestState::Gone,
            (_, Step::End) | (GuestState::Ended, _) => GuestState::Ended,
            (GuestState::Rests | GuestState::Runs, Step::Run) => GuestState::Runs,
            (GuestState::Rests | GuestState::Runs, Step::Rest) => GuestState::Rests,
            (GuestState::Cut | GuestState::RunsOut, Step::Run) => GuestState::RunsOut,
            (_, Step::Rest | Step::Cut) => GuestState::Cut,
        }
    }

    pub(super) fn runs(self) -> bool {
        matches!(self, GuestState::Runs | GuestState::RunsOut)
    }

    pub(super) fn is_cut(self) -> bool {
        matches!(self, GuestState::Cut | GuestState::RunsOut)
    }

    pub(super) fn has_ended(self) -> bool {
        matches!(self, GuestState::Ended | GuestState::Gone)
    }
}

/// How the body of a request broke a limit, or was broken: the guest sees an error, and if it
/// gives no answer of its own, the client is told this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    TooLarge = 1,
    TooSlow,
    /// It was malformed, or ended early.
    Broken,
}

impl Verdict {
    const ALL: [Verdict; 3] = [Verdict::TooLarge, Verdict::TooSlow, Verdict::Broken];

    pub(super) fn from_number(number: u8) -> Option<Verdict> {
        Verdict::ALL.into_iter().find(|verdict| *verdict as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_has_ended_stays_as_it_ended() {
        use BodyState::{Abandoned, Open, Over, PassedOn};
        for (now, changes) in [
            (Open, &[PassedOn, Over, Abandoned][..]),
            (PassedOn, &[Over, Abandoned]),
            (Over, &[]),
            (Abandoned, &[]),
        ] {
            for next in BodyState::ALL {
                assert_eq!(now.becoming(next), changes.contains(&next).then_some(next), "{now:?} {next:?}");
            }
        }
    }

    #[test]
    fn a_guest_goes_on_to_its_end_and_never_back() {
        use GuestState::{Cut, Ended, Gone, Rests, Runs, RunsOut};
        let steps = [Step::Run, Step::Rest, Step::Cut, Step::End, Step::Leave];
        for (state, after) in [
            (Rests, [Runs, Rests, Cut, Ended, Gone]),
            (Runs, [Runs, Rests, Cut, Ended, Gone]),
            (Cut, [RunsOut, Cut, Cut, Ended, Gone]),
            (RunsOut, [RunsOut, Cut, Cut, Ended, Gone]),
            (Ended, [Ended, Ended, Ended, Ended, Gone]),
            (Gone, [Gone; 5]),
        ] {
            assert_eq!(steps.map(|step| state.after(step)), after, "{state:?}");
        }
    }

    #[test]
    fn a_state_is_its_number() {
        assert!(BodyState::ALL.iter().all(|state| BodyState::from_number(*state as u8) == *state));
        assert!(GuestState::ALL.iter().all(|state| GuestState::from_number(*state as u8) == *state));
        assert!(Verdict::ALL.iter().all(|verdict| Verdict::from_number(*verdict as u8) == Some(*verdict)));
        assert_eq!(Verdict::from_number(0), None);
    }
}
