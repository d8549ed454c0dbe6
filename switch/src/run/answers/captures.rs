//! Captures: who looks at the frames.

use std::{collections::HashMap, sync::Arc};

use ipop_datapath::{
    Observer, PortId,
    engine::Order,
    frame::{ETHERNET_HEADER_LEN, MAX_FRAME_LEN},
};

use super::super::Switch;
use crate::{
    api::{
        Begun, Running,
        types::{CaptureParams, Problem, ProblemCode},
    },
    capture::{Capture, Onlooker, Wanted},
};

/// Captures at once. Each is asked about every frame.
const MAX_CAPTURES: usize = 8;

/// Ports as people call them.
pub(crate) type PortNames = HashMap<PortId, String>;

impl Switch {
    /// `capture`
    pub(crate) fn begin_capture(&mut self, params: &CaptureParams) -> Result<Begun, Problem> {
        let port = params.port.as_deref().map(|name| self.port_named(name)).transpose()?;
        let filter = params.filter.as_deref().map(str::parse).transpose();
        let filter = filter.map_err(|error| Problem::bad_field("filter", error))?;
        let snap_len = params.snap.map_or(MAX_FRAME_LEN, |snap| snap as usize).min(MAX_FRAME_LEN);
        if snap_len < ETHERNET_HEADER_LEN {
            return Err(Problem::bad_field("snap", "it is 14 at least, an Ethernet header"));
        }
        self.end_captures();
        if self.captures.len() >= MAX_CAPTURES {
            let text = format!("{MAX_CAPTURES} captures are under way: end one first");
            return Err(Problem::new(ProblemCode::Conflict, text));
        }
        let capture = Arc::new(Capture::new(Wanted { port, filter, snap_len }));
        self.captures.push(capture.clone());
        self.show_frames();
        Ok(Begun {
            capture: Running(capture),
            ports: self.port_names(),
            snap_len: snap_len as u32,
            count: params.count,
        })
    }

    /// Has the workers look away from captures that are over.
    pub(in crate::run) fn end_captures(&mut self) {
        let before = self.captures.len();
        self.captures.retain(|capture| !capture.is_over());
        if self.captures.len() != before {
            self.show_frames();
        }
    }

    /// Every port in use, as people call it.
    pub(crate) fn port_names(&self) -> PortNames {
        self.ports_in_use().collect()
    }

    fn show_frames(&self) {
        for worker in 0..self.workers.len() {
            let onlooker = (!self.captures.is_empty()).then(|| {
                Box::new(Onlooker::new(self.captures.clone(), worker)) as Box<dyn Observer>
            });
            self.command(worker, Order::Observe(onlooker));
        }
    }
}
