use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::{Message, ResponseCode},
        rr::{Name, Record},
    },
};

use super::*;

const DIRECT: &str = "_xmpps-client._tcp.example.org.";
const STARTTLS: &str = "_xmpp-client._tcp.example.org.";

fn record(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
    SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())
}

/// A name server that answers with these records, and that there is no such name otherwise.
async fn name_server(zone: HashMap<&'static str, Vec<SRV>>) -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let Ok(query) = Message::from_vec(&buffer[..len]) else { continue };
            let question = query.queries[0].name().clone();
            let mut answer = query.into_response();
            match zone.get(question.to_ascii().as_str()) {
                Some(records) => {
                    let records = records.iter().map(|srv| {
                        Record::from_rdata(question.clone(), 60, RData::SRV(srv.clone()))
                    });
                    answer.add_answers(records);
                }
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
        }
    });
    address
}

async fn look_up(zone: HashMap<&'static str, Vec<SRV>>) -> Result<Vec<Endpoint>, Failure> {
    let address = name_server(zone).await;
    let mut connection = ConnectionConfig::udp();
    connection.port = address.port();
    let server = NameServerConfig::new(address.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .build()
        .unwrap();
    discovered("example.org", &resolver, &mut Rng::new(1)).await
}

fn texts(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|endpoint| format!("{:?} {}", endpoint.mode, endpoint.server)).collect()
}

#[tokio::test]
async fn both_kinds_of_record_are_one_list_by_priority() {
    let zone = HashMap::from([
        (DIRECT, vec![record(5, 0, 443, "a.example.org."), record(20, 0, 5223, "c.example.org.")]),
        (STARTTLS, vec![record(10, 0, 5222, "b.example.org.")]),
    ]);
    let expected =
        ["Direct a.example.org:443", "StartTls b.example.org:5222", "Direct c.example.org:5223"];
    assert_eq!(texts(&look_up(zone).await.unwrap()), expected);
}

#[tokio::test]
async fn a_domain_without_records_is_its_own_server() {
    let expected =
        ["StartTls example.org:5222", "Direct example.org:5223", "Direct example.org:443"];
    assert_eq!(texts(&look_up(HashMap::new()).await.unwrap()), expected);
}

#[tokio::test]
async fn a_target_of_a_dot_offers_nothing() {
    let dot = || vec![record(0, 0, 5222, ".")];
    let only_starttls =
        HashMap::from([(DIRECT, dot()), (STARTTLS, vec![record(0, 0, 5222, "b.example.org.")])]);
    assert_eq!(texts(&look_up(only_starttls).await.unwrap()), ["StartTls b.example.org:5222"]);
    for refusing in
        [HashMap::from([(STARTTLS, dot())]), HashMap::from([(DIRECT, dot()), (STARTTLS, dot())])]
    {
        let failure = look_up(refusing).await.unwrap_err();
        assert!(
            matches!(&failure, Failure::NotOffered { domain } if domain == "example.org"),
            "{failure}"
        );
    }
}

#[test]
fn weights_are_proportions_within_a_priority() {
    let service = |weight, port| Service {
        priority: 1,
        weight,
        endpoint: Endpoint { server: ServerAddress { host: "h".into(), port }, mode: Mode::Direct },
    };
    let mut random = Rng::new(3);
    let mut firsts = HashMap::<u16, usize>::new();
    for _ in 0..1_000 {
        let order = ordered(vec![service(0, 1), service(10, 2), service(30, 3)], &mut random);
        assert_eq!(order.len(), 3);
        *firsts.entry(order[0].server.port).or_default() += 1;
    }
    assert!(
        !firsts.contains_key(&1),
        "weight 0 comes first only if there is nothing else: {firsts:?}"
    );
    assert!((150..350).contains(&firsts[&2]), "{firsts:?}");
    assert_eq!(ordered(vec![service(0, 1), service(0, 2)], &mut random).len(), 2);
}

#[test]
fn a_configured_address_is_tried_both_ways() {
    let modes = |text: &str| {
        configured(&text.parse().unwrap()).iter().map(|endpoint| endpoint.mode).collect::<Vec<_>>()
    };
    assert_eq!(modes("h:5222"), [Mode::StartTls, Mode::Direct]);
    for other in ["h:5223", "h:443", "h:15222"] {
        assert_eq!(modes(other), [Mode::Direct, Mode::StartTls]);
    }
}
