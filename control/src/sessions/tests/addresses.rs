//! What workers are told of where peers may come from.

use super::*;

const PORT: PortId = PortId(16);

impl Bench {
    /// The addresses by which the workers know the peer, the same in all of them, as far as they were told anew.
    fn known(&mut self, lanes: usize) -> Option<Vec<String>> {
        let told = self.take(|action| match action {
            Action::Command {
                worker,
                command: Command::Port(port, ToPort::KnowAddresses(addresses)),
            } => {
                assert_eq!(*port, PORT);
                Some((*worker, addresses.clone()))
            }
            _ => None,
        });
        let (_, addresses) = told.last()?.clone();
        let last: Vec<_> = told[told.len() - lanes..].to_vec();
        assert_eq!(last, (0..lanes).map(|worker| (worker, addresses.clone())).collect::<Vec<_>>());
        Some(addresses.iter().map(ToString::to_string).collect())
    }
}

fn some(addresses: &[&str]) -> Option<Vec<String>> {
    Some(addresses.iter().map(ToString::to_string).collect())
}

#[test]
fn configured_and_resolved_addresses_are_known_to_every_worker() {
    let mut bench = Bench::new(2, &format!("@{LISTENER}"));
    assert_eq!(bench.known(2), some(&["10.0.0.9"]));
    let mut bench = Bench::new(3, "@peer.example:5800");
    assert_eq!(bench.known(3), None);
    bench.resolve(&["10.0.0.9:5800", "[::ffff:10.0.0.9]:5800", "[2001:db8::9]:5800"]);
    assert_eq!(bench.known(3), some(&["10.0.0.9", "2001:db8::9"]));
    bench.input(Input::Resolved { peer: PEER, result: Err("no answer".into()) });
    assert_eq!(bench.known(3), None, "the answer of before counts");
    bench.input(Input::Unnamed { peer: PEER });
    assert_eq!(bench.known(3), some(&[]));
}

#[test]
fn addresses_of_paths_connections_and_of_before_are_known_as_long_as_they_are_in_use() {
    let mut bench = Bench::new(1, "");
    let named =
        |last_addresses| NamedPeer { node: PEER, port: PORT, address: None, last_addresses };
    bench.input(Input::Named(named(vec!["192.0.2.1:5800".parse().unwrap()])));
    assert_eq!(bench.known(1), some(&["192.0.2.1"]));
    let path = PeerPath::Direct("192.0.2.2:9".parse().unwrap());
    bench.input(Input::Path { peer: PEER, path });
    assert_eq!(bench.known(1), some(&["192.0.2.1", "192.0.2.2"]));
    bench.input(Input::Path { peer: PEER, path: PeerPath::Relayed });
    let connection = bench.accept(hello(0));
    assert_eq!(bench.known(1), some(&["10.0.0.9", "192.0.2.1"]));
    let moved = Event::Connection(
        connection,
        FromConnection::Moved { remote: "10.0.0.10:1".parse().unwrap() },
    );
    bench.input(Input::Event(moved));
    assert_eq!(bench.known(1), some(&["10.0.0.10", "192.0.2.1"]));
    bench.end(connection, Ended::TimedOut);
    assert_eq!(bench.known(1), some(&["192.0.2.1"]));
}

#[test]
fn aliases_are_no_addresses() {
    let mut bench = Bench::new(1, "");
    let connection = ConnectionId(1);
    bench.input(Input::Event(Event::Connection(
        connection,
        FromConnection::Connected {
            peer: PEER,
            direction: Direction::Accepted,
            remote: ipop_datapath::path::alias(PORT),
            local_ip: None,
            hello: hello(0),
            proved: Proved::KeyAlone,
        },
    )));
    assert_eq!(bench.activations(), [connection]);
    assert_eq!(bench.known(1), None);
}
