//! The XMPP stream against real servers (Prosody, ejabberd), and against servers that mean harm.

mod against_ejabberd;
mod against_hostile_servers;
mod against_prosody;
mod binding;
mod certificates;
mod client;
mod ejabberd;
mod pins;
mod prosody;
mod proxy;
mod rooms;
mod scripted;
