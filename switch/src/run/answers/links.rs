//! Links: the ways to nodes that a controller makes.

use std::{collections::HashMap, time::Instant};

use ipop_control::{
    ice::{
        self, IceDescription, IceState, Loopback, Outcome, PairReport, Role, Search, check_address,
    },
    node::{LinkOrder, LinkRefused},
    paths::{FromLink, ToLink, Tunnel},
    xmpp::services::{Service, ServiceKind},
};
use ipop_datapath::node_id::NodeId;

use super::super::{Connections, Switch, network};
use crate::{
    api::types::{
        Candidate, CandidateKind, CreateLink, Description, Done, EventKind, IceServers, Link,
        LinkCandidates, LinkParams, LinkState, LinkStats, Links, MoreCandidates, NoParams,
        OwnDescription, Pair, PairState, PathKind, Peer, PeerState, Problem, ProblemCode,
        UpdateLink, What,
    },
    settings::stun_server,
};

/// Servers of one kind at most, as in the configuration.
const MAX_SERVERS: usize = 8;

impl Switch {
    /// `links.create`
    pub(crate) fn create_link(&mut self, params: CreateLink) -> Result<OwnDescription, Problem> {
        if !self.finds_paths() {
            return Err(Problem::new(
                ProblemCode::Refused,
                "this switch looks for no paths: start it with --controller external, or in a network",
            ));
        }
        let peer = node_of(&params.peer)?;
        if peer == self.facts.node {
            return Err(Problem::bad_field("peer", "that is this node itself"));
        }
        let said = params.description.map(|description| read(peer, description)).transpose()?;
        self.order(peer, LinkOrder::Create)?;
        self.tell_link(peer, said, None)?;
        let search = self.searched(peer)?;
        Ok(OwnDescription { description: self.described(&search) })
    }

    /// `links.update`
    pub(crate) fn update_link(&mut self, params: UpdateLink) -> Result<Done, Problem> {
        let peer = node_of(&params.peer)?;
        if !self.node.is_controlled(peer) {
            return Err(Problem::not_found(LinkRefused::NoLink));
        }
        let said = params.description.map(|description| read(peer, description)).transpose()?;
        let more = params.more.map(read_more).transpose()?;
        self.tell_link(peer, said, more)?;
        Ok(Done { count: 1 })
    }

    /// `links.remove`
    pub(crate) fn remove_link(&mut self, params: LinkParams) -> Result<Done, Problem> {
        self.order(node_of(&params.peer)?, LinkOrder::Remove)?;
        Ok(Done { count: 1 })
    }

    /// `links.list`
    pub(crate) fn show_links(
        &self,
        connections: &Connections,
        NoParams {}: NoParams,
    ) -> Result<Links, Problem> {
        let mut nodes: Vec<NodeId> = self.node.links().collect();
        nodes.sort_unstable();
        let peers = self.all_peers(connections).into_iter();
        let mut peers: HashMap<String, Peer> =
            peers.map(|peer| (peer.node.clone(), peer)).collect();
        let links =
            nodes.into_iter().map(|node| self.link_of(node, peers.remove(&node.to_string())));
        Ok(Links { links: links.collect::<Result<_, _>>()? })
    }

    /// `links.get`
    pub(crate) fn show_link(
        &self,
        connections: &Connections,
        params: LinkParams,
    ) -> Result<Link, Problem> {
        let node = node_of(&params.peer)?;
        self.link_of(node, self.peer_with(node, connections))
    }

    /// `links.description`
    pub(crate) fn show_description(&self, params: LinkParams) -> Result<OwnDescription, Problem> {
        let search = self.searched(node_of(&params.peer)?)?;
        Ok(OwnDescription { description: self.described(&search) })
    }

