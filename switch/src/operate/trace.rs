//! `trace`: what would become of a frame, stage by stage, at both ends.

use hyper::Method;

use super::Screen;
use crate::{
    api::{
        Client,
        types::{FarTrace, Trace, TraceParams, TraceVerdict},
    },
    exit::Failure,
};

pub(super) fn run(client: &Client, screen: Screen, params: &TraceParams) -> Result<(), Failure> {
    let trace: Trace = client.send(Method::POST, "/v1/trace", params)?;
    screen.show(&trace, || text(&trace))
}

fn text(trace: &Trace) -> String {
    let mut text = String::new();
    for stage in &trace.stages {
        text += &format!("{:8} {}\n", stage.stage, stage.text);
    }
    text += &verdict(&trace.verdict);
    if let Some(FarTrace { peer, verdict: said, problem }) = &trace.far {
        text += &format!("at {peer}\n");
        match (said, problem) {
            (Some(said), _) => text += &verdict(said),
            (None, problem) => {
                text += &format!("{:8} {}\n", "?", problem.as_deref().unwrap_or_default());
            }
        }
    }
    text
}

fn verdict(verdict: &TraceVerdict) -> String {
    match verdict {
        TraceVerdict::Out { ports } => format!("{:8} goes out at {}\n", "out", ports.join(", ")),
        TraceVerdict::Dropped { reason, meaning, cure } => {
            format!("{:8} {reason}: {meaning}\n{:8} cure: {cure}\n", "dropped", "")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::TraceStage;

    #[test]
    fn both_ends_are_shown() {
        let stage = TraceStage { stage: "in".into(), text: "comes in at ipop0".into() };
        let dropped = TraceVerdict::Dropped {
            reason: "blocked".into(),
            meaning: "m.".into(),
            cure: "c".into(),
        };
        let far = FarTrace { peer: "rack7".into(), verdict: Some(dropped), problem: None };
        let verdict = TraceVerdict::Out { ports: vec!["rack7".into()] };
        let trace = Trace { stages: vec![stage], verdict, far: Some(far) };
        assert_eq!(
            text(&trace),
            "in       comes in at ipop0\n\
             out      goes out at rack7\n\
             at rack7\n\
             dropped  blocked: m.\n         cure: c\n"
        );
    }
}
