//! The XMPP stream against a real server (Prosody), and against servers that mean harm.

mod against_hostile_servers;
mod against_prosody;
mod certificates;
mod client;
mod pins;
mod prosody;
mod proxy;
mod rooms;
mod scripted;