    /// `links.stats`
    pub(crate) fn show_link_stats(
        &self,
        connections: &Connections,
        params: LinkParams,
    ) -> Result<LinkStats, Problem> {
        let peer = node_of(&params.peer)?;
        let pairs = self.searched(peer)?.pairs.iter().map(pair).collect();
        let tunnel = self.peer_with(peer, connections);
        Ok(LinkStats { peer: peer.to_string(), pairs, tunnel })
    }

    /// `links.candidates`
    pub(crate) fn show_candidates(&self, params: LinkParams) -> Result<LinkCandidates, Problem> {
        let peer = node_of(&params.peer)?;
        let search = self.searched(peer)?;
        Ok(LinkCandidates {
            peer: peer.to_string(),
            local: search.local.iter().map(candidate).collect(),
            gathered: search.is_gathered,
            remote: search.remote.iter().map(candidate).collect(),
        })
    }

    /// `ice.servers`
    pub(crate) fn set_ice_servers(&mut self, params: IceServers) -> Result<Done, Problem> {
        let server = |text: &str, scheme: &str| {
            stun_server(text, scheme).map_err(|why| Problem::bad_field("server", why))
        };
        let mut services = Vec::new();
        for text in &params.stun {
            let server = server(text, "stun:")?;
            let (host, port) = (server.host(), server.0.port);
            services.push(Service { kind: ServiceKind::Stun, host, port, credentials: None });
        }
        for turn in &params.turn {
            let server = server(&turn.server, "turn:")?;
            let credentials = Some((turn.username.clone(), turn.password.clone()));
            let (host, port) = (server.host(), server.0.port);
            services.push(Service { kind: ServiceKind::Turn, host, port, credentials });
        }
        if params.stun.len().max(params.turn.len()) > MAX_SERVERS {
            let text = format!("there are more than {MAX_SERVERS} servers of one kind");
            return Err(Problem::new(ProblemCode::BadParams, text));
        }
        let count = services.len() as u64;
        network::resolve(services, self.messages.clone());
        Ok(Done { count })
    }

    /// A link tells something: the controller hears it as an event.
    pub(in crate::run) fn tell_controller(&mut self, peer: NodeId, what: FromLink) {
        let name = peer.to_string();
        let (text, what) = match what {
            FromLink::Description(_) => {
                let Some(search) = self.node.search(peer) else { return };
                let description = self.described(&search);
                ("has a description", What::LinkDescription { peer: name, description })
            }
            FromLink::Candidates { generation, candidates } => {
                let candidates = candidates.iter().map(candidate).collect();
                ("has candidates", What::LinkCandidates { peer: name, generation, candidates })
            }
            FromLink::Gathered { generation } => {
                ("has all its candidates", What::LinkGathered { peer: name, generation })
            }
            FromLink::Tunnel(tunnel) => {
                let connected = tunnel == Tunnel::Up;
                let text = if connected { "has a tunnel" } else { "has no tunnel" };
                (text, What::LinkTunnel { peer: name, connected })
            }
            // The operator is told of paths too.
            FromLink::Path(_) | FromLink::NoPath { .. } => return,
        };
        self.tell_event(EventKind::Link, format!("the link to {peer} {text}"), what);
    }

    /// Has the node do something for a link, and hears whether it does.
    fn order(&mut self, peer: NodeId, order: LinkOrder) -> Result<(), Problem> {
        let done = self.node.order_link(Instant::now(), peer, order);
        self.carry_out();
        done.map_err(|why| match why {
            LinkRefused::NoLink => Problem::not_found(why),
            LinkRefused::NotAdmitted(_) => Problem::new(ProblemCode::Refused, why),
        })
    }

