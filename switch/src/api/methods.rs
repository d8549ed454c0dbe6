//! Every method, once: HTTP, JSON-RPC and the description are made from this list.

use super::{
    method::{
        Method,
        Verb::{Delete, Get, Post, Put},
    },
    rights::Right,
    types::{Echo, EchoParams, Problem},
};
use crate::run::Switch;

/// Every method.
pub(super) fn all() -> Vec<Method> {
    vec![
        Method::shows_connections(
            ("status.get", Get, "/v1/status"),
            "The switch as a whole, and what is not well",
            Switch::show_status,
        ),
        Method::shows_connections(
            ("peers.list", Get, "/v1/peers"),
            "All peers",
            Switch::show_peers,
        ),
        Method::shows_connections(
            ("peers.get", Get, "/v1/peers/{peer}"),
            "One peer",
            Switch::show_peer,
        ),
        Method::changes(
            ("peers.add", Post, "/v1/peers"),
            "Adds a peer, or says that it has another address, until the switch is started again",
            Switch::add_peer,
        ),
        Method::changes(
            ("peers.remove", Delete, "/v1/peers/{peer}"),
            "Takes back that a peer was added",
            Switch::remove_peer,
        ),
        Method::asks(
            ("peers.ping", Post, "/v1/peers/{peer}/ping"),
            Right::Read,
            "Asks a peer whether it is there, through the tunnel",
            Switch::ping,
        ),
        Method::asks(
            ("trace.run", Post, "/v1/trace"),
            Right::Read,
            "What would become of a frame, here and at the peer that it goes to; nothing is sent",
            Switch::trace,
        ),
        Method::asks(
            ("messages.send", Post, "/v1/messages"),
            Right::Change,
            "Sends a message to a peer's controller, through the tunnel; answers when the peer has it",
            Switch::send_message,
        ),
        Method::shows_connections(
            ("links.list", Get, "/v1/links"),
            "All links",
            Switch::show_links,
        ),
        Method::shows_connections(
            ("links.get", Get, "/v1/links/{peer}"),
            "The link to a node",
            Switch::show_link,
        ),
        Method::changes(
            ("links.create", Post, "/v1/links"),
            "Makes a link to a node, or describes this end anew; answers with what the other end must learn. More candidates come as events",
            Switch::create_link,
        ),
        Method::changes(
            ("links.update", Put, "/v1/links/{peer}"),
            "Says what the other end of a link said, in pieces or whole",
            Switch::update_link,
        ),
        Method::changes(
            ("links.remove", Delete, "/v1/links/{peer}"),
            "Ends a link that a controller made; the node loses the right that it gave",
            Switch::remove_link,
        ),
        Method::shows_connections(
            ("links.stats", Get, "/v1/links/{peer}/stats"),
            "How a link fares",
            Switch::show_link_stats,
        ),
        Method::shows(
            ("links.candidates", Get, "/v1/links/{peer}/candidates"),
            "The candidates of both ends of a link",
            Switch::show_candidates,
        ),
        Method::shows_secrets(
            ("links.description", Get, "/v1/links/{peer}/description"),
            "What the other end of a link must learn of this one, with its password",
            Switch::show_description,
        ),
        Method::changes(
            ("ice.servers", Put, "/v1/ice/servers"),
            "Sets the STUN and TURN servers that this node asks",
            Switch::set_ice_servers,
        ),
        Method::shows(("ports.list", Get, "/v1/ports"), "All local ports", Switch::show_ports),
        Method::changes(
            ("ports.add", Post, "/v1/ports"),
            "Opens a local port, until it is removed or the switch is started again",
            Switch::add_port,
        ),
        Method::changes(
            ("ports.remove", Delete, "/v1/ports/{name}"),
            "Closes a local port; one of the configuration comes back when that is read again",
            Switch::remove_port,
        ),
        Method::changes(
            ("ports.address", Put, "/v1/ports/{name}/address"),
            "Gives a TAP an address, and makes it known on the segment",
            Switch::set_address,
        ),
        Method::shows(
            ("fdb.list", Get, "/v1/fdb"),
            "The forwarding database, or a part of it",
            Switch::show_fdb,
        ),
        Method::changes(
            ("fdb.flush", Delete, "/v1/fdb"),
            "Forgets stations: all, those of a port, or one",
            Switch::flush_fdb,
        ),
        Method::shows_connections(
            ("drops.get", Get, "/v1/drops"),
            "Frames that were dropped, by reason and port, and whether all are accounted for",
            Switch::show_drops,
        ),
        Method::shows(
            ("trust.list", Get, "/v1/trust"),
            "Who is accepted, who waits, who is denied",
            Switch::show_trust,
        ),
        Method::changes(
            ("trust.accept", Put, "/v1/trust/{node}/accept"),
            "Lets a node in",
            Switch::accept_node,
        ),
        Method::changes(
            ("trust.deny", Put, "/v1/trust/{node}/deny"),
            "Keeps a node out, whatever else would let it in",
            Switch::deny_node,
        ),
        Method::changes(
            ("trust.forget", Delete, "/v1/trust/{node}"),
            "Takes back what was decided about a node",
            Switch::forget_node,
        ),
        Method::shows(
            ("config.get", Get, "/v1/config"),
            "The configuration in force, and where each value comes from",
            Switch::show_configuration,
        ),
        Method::changes(
            ("config.reload", Post, "/v1/config/reload"),
            "Reads the configuration again, as SIGHUP does",
            Switch::reload_by_request,
        ),
        Method::changes(("log.set", Put, "/v1/log"), "Sets the level of the log", Switch::set_log),
        Method::shows(("echo", Post, "/v1/echo"), "Says the same back", echo),
    ]
}

fn echo(_: &Switch, EchoParams { message }: EchoParams) -> Result<Echo, Problem> {
    Ok(Echo { message })
}
