//! A capture, as it goes out: the workers' copies as pcapng.
//!
//! Workers wake nobody for a copy. The copies are looked for here, often enough that people see no delay, and what becomes too many meanwhile is left out
//! and counted. An interface of the file is a port; it is described before its first frame.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use ipop_datapath::PortId;

use super::{control_thread::ControlThread, types::Problem};
use crate::{
    capture::{Capture, Copied, Fate, pcapng},
    run::PortNames,
};

/// How often copies are looked for.
const EVERY: Duration = Duration::from_millis(20);
/// About so many bytes go out at once.
const CHUNK_LEN: usize = 64 << 10;
/// What frames of far ends that were not admitted are seen at.
const NOT_ADMITTED: &str = "not admitted";
/// A port that went before its name was asked for.
const GONE: &str = "gone";

/// A capture that has begun.
pub(crate) struct Begun {
    /// Where the copies come.
    pub(crate) capture: Running,
    /// The ports that are there.
    pub(crate) ports: PortNames,
    /// At most so many bytes of each frame.
    pub(crate) snap_len: u32,
    /// It ends after so many frames.
    pub(crate) count: Option<u64>,
}

/// A capture that ends when this goes.
pub(crate) struct Running(pub(crate) Arc<Capture>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Tells what is captured until the caller goes, is too slow, or has as many as it wanted.
pub(super) fn answer(begun: Begun, control: ControlThread) -> Response {
    let writer = Writer::new(begun, control);
    let chunks = futures_util::stream::unfold(writer, |mut writer| async {
        let chunk = writer.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), writer))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let kind = HeaderValue::from_static("application/x-pcapng");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

struct Writer {
    begun: Begun,
    control: ControlThread,
    /// The numbers of the ports' interfaces in the file, which count from 0.
    interfaces: HashMap<Option<PortId>, u32>,
    /// Not sent yet.
    chunk: Vec<u8>,
    frames: u64,
    missed: u64,
}

impl Writer {
    fn new(begun: Begun, control: ControlThread) -> Self {
        let mut chunk = Vec::new();
        pcapng::section_header(&mut chunk);
        let interfaces = HashMap::new();
        let mut writer = Self { begun, control, interfaces, chunk, frames: 0, missed: 0 };
        let mut ports: Vec<PortId> = writer.begun.ports.keys().copied().collect();
        ports.sort_unstable();
        for port in ports {
            writer.interface_of(Some(port));
        }
        writer
    }

    /// What goes out next; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            while self.chunk.len() < CHUNK_LEN && !self.is_done() {
                let Some(copied) = self.begun.capture.0.take() else { break };
                self.write(&copied).await;
            }
            self.tell_missed();
            if !self.chunk.is_empty() {
                return Some(std::mem::take(&mut self.chunk));
            }
            if self.is_done() {
                return None;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn is_done(&self) -> bool {
        self.begun.count.is_some_and(|count| self.frames >= count)
    }

    async fn write(&mut self, copied: &Copied) {
        let from = match copied.fate {
            Fate::GoesOut { from } => from,
            Fate::CameIn | Fate::Dropped(_) => None,
        };
        for port in [copied.port, from].into_iter().flatten() {
            if !self.begun.ports.contains_key(&port) {
                self.ask_for_names(port).await;
            }
        }
        let interface = self.interface_of(copied.port);
        let comment = self.comment(copied);
        pcapng::packet(&mut self.chunk, interface, copied, &comment);
        self.frames += 1;
    }

    /// A port has come, or has gone meanwhile.
    async fn ask_for_names(&mut self, port: PortId) {
        let names: Result<PortNames, Problem> =
            self.control.ask(|switch, reply| reply.send(Ok(switch.port_names()))).await;
        self.begun.ports.extend(names.unwrap_or_default());
        self.begun.ports.entry(port).or_insert_with(|| GONE.into());
    }

    fn interface_of(&mut self, port: Option<PortId>) -> u32 {
        let next = self.interfaces.len() as u32;
        let name = port.map_or(NOT_ADMITTED, |port| name_of(&self.begun.ports, port));
        *self.interfaces.entry(port).or_insert_with(|| {
            pcapng::interface(&mut self.chunk, name, self.begun.snap_len);
            next
        })
    }

    /// What became of a frame, for people.
    fn comment(&self, copied: &Copied) -> String {
        let name = |port: Option<PortId>| port.map(|port| name_of(&self.begun.ports, port));
        let mut comment = match copied.fate {
            Fate::CameIn => "came in".to_owned(),
            Fate::GoesOut { from } => {
                let from = name(from).map(|from| format!(" from {from}")).unwrap_or_default();
                format!("forwarded{from} to {}", name(copied.port).unwrap_or(NOT_ADMITTED))
            }
            Fate::Dropped(reason) => format!("dropped: {}", reason.name()),
        };
        if copied.segment_len > 0 {
            comment += &format!(", superframe of segments of {} bytes", copied.segment_len);
        }
        comment
    }

    fn tell_missed(&mut self) {
        let missed = self.begun.capture.0.missed();
        // It stands with the first interface.
        if missed != self.missed && !self.interfaces.is_empty() {
            self.missed = missed;
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let unix_ns = now.map_or(0, |since| since.as_nanos() as u64);
            pcapng::missed(&mut self.chunk, unix_ns, missed);
        }
    }
}

fn name_of(ports: &PortNames, port: PortId) -> &str {
    ports.get(&port).map_or(GONE, String::as_str)
}