    /// Tells a link what its other end said.
    fn tell_link(
        &mut self,
        peer: NodeId,
        said: Option<(IceDescription, Vec<ice::Candidate>)>,
        more: Option<(u32, Vec<ice::Candidate>)>,
    ) -> Result<(), Problem> {
        let (mut words, mut candidates) = (Vec::new(), Vec::new());
        if let Some((description, with)) = said {
            candidates.push((description.generation, with));
            words.push(ToLink::Remote(description));
        }
        candidates.extend(more);
        let later = candidates.into_iter().filter(|(_, candidates)| !candidates.is_empty());
        words.extend(
            later.map(|(generation, candidates)| ToLink::RemoteCandidates {
                generation,
                candidates,
            }),
        );
        words.into_iter().try_for_each(|word| self.order(peer, LinkOrder::Tell(word)))
    }

    fn searched(&self, peer: NodeId) -> Result<Search, Problem> {
        self.node.search(peer).ok_or_else(|| Problem::not_found(LinkRefused::NoLink))
    }

    fn described(&self, search: &Search) -> Description {
        Description {
            node: self.facts.node.to_string(),
            ufrag: search.description.ufrag.clone(),
            password: search.description.password.clone(),
            generation: search.description.generation,
            candidates: search.local.iter().map(candidate).collect(),
            gathered: search.is_gathered,
        }
    }

    fn peer_with(&self, node: NodeId, connections: &Connections) -> Option<Peer> {
        let name = node.to_string();
        self.all_peers(connections).into_iter().find(|peer| peer.node == name)
    }

    fn link_of(&self, node: NodeId, peer: Option<Peer>) -> Result<Link, Problem> {
        let search = self.searched(node)?;
        Ok(Link {
            peer: node.to_string(),
            controlled: self.node.is_controlled(node),
            controlling: search.role == Role::Controlling,
            connected: peer.as_ref().is_some_and(|peer| peer.state == PeerState::Up),
            path: peer.and_then(|peer| peer.path).filter(|path| path.kind != PathKind::None),
            state: match search.state {
                IceState::Waiting => LinkState::Waiting,
                IceState::Checking => LinkState::Checking,
                IceState::Connected => LinkState::Connected,
                IceState::Lost => LinkState::Lost,
                IceState::Failed => LinkState::Failed,
            },
            pairs: search.pairs.iter().map(pair).collect(),
        })
    }
}

/// The node of this id.
pub(super) fn node_of(text: &str) -> Result<NodeId, Problem> {
    text.parse().map_err(|error| Problem::bad_field("peer", format_args!("{text:?}: {error}")))
}

/// A description as the node has it. It must be of the node that the link is to: nobody is to be mistaken for another.
fn read(peer: NodeId, said: Description) -> Result<(IceDescription, Vec<ice::Candidate>), Problem> {
    if node_of(&said.node)? != peer {
        return Err(Problem::bad_field(
            "description.node",
            format_args!("the description is that of node {}, not of {peer}", said.node),
        ));
    }
    let Description { ufrag, password, generation, candidates, .. } = said;
    let description = IceDescription { ufrag, password, generation };
    if !description.is_sound() {
        return Err(Problem::bad_field(
            "description.ufrag",
            "ufrag takes 4 to 256 letters, digits, + and /, password 22 to 256 (RFC 8839)",
        ));
    }
    Ok((description, read_all(&candidates)?))
}

fn read_more(said: MoreCandidates) -> Result<(u32, Vec<ice::Candidate>), Problem> {
    Ok((said.generation, read_all(&said.candidates)?))
}

fn read_all(said: &[Candidate]) -> Result<Vec<ice::Candidate>, Problem> {
    if said.len() > ice::MAX_CANDIDATES {
        let text = format!("there are more than {} candidates", ice::MAX_CANDIDATES);
        return Err(Problem::bad_field("candidates", text));
    }
    let one = |(index, said): (usize, &Candidate)| {
        read_candidate(said).map_err(|why| Problem::bad_field(&format!("candidates[{index}]"), why))
    };
    said.iter().enumerate().map(one).collect()
}

