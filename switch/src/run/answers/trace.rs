//! What would become of a frame, here and at the peer that it goes to.

use std::time::Instant;

use data_encoding::HEXLOWER_PERMISSIVE;
use ipop_control::questions::{Answer, Question, Verdict};
use ipop_datapath::{
    PortId,
    counters::drops::DropReason,
    node_id::NodeId,
    trace::{self, Fate, Stage, Surroundings},
};
use ipop_learning::{MacAddr, VlanId};

use super::{super::Switch, fdb::mac_of};
use crate::api::{
    Reply,
    types::{FarTrace, Problem, Trace, TraceParams, TraceStage, TraceVerdict},
};

/// Of a frame that stands for any between two stations: EtherType 0x88B5 is for experiments (IEEE 802).
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
const PAYLOAD_LEN: usize = 46;
/// The longest frame that is traced, bytes.
const MAX_FRAME: usize = 65_557;

impl Switch {
    /// `trace.run`
    pub(crate) fn trace(&mut self, params: TraceParams, reply: Reply<Trace>) {
        match self.near_trace(&params) {
            Ok((near, Some(peer))) => self.far_trace(near, peer, reply),
            Ok((near, None)) => reply.send(Ok(near)),
            Err(problem) => reply.send(Err(problem)),
        }
    }

    /// The way through this switch, and the question for the one peer that the frame goes to.
    fn near_trace(
        &self,
        params: &TraceParams,
    ) -> Result<(Trace, Option<(NodeId, Question)>), Problem> {
        let frame = frame_of(params)?;
        let source = mac_of("source", &params.source)?;
        let port = match &params.port {
            Some(name) => self.port_named(name)?,
            None => self.home_of(source)?,
        };
        let way = self.trace_frame(&frame, port);
        let stages = way.stages.iter().map(|stage| self.stage(stage)).collect();
        let ports = match way.fate {
            Fate::Dropped(reason) => {
                let verdict = dropped(reason.name());
                return Ok((Trace { stages, verdict, far: None }, None));
            }
            Fate::Out(ports) => ports,
        };
        let names = ports.iter().map(|port| self.named(*port)).collect();
        let near = Trace { stages, verdict: TraceVerdict::Out { ports: names }, far: None };
        let peer = match ports.as_slice() {
            [port] => self.node.sessions().who_has(*port).map(|who| who.node),
            _ => None,
        };
        let destination = mac_of("destination", &params.destination)?;
        Ok((near, peer.map(|peer| (peer, Question::Trace { source, destination }))))
    }

    /// Asks the peer, and answers with what it says, or why it does not.
    fn far_trace(
        &mut self,
        near: Trace,
        (peer, question): (NodeId, Question),
        reply: Reply<Trace>,
    ) {
        let name = self.node.sessions().port_of(peer).map(|port| self.named(port));
        let name = name.unwrap_or_else(|| peer.to_string());
        self.ask_for(&peer.to_string(), &question, move |_, said| {
            let (verdict, problem) = match said {
                Ok((Answer::Traced(verdict), _)) => (Some(read(verdict)), None),
                Ok(_) => (None, Some("it answered something else".into())),
                Err(problem) => (None, Some(problem.message)),
            };
            reply.send(Ok(Trace { far: Some(FarTrace { peer: name, verdict, problem }), ..near }));
        });
    }

    /// What would become here of a frame that came from a peer.
    pub(in crate::run) fn far_verdict(
        &self,
        peer: NodeId,
        source: MacAddr,
        destination: MacAddr,
    ) -> Verdict {
        let Some(port) = self.node.sessions().port_of(peer) else {
            return Verdict::Dropped(DropReason::NotAdmitted.name().into());
        };
        match self.trace_frame(&frame_between(source, destination), port).fate {
            Fate::Dropped(reason) => Verdict::Dropped(reason.name().into()),
            Fate::Out(ports) => {
                let names: Vec<String> = ports.iter().map(|port| self.named(*port)).collect();
                match names.as_slice() {
                    [name] => Verdict::Out(name.clone()),
                    names => Verdict::Flooded(names.join(", ")),
                }
            }
        }
    }

