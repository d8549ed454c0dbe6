//! Bytes sent through the segment and compared at the other side: a stream over TCP, numbered datagrams over UDP.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use ipop_perf::lab::Host;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::SOON;

const UDP_PORT: u16 = 4100;
/// For every datagram that a test sends.
const RECEIVE_BUFFER: usize = 64 << 20;
/// What each flow sends before it counts. The kernel steers a flow to the queue of its reverse traffic, which it has to see
/// first, and neighbours have to be found.
const WARM_UP: u32 = 50;

/// Sends so many bytes over one TCP connection to the host at this address; they must arrive as they were sent, without a pause
/// longer than `limit`.
#[track_caller]
pub(crate) fn expect_bytes_cross(
    from: &Host,
    to: &Host,
    address: impl Into<IpAddr>,
    len: usize,
    limit: Duration,
) {
    let address = address.into();
    let listener = to.enter(|| TcpListener::bind((any(address), 0))).unwrap().unwrap();
    let remote = SocketAddr::new(address, listener.local_addr().unwrap().port());
    let mut sender = from.enter(|| TcpStream::connect_timeout(&remote, limit)).unwrap().unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    sender.set_write_timeout(Some(limit)).unwrap();
    receiver.set_read_timeout(Some(limit)).unwrap();
    let sent = noise(len);
    let mut received = Vec::with_capacity(len);
    thread::scope(|scope| {
        let sent = &sent;
        scope.spawn(move || sender.write_all(sent).expect("the connection takes it all"));
        receiver.read_to_end(&mut received).unwrap_or_else(|error| panic!("it stops: {error}"));
    });
    let difference = received.iter().zip(&sent).position(|(a, b)| a != b);
    assert_eq!(
        (received.len(), difference),
        (len, None),
        "length and first difference of what went from {} to {}",
        from.name(),
        to.name()
    );
}

/// Bytes without a pattern (xorshift64).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Every address of the host, of this address's family.
fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Numbered datagrams of mixed sizes from one host to another and back, over several flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    /// Flows: each has its own source port.
    pub(crate) flows: usize,
    /// Datagrams of each flow.
    pub(crate) count: u32,
    /// The largest payload, bytes; sizes run through all up to it.
    pub(crate) payload_len_max: usize,
}

/// What came of one flow: the numbers that arrived at the far side, in order of arrival, and those of their echoes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) there: Vec<u32>,
    pub(crate) back: Vec<u32>,
}

impl Numbers {
    /// Sends them at a modest pace, and gives back what arrived of each flow.
    pub(crate) fn run(self, from: &Host, to: &Host, address: impl Into<IpAddr>) -> Vec<Arrived> {
        let address = address.into();
        let bind = |host: &Host, port: u16| {
            let socket = host.enter(|| UdpSocket::bind((any(address), port))).unwrap().unwrap();
            socket.set_nonblocking(true).unwrap();
            // Whoever reads may have to wait for its turn: the socket must not be what loses datagrams.
            set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).unwrap();
            socket
        };
        let flow = |number: usize| {
            let port = UDP_PORT + number as u16;
            let (near, far) = (bind(from, 0), bind(to, port));
            near.connect((address, port)).unwrap();
            Flow { near, far, arrived: Arrived::default() }
        };
        let mut flows: Vec<_> = (0..self.flows).map(flow).collect();
        let mut buffer = vec![0; 65_535];
        self.send(&mut flows, 0..WARM_UP, &mut buffer);
        wait_for_the_last(&mut flows, WARM_UP as usize, &mut buffer);
        flows.iter_mut().for_each(|flow| flow.arrived = Arrived::default());
        self.send(&mut flows, WARM_UP..WARM_UP + self.count, &mut buffer);
        wait_for_the_last(&mut flows, self.count as usize, &mut buffer);
        flows.into_iter().map(|flow| flow.arrived).collect()
    }

    fn send(self, flows: &mut [Flow], numbers: Range<u32>, buffer: &mut [u8]) {
        for number in numbers {
            let len = 4 + (number as usize * 37) % (self.payload_len_max - 3);
            buffer[..4].copy_from_slice(&number.to_be_bytes());
            for flow in flows.iter() {
                // A full socket buffer is a loss like any other.
                let _ = flow.near.send(&buffer[..len]);
            }
            if number % 4 == 3 {
                thread::sleep(Duration::from_micros(500));
            }
            flows.iter_mut().for_each(|flow| flow.drain(buffer));
        }
    }
}

/// Until all came back, or nothing has come for a second: what was lost does not come.
fn wait_for_the_last(flows: &mut [Flow], count: usize, buffer: &mut [u8]) {
    let deadline = Instant::now() + SOON;
    let (mut back, mut quiet_since) = (0, Instant::now());
    while back < flows.len() * count
        && Instant::now() < deadline
        && quiet_since.elapsed() < Duration::from_secs(1)
    {
        thread::sleep(Duration::from_millis(1));
        flows.iter_mut().for_each(|flow| flow.drain(buffer));
        let now_back: usize = flows.iter().map(|flow| flow.arrived.back.len()).sum();
        if now_back > back {
            (back, quiet_since) = (now_back, Instant::now());
        }
    }
}

struct Flow {
    near: UdpSocket,
    far: UdpSocket,
    arrived: Arrived,
}

impl Flow {
    /// Takes what has arrived at either end; the far end sends it back.
    fn drain(&mut self, buffer: &mut [u8]) {
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        while let Ok((len, sender)) = self.far.recv_from(buffer) {
            self.arrived.there.push(number(&buffer[..len]));
            let _ = self.far.send_to(&buffer[..len], sender);
        }
        while let Ok(len) = self.near.recv(buffer) {
            self.arrived.back.push(number(&buffer[..len]));
        }
    }
}

impl Arrived {
    /// The first place where a number is not greater than the one before: overtaken, or doubled.
    pub(crate) fn disorder(&self) -> Option<[u32; 2]> {
        [&self.there, &self.back].into_iter().find_map(|numbers| {
            let pair = numbers.windows(2).find(|pair| pair[0] >= pair[1])?;
            Some([pair[0], pair[1]])
        })
    }
}
