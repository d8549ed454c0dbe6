//! What the rest of the program hears: the difference between what was said before and what is the case now.

use std::time::Instant;

use ipop_datapath::{
    node_id::NodeId,
    path::{Path, Source},
};

use super::{
    Candidate, CandidateKind, Ice, IceDescription, IceState, Obstacles, ServerProblem,
    agent::MAX_CANDIDATES,
};

/// Something happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IceEvent {
    /// The peer must learn this.
    LocalDescription {
        /// Whom it is for.
        peer: NodeId,
        /// This side's; its generation grows with each restart.
        description: IceDescription,
    },
    /// The peer must learn these too: candidates that are new since the last such event.
    LocalCandidates {
        /// Whom they are for.
        peer: NodeId,
        /// The generation of the description that they belong to.
        generation: u32,
        /// Best first.
        candidates: Vec<Candidate>,
    },
    /// All servers have answered or failed. More candidates may come when something changes.
    EndOfCandidates {
        /// Whom to tell.
        peer: NodeId,
        /// The generation of the description.
        generation: u32,
    },
    /// From now on packets to the peer take this path.
    Selected {
        /// To whom.
        peer: NodeId,
        /// Which.
        path: Path,
        /// What this end's candidate is.
        local: CandidateKind,
        /// What the peer's candidate is.
        remote: CandidateKind,
    },
    /// From now on packets from there are the peer's.
    SourceValid {
        /// Whose.
        peer: NodeId,
        /// From where.
        source: Source,
    },
    /// Not any more.
    SourceGone {
        /// Whose it was.
        peer: NodeId,
        /// From where.
        source: Source,
    },
    /// There was a path, and there is none now. The search goes on.
    Lost {
        /// To whom.
        peer: NodeId,
        /// Why.
        why: Obstacles,
    },
    /// No path was found in good time. The search goes on, more slowly.
    Failed {
        /// To whom.
        peer: NodeId,
        /// Why.
        why: Obstacles,
    },
    /// Something is wrong with a STUN or TURN server.
    Server(ServerProblem),
}

/// What was said about one peer.
#[derive(Debug)]
pub(super) struct Announced {
    pub(super) selected: Option<(Path, CandidateKind, CandidateKind)>,
    pub(super) sources: Vec<Source>,
    state: IceState,
    candidates: Vec<Candidate>,
    /// Candidates that were told since the description, those that are gone included.
    told: usize,
    end_of_candidates: bool,
}

impl Default for Announced {
    fn default() -> Self {
        Self {
            selected: None,
            sources: Vec::new(),
            state: IceState::Waiting,
            candidates: Vec::new(),
            told: 0,
            end_of_candidates: false,
        }
    }
}

impl Announced {
    /// A new description begins: all candidates have to be told again.
    pub(super) fn forget_candidates(&mut self) {
        self.candidates.clear();
        self.told = 0;
        self.end_of_candidates = false;
    }
}

