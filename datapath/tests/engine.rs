//! Workers on real sockets of the loopback: a peer over a relay, then direct, with STUN on the same port.
//!
//! Every engine runs all of it ([`on_engine`] lists the tests). Sockets that keep message boundaries stand in for TAPs.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::identity;
use crossbeam::channel::{Receiver, Sender, unbounded};
use ipop_datapath::{
    LocalPort, Observer, PortId,
    command::{
        Command, ConnectionId, ControlPacket, Event, FromConnection, FromPort, Lane, Strangers,
        ToConnection, ToPaths, ToWorker,
    },
    core::{
        CoreConfig,
        shared::{NodeFacts, Shared},
    },
    counters::drops::DropReason,
    engine::{Backend, LocalQueue, Order, TapQueue, Uring, Worker, WorkerConfig, WorkerHandle},
    frame::{FrameBytes, Offload, VNET_HEADER_LEN},
    io::{SocketKind, Sockets},
    memory::{self, Only, PEER},
    node_id::NodeId,
    os::udp::{self, UdpPort},
    path::{Path, Source, alias, channel_data},
    quic::{Congestion, TlsIdentity},
};
use ipop_learning::{MacTable, MacTableConfig};

const SOON: Duration = Duration::from_secs(30);
const WORKERS: u8 = 2;
const CHANNELS: [u16; 2] = [0x4003, 0x4004];
const DIALLED: ConnectionId = ConnectionId(1 << 55);
/// Some 25 packets before the path MTU is known.
const FRAME_LEN: usize = 30_000;

/// Runs the tests on an engine.
macro_rules! on_engine {
    ($engine:ident: $backend:ty, $(fn $test:ident();)*) => {
        mod $engine {
            $(#[test]
            fn $test() {
                super::$test::<$backend>();
            })*
        }
    };
}

on_engine! {
    uring: super::Uring,
    fn a_relayed_peer_becomes_a_direct_one_while_stun_shares_the_port();
    fn a_local_port_comes_and_goes_and_its_descriptors_with_it();
    fn an_observer_comes_and_goes_while_the_worker_runs();
    fn what_the_kernel_dropped_at_a_full_socket_is_counted_by_its_worker();
}

struct Node {
    id: NodeId,
    listen: SocketAddr,
    relay: SocketAddr,
    tap: UnixDatagram,
    workers: Vec<(WorkerHandle, JoinHandle<()>)>,
    events: Receiver<Event>,
    shared: Arc<Shared>,
}

impl Node {
    fn start<B: Backend>(identity: TlsIdentity, peer: NodeId) -> Self {
        Self::start_on::<B>(udp::listen(local(), WORKERS).unwrap(), identity, peer)
    }

    /// On listening sockets that were there before.
    fn start_on<B: Backend>(
        mut sockets: Vec<UdpPort>,
        identity: TlsIdentity,
        peer: NodeId,
    ) -> Self {
        let mut relay = Some(udp::ephemeral(local()).unwrap());
        let (tap, switch_end) = UnixDatagram::pair().unwrap();
        switch_end.set_nonblocking(true).unwrap();
        let tap_end = OwnedFd::from(switch_end);
        tap.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let (events_in, events) = unbounded();
        let handles: Vec<_> = (0..WORKERS).map(|_| WorkerHandle::new().unwrap()).collect();
        let shared = Shared::new(
            MacTable::new(MacTableConfig::default()),
            &[memory::tap(1)],
            WORKERS,
            Instant::now(),
        );
        let mut node = Self {
            id: identity.node,
            listen: sockets[0].local,
            relay: relay.as_ref().unwrap().local,
            tap,
            workers: vec![],
            events,
            shared: Arc::new(shared),
        };
        let identity = Arc::new(identity);
        for worker in 0..WORKERS {
            let own = if worker == 0 { relay.take() } else { udp::ephemeral(local()).ok() };
            let kind = if worker == 0 { SocketKind::Relay } else { SocketKind::Dial };
            let own = own.unwrap();
            let table = Sockets::new(node.listen.port()).with(kind, own.local.port());
            let config = WorkerConfig {
                core: node.core_config(worker, table, &identity, peer),
                ports: vec![(memory::tap(1), queue_of(&tap_end, worker))],
                sockets: vec![sockets.remove(0), own],
                busy_poll: Duration::ZERO,
                workers: handles.clone(),
                events: events_in.clone(),
            };
            let handle = handles[usize::from(worker)].clone();
            let thread = thread::spawn(move || Worker::<B>::new(config).unwrap().run().unwrap());
            node.workers.push((handle, thread));
        }
        node
    }

