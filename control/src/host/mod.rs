//! What this host says and keeps: its addresses ([`local_addresses`]), files that nobody else may read or write ([`private_file`], [`state_directory`]), and why its kernel does not send ([`refused_sends`]).

pub mod local_addresses;
pub mod private_file;
pub mod refused_sends;
pub mod state_directory;