impl Ice {
    /// Tells all peers the candidates that they do not know yet, if there is anything new at all.
    pub(super) fn announce_candidates(&mut self, now: Instant) {
        let known = (self.local_candidates(), self.is_gathered());
        if known == self.announced {
            return;
        }
        self.announced = known;
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.announce_candidates_to(now, peer);
        }
    }

    pub(super) fn announce_candidates_to(&mut self, now: Instant, peer: NodeId) {
        let candidates = self.local_candidates();
        let is_gathered = self.is_gathered();
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let generation = entry.agent.local().1;
        let announced = &mut entry.announced;
        announced.candidates.retain(|known| candidates.contains(known));
        let is_new = |candidate: &&Candidate| !announced.candidates.contains(candidate);
        let new: Vec<_> = candidates.iter().filter(is_new).copied().collect();
        if announced.told + new.len() > MAX_CANDIDATES {
            // The peer takes no more of this description: a new one tells what holds now.
            self.restart(now, peer);
            return;
        }
        if !new.is_empty() {
            announced.told += new.len();
            announced.candidates.extend_from_slice(&new);
            self.events.push_back(IceEvent::LocalCandidates { peer, generation, candidates: new });
        }
        if is_gathered && !announced.end_of_candidates {
            announced.end_of_candidates = true;
            self.events.push_back(IceEvent::EndOfCandidates { peer, generation });
        }
    }

    /// Whether all servers have answered or failed.
    pub(crate) fn is_gathered(&self) -> bool {
        self.gathering.is_done()
    }

    /// To be called whenever an agent was touched: passes on what it wants, says what is new, plans its next turn.
    pub(super) fn sync(&mut self, now: Instant, peer: NodeId) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        for remote in entry.agent.take_wanted_channels() {
            self.gathering.turn.want_channel(now, remote, &mut self.entropy);
            if self.gathering.turn.channel(now, remote).is_some() {
                entry.agent.channel_bound(now, remote);
            }
        }
        if entry.agent.take_server_doubt() {
            self.gathering.suspect(now, &mut self.entropy);
        }
        self.paced.set(peer, entry.agent.paced_checks_at());
        self.collect_turn_transmits();
        self.sync_sources(now, peer);
        self.sync_path(now, peer);
    }

    fn sync_sources(&mut self, now: Instant, peer: NodeId) {
        let Some(entry) = self.peers.get(&peer) else { return };
        let proved = entry.agent.pairs().iter().filter(|pair| pair.is_proved());
        let mut sources: Vec<Source> = Vec::new();
        // Two pairs, of an old epoch and of the new one, can have one source.
        for (_, source) in proved.filter_map(|pair| self.gathering.path_of(now, pair)) {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        let known = &entry.announced.sources;
        let is_gone = |source: &&Source| !sources.contains(source);
        let gone: Vec<_> = known.iter().filter(is_gone).copied().collect();
        let mut new: Vec<_> = sources;
        new.retain(|source| !known.contains(source));
        for source in new {
            if !self.sources.prove(peer, source) {
                self.counters.contested_sources += 1;
                continue;
            }
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.announced.sources.push(source);
            }
            self.events.push_back(IceEvent::SourceValid { peer, source });
        }
        for source in gone {
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.announced.sources.retain(|known| *known != source);
            }
            self.release_source(now, peer, source);
        }
    }

    /// `source` is not this peer's any more; those who claimed it too get another chance.
    pub(super) fn release_source(&mut self, now: Instant, peer: NodeId, source: Source) {
        let contesting = self.sources.release(source);
        self.events.push_back(IceEvent::SourceGone { peer, source });
        for contesting in contesting {
            self.sync_sources(now, contesting);
        }
    }

    fn sync_path(&mut self, now: Instant, peer: NodeId) {
        let Some(entry) = self.peers.get(&peer) else { return };
        let selected = entry.agent.selected().and_then(|pair| {
            let (path, source) = self.gathering.path_of(now, pair)?;
            let is_own = entry.announced.sources.contains(&source);
            is_own.then_some((path, pair.local_kind, pair.remote_kind))
        });
        let state = entry.agent.state();
        let before = entry.announced.state;
        let why = match state {
            IceState::Lost | IceState::Failed if before != state => Some(self.explain(entry)),
            _ => None,
        };
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        entry.announced.state = state;
        if selected.is_some() && selected != entry.announced.selected {
            entry.announced.selected = selected;
            if let Some((path, local, remote)) = selected {
                self.events.push_back(IceEvent::Selected { peer, path, local, remote });
            }
        }
        match (state, why) {
            (IceState::Lost, Some(why)) => {
                entry.announced.selected = None;
                self.events.push_back(IceEvent::Lost { peer, why });
            }
            (_, Some(why)) => self.events.push_back(IceEvent::Failed { peer, why }),
            _ => {}
        }
    }
}