    fn core_config(
        &self,
        worker: u8,
        sockets: Sockets,
        identity: &Arc<TlsIdentity>,
        peer: NodeId,
    ) -> CoreConfig {
        CoreConfig {
            worker,
            facts: Arc::new(NodeFacts {
                node: self.id,
                instance: self.id.0[..16].try_into().unwrap(),
                probe_token: [1; 16],
                name: String::new(),
                inner_mtu: FRAME_LEN as u16,
                lanes: WORKERS,
            }),
            shared: self.shared.clone(),
            identity: identity.clone(),
            admission: Arc::new(Only(peer)),
            congestion: Congestion::Tunnel,
            sockets,
            udp_ports: vec![self.listen.port(), self.relay.port()],
            rng_seed: None,
        }
    }

    /// To the first worker.
    fn command(&self, command: Command) {
        self.workers[0].0.send(command).unwrap();
    }

    /// Waits until each worker has let go of a port.
    fn wait_for_closed(&self, closed: PortId) {
        let mut left: BTreeSet<u8> = (0..WORKERS).collect();
        while !left.is_empty() {
            let worker = self.wait_for(|event| match event {
                Event::Port(port, FromPort::Closed { worker }) if port == closed => Some(worker),
                _ => None,
            });
            assert!(left.remove(&worker), "worker {worker} has said so");
        }
    }

    /// Waits for an event that this picks.
    fn wait_for<T>(&self, pick: impl Fn(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let event = self.events.recv_deadline(deadline).expect("the event comes");
            if let Some(picked) = pick(event) {
                return picked;
            }
        }
    }

    /// Frames that came from the TAP.
    fn received(&self) -> u64 {
        self.shared.counters[0].port(memory::TAP).received_frames.get()
    }

    fn activate(&self) {
        let connection = self.wait_for(|event| match event {
            Event::Connection(connection, FromConnection::Connected { remote, .. }) => {
                assert_eq!(remote, alias(PEER));
                Some(connection)
            }
            _ => None,
        });
        self.command(Command::Connection(connection, ToConnection::Activate(PEER)));
    }

    fn shut_down(self) {
        for (handle, _) in &self.workers {
            handle.send(Command::Worker(ToWorker::Shutdown)).unwrap();
        }
        for (_, thread) in self.workers {
            thread.join().unwrap();
        }
    }
}

/// A worker's part of a local port.
fn queue_of(descriptor: &OwnedFd, worker: u8) -> LocalQueue {
    LocalQueue::Tap(TapQueue { queue: descriptor.try_clone().unwrap(), read: worker == 0 })
}

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A TURN server whose channels are bound already.
struct RelayServer {
    address: SocketAddr,
    packets: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl RelayServer {
    fn start(clients: [SocketAddr; 2]) -> Self {
        // As a worker has it: the kernel may hand several packets over at once, one behind the other.
        let UdpPort { fd, local: address, .. } = udp::ephemeral(local()).unwrap();
        let socket = UdpSocket::from(fd);
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let packets = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, stopped) = (packets.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(SeqCst) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let client = clients.iter().position(|client| *client == from).unwrap();
                let mut rest = &mut buffer[..len];
                while !rest.is_empty() {
                    let (channel, content) = channel_data::parse(rest).expect("ChannelData");
                    assert_eq!(channel, CHANNELS[client]);
                    let (packet, behind) = rest.split_at_mut(content.end);
                    packet[..2].copy_from_slice(&CHANNELS[1 - client].to_be_bytes());
                    let _ = socket.send_to(packet, clients[1 - client]);
                    counted.fetch_add(1, SeqCst);
                    rest = behind;
                }
            }
        });
        Self { address, packets, stop, thread }
    }
}