    fn trace_frame(&self, frame: &[u8], port: PortId) -> trace::Trace {
        let around = Surroundings {
            facts: &self.facts,
            shared: &self.shared,
            local: &self.devices.local_ports(),
            udp_ports: &self.devices.udp_ports(),
            now_s: self.shared.now_s(Instant::now()),
        };
        trace::trace(frame, port, around)
    }

    /// Where a station was heard last; the only local port, if there is one, for who was never heard.
    fn home_of(&self, source: MacAddr) -> Result<PortId, Problem> {
        let now_s = self.shared.now_s(Instant::now());
        if let Some(port) = self.shared.fdb.look_up(VlanId(0), source, now_s) {
            return Ok(port);
        }
        match self.devices.taps.as_slice() {
            [only] => Ok(only.port),
            _ => Err(Problem::bad_field(
                "port",
                format_args!("{source} was not heard here, so say at which port it comes in"),
            )),
        }
    }

    fn named(&self, port: PortId) -> String {
        self.name_of_port(port).unwrap_or_else(|| format!("port {}", port.0))
    }

    fn stage(&self, stage: &Stage) -> TraceStage {
        let (name, text) = match *stage {
            Stage::In(port) => ("in", format!("comes in at {}", self.named(port))),
            Stage::Checked => ("check", "is a frame that may go on".into()),
            Stage::Learned { source, moves_from: None } => {
                ("learn", format!("{source} is known there, or learned"))
            }
            Stage::Learned { source, moves_from: Some(from) } => {
                ("learn", format!("{source} moves there from {}", self.named(from)))
            }
            Stage::Found(port) => {
                ("look_up", format!("is for a station behind {}", self.named(port)))
            }
            Stage::Flooded { is_group: true } => ("flood", "is for everybody".into()),
            Stage::Flooded { is_group: false } => {
                ("flood", "nobody knows its destination: it is flooded".into())
            }
        };
        TraceStage { stage: name.into(), text }
    }
}

fn read(verdict: Verdict) -> TraceVerdict {
    match verdict {
        Verdict::Out(port) => TraceVerdict::Out { ports: vec![port] },
        Verdict::Flooded(ports) => {
            TraceVerdict::Out { ports: ports.split(", ").map(Into::into).collect() }
        }
        Verdict::Dropped(reason) => dropped(&reason),
    }
}

/// A reason that another version made up has no words here.
fn dropped(reason: &str) -> TraceVerdict {
    let known = DropReason::ALL.iter().find(|known| known.name() == reason);
    TraceVerdict::Dropped {
        reason: reason.into(),
        meaning: known.map_or("", |known| known.meaning()).into(),
        cure: known.map_or("", |known| known.cure()).into(),
    }
}

/// The frame that is meant.
fn frame_of(params: &TraceParams) -> Result<Vec<u8>, Problem> {
    let source = mac_of("source", &params.source)?;
    let destination = mac_of("destination", &params.destination)?;
    let Some(text) = &params.frame else { return Ok(frame_between(source, destination)) };
    let frame = HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .map_err(|error| Problem::bad_field("frame", format_args!("no hexadecimal: {error}")))?;
    if frame.len() > MAX_FRAME {
        return Err(Problem::bad_field("frame", format_args!("longer than {MAX_FRAME} bytes")));
    }
    if !frame.starts_with(&[destination.0, source.0].concat()) {
        return Err(Problem::bad_field("frame", "it is not from the source to the destination"));
    }
    Ok(frame)
}

fn frame_between(source: MacAddr, destination: MacAddr) -> Vec<u8> {
    [&destination.0[..], &source.0, &ETHER_TYPE, &[0; PAYLOAD_LEN]].concat()
}