fn read_candidate(said: &Candidate) -> Result<ice::Candidate, String> {
    let wrong = |text: &str| format!("{text:?} is not ADDRESS:PORT");
    let address = said.address.parse().map_err(|_| wrong(&said.address))?;
    check_address(address, Loopback::Refused).map_err(|why| format!("{address}: {why}"))?;
    if said.priority == 0 {
        return Err("a priority is at least 1".into());
    }
    let related = said.related.as_deref();
    let related = related.map(|text| text.parse().map_err(|_| wrong(text))).transpose()?;
    Ok(ice::Candidate {
        kind: match said.kind {
            CandidateKind::Host => ice::CandidateKind::Host,
            CandidateKind::Srflx => ice::CandidateKind::ServerReflexive,
            CandidateKind::Prflx => ice::CandidateKind::PeerReflexive,
            CandidateKind::Relay => ice::CandidateKind::Relayed,
        },
        address,
        related,
        priority: said.priority,
    })
}

fn candidate(candidate: &ice::Candidate) -> Candidate {
    Candidate {
        kind: kind(candidate.kind),
        address: candidate.address.to_string(),
        related: candidate.related.map(|address| address.to_string()),
        priority: candidate.priority,
    }
}

fn kind(kind: ice::CandidateKind) -> CandidateKind {
    match kind {
        ice::CandidateKind::Host => CandidateKind::Host,
        ice::CandidateKind::ServerReflexive => CandidateKind::Srflx,
        ice::CandidateKind::PeerReflexive => CandidateKind::Prflx,
        ice::CandidateKind::Relayed => CandidateKind::Relay,
    }
}

fn pair(report: &PairReport) -> Pair {
    Pair {
        local: kind(report.local),
        remote_address: report.remote_address.to_string(),
        remote: kind(report.remote),
        state: match report.outcome {
            Outcome::Waiting => PairState::Waiting,
            Outcome::InProgress => PairState::InProgress,
            Outcome::Succeeded => PairState::Succeeded,
            Outcome::Failed => PairState::Failed,
        },
        selected: report.is_selected,
        kind: if report.is_relayed { PathKind::Relayed } else { PathKind::Direct },
        mutual: report.is_mutual,
        priority: report.priority,
        rtt_us: report.rtt.map(|rtt| rtt.as_micros() as u64),
        checks_sent: report.checks_sent,
        checks_answered: report.checks_answered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId([byte; 32])
    }

    fn said(by: u8) -> Description {
        Description {
            node: node(by).to_string(),
            ufrag: "abcd".into(),
            password: "p".repeat(22),
            generation: 3,
            candidates: vec![Candidate {
                kind: CandidateKind::Srflx,
                address: "198.51.100.7:5800".into(),
                related: None,
                priority: 7,
            }],
            gathered: true,
        }
    }

    #[test]
    fn a_description_is_taken_for_the_node_that_it_names_and_no_other_one() {
        let (description, candidates) = read(node(1), said(1)).unwrap();
        assert_eq!((description.generation, candidates.len()), (3, 1));
        assert_eq!(candidate(&candidates[0]), said(1).candidates[0]);
        let field = |description| read(node(1), description).unwrap_err().field;
        assert_eq!(field(said(2)).as_deref(), Some("description.node"));
        let weak = Description { password: "short".into(), ..said(1) };
        assert_eq!(field(weak).as_deref(), Some("description.ufrag"));
    }

    #[test]
    fn a_candidate_is_one_that_a_peer_can_have() {
        let good = said(1).candidates[0].clone();
        for address in ["127.0.0.1:5", "0.0.0.0:5", "198.51.100.7:0", "[100::5]:7", "x", "1.2.3.4"]
        {
            let bad = Candidate { address: address.into(), ..good.clone() };
            let problem = read_all(&[good.clone(), bad]).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some("candidates[1]"), "{address}");
        }
        assert!(read_all(&[Candidate { priority: 0, ..good.clone() }]).is_err());
        assert!(read_all(&vec![good; ice::MAX_CANDIDATES + 1]).is_err());
    }
}
