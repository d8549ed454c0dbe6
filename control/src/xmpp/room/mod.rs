//! x
mod card; mod configuration; mod wire;
pub use card::*; pub use configuration::*; pub use wire::Affiliation;