/// Sends numbered frames one after the other until each has come out at the other end.
fn exchange(from: &Node, to: &Node, frames: u8) {
    let mut received = vec![0; 70_000];
    for number in 0..frames {
        let mut frame = vec![0; VNET_HEADER_LEN];
        frame
            .extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb6]);
        frame.resize(VNET_HEADER_LEN + FRAME_LEN, number);
        let deadline = Instant::now() + SOON;
        'sent: loop {
            assert!(Instant::now() < deadline, "frame {number} never came");
            from.tap.send(&frame).unwrap();
            loop {
                match to.tap.recv(&mut received) {
                    Ok(len) if len == frame.len() && received[len - 1] == number => {
                        assert_eq!(received[VNET_HEADER_LEN..len], frame[VNET_HEADER_LEN..]);
                        break 'sent;
                    }
                    // A loop probe, or an earlier frame that was sent twice.
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

fn a_relayed_peer_becomes_a_direct_one_while_stun_shares_the_port<B: Backend>() {
    let [a, b] = [identity(), identity()];
    let [a_id, b_id] = [a.node, b.node];
    let nodes = [Node::start::<B>(a, b_id), Node::start::<B>(b, a_id)];
    let server = RelayServer::start([nodes[0].relay, nodes[1].relay]);
    let listening = [nodes[0].listen, nodes[1].listen];
    for ((node, channel), other) in nodes.iter().zip(CHANNELS).zip(listening.iter().rev()) {
        node.command(Command::Worker(ToWorker::AnswerStrangers(Strangers::Ignored)));
        // Both ways are known before either is used: what comes first would be dropped, counted.
        for source in [Source::Channel(channel), Source::Direct(*other)] {
            node.command(Command::Path(ToPaths::AddSource { source, port: PEER }));
        }
        let path = Some(Path::Relay { server: server.address, channel });
        node.command(Command::Path(ToPaths::Set { port: PEER, path }));
    }
    let (lane, remote) = (Lane(0), alias(PEER));
    nodes[0].command(Command::Connection(DIALLED, ToConnection::Dial { peer: b_id, lane, remote }));
    nodes.iter().for_each(Node::activate);
    exchange(&nodes[0], &nodes[1], 20);
    exchange(&nodes[1], &nodes[0], 20);
    assert!(server.packets.load(SeqCst) > 100);

    stun_is_answered(&nodes[1]);

    for (node, other) in [(0, 1), (1, 0)] {
        let remote = nodes[other].listen;
        let local_ip = Some(nodes[node].listen.ip());
        let path = Some(Path::Direct { remote, local_ip });
        nodes[node].command(Command::Path(ToPaths::Set { port: PEER, path }));
    }
    // What was on its way over the relay has arrived when both directions have been used.
    exchange(&nodes[0], &nodes[1], 1);
    exchange(&nodes[1], &nodes[0], 1);
    let relayed = server.packets.load(SeqCst);
    exchange(&nodes[0], &nodes[1], 20);
    exchange(&nodes[1], &nodes[0], 20);
    assert_eq!(server.packets.load(SeqCst), relayed, "packets went over the relay still");

    let message = b"candidates".to_vec();
    nodes[0].command(Command::Connection(DIALLED, ToConnection::Signal(message.clone())));
    let told = nodes[1].wait_for(|event| match event {
        Event::Connection(_, FromConnection::Signal { peer, message, .. }) => Some((peer, message)),
        _ => None,
    });
    assert_eq!(told, (a_id, message));
    for node in nodes {
        let io = &node.shared.counters[0].io;
        assert_eq!((io.path_changes.get(), io.pathless_packets.get()), (1, 0));
        assert_eq!((io.send_errors.get(), io.unmapped_packets.get()), (0, 0));
        node.shut_down();
    }
    server.stop.store(true, SeqCst);
    server.thread.join().unwrap();
}

/// A binding request reaches control through the first worker, and what control answers comes from the listening port.
fn stun_is_answered(node: &Node) {
    let client = UdpSocket::bind(local()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.extend_from_slice(&[9; 12]);
    client.send_to(&request, node.listen).unwrap();
    let (local_ip, remote) = node.wait_for(|event| match event {
        Event::Packet(ControlPacket { socket, local_ip, remote, payload }) => {
            assert_eq!((socket, payload), (SocketKind::Listen, request.clone()));
            Some((local_ip, remote))
        }
        _ => None,
    });
    assert_eq!((local_ip, remote), (Some(node.listen.ip()), client.local_addr().unwrap()));
    let of_others = &node.shared.counters[1].io.received_control_packets;
    assert_eq!(of_others.get(), 0);
    let payload = b"an answer".to_vec();
    node.command(Command::Packet(ControlPacket {
        socket: SocketKind::Listen,
        local_ip,
        remote,
        payload,
    }));
    let mut answer = [0; 100];
    let (len, from) = client.recv_from(&mut answer).unwrap();
    assert_eq!((&answer[..len], from), (&b"an answer"[..], node.listen));
}

fn a_local_port_comes_and_goes_and_its_descriptors_with_it<B: Backend>() {
    let node = Node::start::<B>(identity(), NodeId([9; 32]));
    let mut received = [0; 2_000];
    for turn in 0..3 {
        // A number that was given back may be given again.
        let local = LocalPort { port: PortId(40), ..memory::tap(2) };
        // It blocks, so that a read waits for a frame as it does at a TAP.
        let (station, switch_end) = UnixDatagram::pair().unwrap();
        station.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let descriptor = OwnedFd::from(switch_end);
        node.shared.ports.open(local.port);
        for ((worker, _), number) in node.workers.iter().zip(0..) {
            worker.send(Order::OpenPort(local, queue_of(&descriptor, number))).unwrap();
        }
        drop(descriptor);
        // Until both ports are read, there and back.
        let frame = [&[0; VNET_HEADER_LEN][..], &[0xff; 6], &[2; 6], &[0x88, 0xb6], &[turn; 46]];
        for (from, to) in [(&station, &node.tap), (&node.tap, &station)] {
            from.send(&frame.concat()).unwrap();
            let deadline = Instant::now() + SOON;
            // Before it may come a loop probe, or nothing for a while.
            while !matches!(to.recv(&mut received), Ok(len) if received[..len].ends_with(&[turn; 46]))
            {
                assert!(Instant::now() < deadline, "turn {turn}: the frame never came");
            }
        }
        node.shared.ports.close(local.port);
        for (worker, _) in &node.workers {
            worker.send(Order::ClosePort(local.port)).unwrap();
        }
        node.wait_for_closed(local.port);
        node.shared.ports.free(local.port);
        let refused = station.send(&frame.concat()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "nobody has the other end open");
    }
    node.shut_down();
}

fn what_the_kernel_dropped_at_a_full_socket_is_counted_by_its_worker<B: Backend>() {
    let sockets = udp::listen(local(), WORKERS).unwrap();
    // Nobody reads yet. The second byte says which worker a packet is for.
    let (to, packet) = (sockets[1].local, [0x41; 1_000]);
    let stranger = UdpSocket::bind(local()).unwrap();
    for _ in 0..sockets[1].receive_buffer / packet.len() {
        stranger.send_to(&packet, to).unwrap();
    }
    let dropped = udp::receive_drops(&sockets[1].fd).unwrap();
    assert!(dropped > 0);
    let node = Node::start_on::<B>(sockets, identity(), NodeId([9; 32]));
    let counted = |worker: usize| node.shared.counters[worker].io.receive_overflows.get();
    let deadline = Instant::now() + SOON;
    while counted(1) == 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!([counted(0), counted(1)], [0, dropped.into()]);
    node.shut_down();
}

/// Says which frames came in, by their last bytes.
#[derive(Debug)]
struct CameIn(Sender<u8>);

impl Observer for CameIn {
    fn came_in(&self, port: PortId, frame: &FrameBytes<'_>, offload: Offload) {
        assert_eq!((port, offload), (memory::TAP, Offload::NONE));
        self.0.send(*frame.head().last().unwrap()).unwrap();
    }

    fn goes_out(&self, _: PortId, _: &FrameBytes<'_>, _: Offload) {}

    fn dropped(&self, _: Option<PortId>, _: DropReason, _: &FrameBytes<'_>) {}
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(1));
    }
}

fn an_observer_comes_and_goes_while_the_worker_runs<B: Backend>() {
    let [own, peer] = [identity(), identity()];
    let node = Node::start::<B>(own, peer.node);
    let send = |number| {
        let before = node.received();
        let frame = [&[0; VNET_HEADER_LEN][..], &[0xff; 6], &[2; 54], &[number]].concat();
        node.tap.send(&frame).unwrap();
        wait_until(|| node.received() > before);
    };
    let order = |observer: Option<Box<dyn Observer>>| {
        node.workers[0].0.send(Order::Observe(observer)).unwrap();
    };
    send(1);
    let (first, seen_first) = unbounded();
    order(Some(Box::new(CameIn(first))));
    let (second, seen_second) = unbounded();
    // The first one is dropped when the second one is there, and the second one when there is none.
    order(Some(Box::new(CameIn(second))));
    assert!(seen_first.recv_timeout(SOON).is_err_and(|error| error.is_disconnected()));
    send(2);
    order(None);
    assert_eq!(seen_second.iter().collect::<Vec<_>>(), [2]);
    send(3);
    node.shut_down();
}
